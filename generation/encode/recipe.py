"""How a store's rows are computed: options, which are plain values, and the models they name."""

import dataclasses
import os
from typing import Any

from generation import ranks
from generation.encoders.families import FAMILIES
from generation.encoders.options import CaptionOptions, TextOptions, VisualOptions
from generation.encoders.protocols import Captioner, StandIn, TextEncoder, VisualEncoder
from gvvad_jax.command import UserError, group, settled
from gvvad_jax.store import digests
from gvvad_jax.store.format import DTYPES, SOURCES, Manifest

# Motion is cheap enough for overlapping snippets; others don't overlap, as in published work.
DEFAULT_STRIDES = {"motion": 4} | dict.fromkeys(FAMILIES, 16)
SNIPPETS = group("Snippets")
ROWS = group("Data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything apart from a video that its rows depend on.

    Attributes:
      encoder: encoder of the visual rows.
      snippet_frames, snippet_stride: length and distance of snippets in frames after resampling.
      fps_policy: "native", or the frames per second to which videos are resampled.
      video_fps: frames per second of all videos, whatever their list or files say; None: theirs.
      dtype: number format of the rows, float16 or float32.
      captioner: captioner of the text rows; None for a store without text.
      text_encoder: encoder of captions and prompt bank; required with a captioner.
      bank: name of the prompt bank that is written beside the manifest.
      source: "real" or "synthetic".
    """

    encoder: VisualEncoder
    snippet_frames: int
    snippet_stride: int
    fps_policy: float | str = "native"
    video_fps: float | None = None
    dtype: str = "float32"
    captioner: Captioner | StandIn | None = None
    text_encoder: TextEncoder | None = None
    bank: str = "ucf_crime"
    source: str = "real"

    @property
    def uses_descriptions(self) -> bool:
        """Whether text rows come from the phrases that the videos were generated from."""
        return isinstance(self.captioner, StandIn)

    @property
    def pixel_captioner(self) -> Captioner | None:
        """The captioner if it looks at pixels, else None."""
        return None if isinstance(self.captioner, StandIn) else self.captioner

    def manifest(self) -> Manifest:
        """Returns the manifest of stores made by this recipe."""
        text = None
        if self.captioner is not None:
            text = {
                "encoder": self.text_encoder.id,
                "dim": self.text_encoder.dim,
                "normalised": self.text_encoder.normalised,
                "captioner": self.captioner.id,
            }
        return Manifest(
            encoder=dict(self.encoder.manifest),
            dim=self.encoder.dim,
            crops=dict(self.encoder.crops),
            snippet={
                "frames": self.snippet_frames,
                "stride": self.snippet_stride,
                "pooling": self.encoder.manifest["pooling"],
            },
            fps_policy=self.fps_policy,
            dtype=self.dtype,
            text=text,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeOptions(VisualOptions, CaptionOptions, TextOptions):
    """A recipe in plain values, which can be sent to other processes that load the models."""

    source: str = ROWS("real", "Source of the videos.", choices=SOURCES)
    dtype: str = ROWS("float32", "Number format of the rows.", choices=DTYPES)
    snippet_frames: int = SNIPPETS(16, "Frames per snippet.", low=1)
    snippet_stride: int | None = SNIPPETS(
        None,
        "Frames from the start of one snippet to the start of the next (default: "
        "4 for motion, 16 for the others).",
        low=1,
    )
    fps_policy: str = SNIPPETS(
        "native", "Frame rate before cutting snippets: native, or frames per second to resample to."
    )
    video_fps: float | None = SNIPPETS(
        None,
        "Frames per second of all videos, whatever their list or files say (default: the list's, "
        "else the file's).",
        low=0.01,
        high=1000,
    )

    def __post_init__(self):
        super().__post_init__()
        parse_fps_policy(self.fps_policy)
        for flag, value, choice, choices in (
            ("weights", self.weights, self.encoder, tuple(FAMILIES)),
            ("caption_weights", self.caption_weights, self.captioner, ("git", "blip")),
        ):
            if value and choice not in choices:
                raise UserError(
                    f"--{flag}: expected {' or '.join(choices)} to load it, found {choice}, which "
                    "has no weights; give another, or leave it out"
                )

    @property
    def stride(self) -> int:
        """Frames from the start of one snippet to the start of the next."""
        return self.snippet_stride or DEFAULT_STRIDES[self.encoder]

    @property
    def needs_torch(self) -> bool:
        """Whether any of the models runs in PyTorch."""
        encodes_text = self.captioner != "none" and self.text_encoder != "hashed"
        return self.encoder != "motion" or self.captioner in ("git", "blip") or encodes_text

    def recipe(self, out: str | os.PathLike = "store") -> Recipe:
        """Loads the models, except the visual encoder's weights, which are read when needed.

        Args:
          out: the store's folder; without --cache, a chat server's answers are kept beside it.

        Raises:
          UserError: options do not fit together, or weights cannot be loaded.
        """
        from generation.encoders import captions, text, visual

        device = self.device or (ranks.this_ranks_device() if self.needs_torch else "")
        options = dataclasses.replace(self.with_cache(out), device=device)
        encoder = visual.make_encoder(options)
        captioner = captions.make_captioner(options)
        return Recipe(
            encoder=encoder,
            snippet_frames=self.snippet_frames,
            snippet_stride=self.stride,
            fps_policy=parse_fps_policy(self.fps_policy),
            video_fps=self.video_fps,
            dtype=self.dtype,
            captioner=captioner,
            text_encoder=None if captioner is None else text.make_text_encoder(options),
            bank=self.bank,
            source=self.source,
        )

    def fingerprint(self) -> dict[str, Any]:
        """Identifies everything that shapes a row, without loading models.

        Returns:
          {options: a digest; weights: a digest by field, None for checkpoints that are missing;
          names: their names by field, which only count for missing ones}.
        """
        from generation.encoders import pretrained

        settings = {
            "weights": pretrained.IMAGES,
            "caption_weights": pretrained.CAPTIONS,
            "text_weights": pretrained.TEXTS,
        }
        values = settled(self)
        checkpoints = self._checkpoints()
        # Content counts, not where it lies or what it is called.
        values |= dict.fromkeys(checkpoints, "")
        values["snippet_stride"] = self.stride
        return {
            "options": digests.of_json(values),
            "weights": {
                key: pretrained.known_digest(name, settings[key])
                for key, name in checkpoints.items()
            },
            "names": {key: pretrained.name_of(name) for key, name in checkpoints.items()},
        }

    def _checkpoints(self) -> dict[str, str]:
        """Returns the name or folder of each checkpoint that is used, by field."""
        from generation.encoders import captions, text

        used = {}
        if self.encoder in FAMILIES:
            used["weights"] = self.weights or FAMILIES[self.encoder].weights
        if self.captioner in captions.DEFAULT_WEIGHTS:
            default = captions.DEFAULT_WEIGHTS[self.captioner]
            used["caption_weights"] = self.caption_weights or default
        if self.captioner != "none" and self.text_encoder in text.DEFAULT_WEIGHTS:
            default = text.DEFAULT_WEIGHTS[self.text_encoder]
            used["text_weights"] = self.text_weights or default
        return used


def parse_fps_policy(text: str) -> float | str:
    """Returns "native" or a frame rate up to 1000; raises UserError for other texts."""
    if text == "native":
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1000:
        raise UserError(
            f"--fps_policy: expected native or up to 1000 frames per second, found {text!r}; "
            "correct the flag"
        )
    return rate
