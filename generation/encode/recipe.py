"""What a store's rows are made with: options, which are plain values, and the models they name."""

import dataclasses
import os
from typing import Any

from generation import ranks
from generation.chat.options import ChatOptions
from generation.encoders import banks
from generation.encoders.protocols import Captioner, StandIn, TextEmbedder, VisualEncoder
from generation.ranks import DEVICE
from gvvad_jax.command import UserError, option, settled
from gvvad_jax.store import digests
from gvvad_jax.store.format import DTYPES, SOURCES, STAND_IN, Manifest

# Motion is cheap enough to look often; CLIP's is the published protocol, end to end.
DEFAULT_STRIDES = {"motion": 4, "clip-l14": 16}
_CAPTIONERS = ("rules", "git", "blip", "chat", STAND_IN, "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that a video's rows depend on, beside the video.

    Attributes:
      encoder: of the visual rows.
      snippet_frames, snippet_stride: at the policy's rate.
      fps_policy: "native", or the frames per second that videos are resampled to.
      dtype: of the rows, float16 or float32.
      captioner: of the text rows; None for a store without text.
      text_embedder: of captions and prompt bank; needed where there is a captioner.
      bank: name of the prompt bank that goes beside the manifest.
      source: real or synthetic.
    """

    encoder: VisualEncoder
    snippet_frames: int
    snippet_stride: int
    fps_policy: float | str = "native"
    dtype: str = "float32"
    captioner: Captioner | StandIn | None = None
    text_embedder: TextEmbedder | None = None
    bank: str = "ucf_crime"
    source: str = "real"

    @property
    def describes(self) -> bool:
        """Whether the text rows are of the phrases that the videos were generated from."""
        return isinstance(self.captioner, StandIn)

    @property
    def captioner_of_snippets(self) -> Captioner | None:
        """The captioner, where it works snippet by snippet."""
        if self.captioner is None or self.describes or self.captioner.whole_video:
            return None
        return self.captioner

    @property
    def whole_video(self) -> bool:
        """Whether somebody wants all frames of a video at once."""
        captions_whole = self.captioner is not None and self.captioner.whole_video
        return self.encoder.whole_video or captions_whole

    def manifest(self) -> Manifest:
        text = None
        if self.captioner is not None:
            text = {
                "encoder": self.text_embedder.id,
                "dim": self.text_embedder.dim,
                "normalised": self.text_embedder.normalised,
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
class EncodeOptions(ChatOptions):
    """A recipe in plain values: it can go to other processes, which load the models themselves."""

    encoder: str = option("motion", "visual encoder", choices=tuple(DEFAULT_STRIDES))
    weights: str = option("", "clip-l14: another CLIP checkpoint's name, or its folder")
    pooling: str = option("mean", "frames to a snippet", choices=("mean", "middle"))
    crops: str = option("", "clip-l14: centre, ten or whole; centre unless told")
    resize: int | None = option(None, "crops=ten: short side that they are cut from; 256", low=1)
    snippet_frames: int = option(16, "frames a snippet", low=1)
    snippet_stride: int | None = option(
        None, f"frames from one start to the next; {DEFAULT_STRIDES} unless told", low=1
    )
    fps_policy: str = option("native", "native, or frames per second to resample to")
    dtype: str = option("float32", "of the rows", choices=DTYPES)
    source: str = option("real", "where the videos come from", choices=SOURCES)
    captioner: str = option(
        "rules", "text rows; rules takes whole videos into memory", choices=_CAPTIONERS
    )
    caption_weights: str = option("", "git, blip: another checkpoint's name, or its folder")
    text_encoder: str = option("hashed", "embeds captions: hashed, simcse, clip-l14, transformer")
    text_weights: str = option("", "another checkpoint's name, or its folder")
    bank: str = option("ucf_crime", "anomaly prompts", choices=banks.BANKS)
    compute_dtype: str = option(
        "",
        "clip-l14, git and blip compute in float32, float16 or bfloat16; float16 on a GPU unless "
        "told",
        free=True,
    )
    crops_at_once: int = option(64, "clip-l14: crops through the model at once", low=1, free=True)
    device: str = DEVICE

    def __post_init__(self):
        super().__post_init__()
        parse_fps_policy(self.fps_policy)
        for name, user, users in (
            ("weights", self.encoder, ("clip-l14",)),
            ("caption_weights", self.captioner, ("git", "blip")),
        ):
            if getattr(self, name) and user not in users:
                raise UserError(
                    f"--{name}: expected {' or '.join(users)} to load it, found {user}, which has "
                    "no weights; give another, or leave it out"
                )

    @property
    def stride(self) -> int:
        return self.snippet_stride or DEFAULT_STRIDES[self.encoder]

    def recipe(self, out: str | os.PathLike = "store") -> Recipe:
        """Loads the models, all but CLIP's weights, which are read when they are needed.

        Args:
          out: the store's folder; beside it lie a chat server's answers unless `cache` is told.

        Raises:
          UserError: a name or combination that doesn't exist, weights that can't be loaded.
        """
        from generation.encoders.visual import make_encoder

        device = self.device or (ranks.this_ranks_device() if self.needs_torch else None)
        chat = self.with_cache(out) if self.captioner == "chat" else None
        clip = {
            "weights": self.weights,
            "resize": self.resize,
            "dtype": self.compute_dtype,
            "batch_size": self.crops_at_once,
            "device": device,
        }
        encoder = make_encoder(self.encoder, pooling=self.pooling, crops=self.crops, **clip)
        captioner, text_embedder = make_captioner(
            self.captioner,
            self.text_encoder,
            caption_weights=self.caption_weights,
            text_weights=self.text_weights,
            device=device,
            dtype=self.compute_dtype or None,
            chat=chat,
        )
        return Recipe(
            encoder=encoder,
            snippet_frames=self.snippet_frames,
            snippet_stride=self.stride,
            fps_policy=parse_fps_policy(self.fps_policy),
            dtype=self.dtype,
            captioner=captioner,
            text_embedder=text_embedder,
            bank=self.bank,
            source=self.source,
        )

    def fingerprint(self) -> dict[str, Any]:
        """What shapes a row, without loading anything.

        Returns:
          {options, a hash; weights, digest by field, None where a checkpoint isn't here}.
        """
        from generation.encoders import pretrained

        values = settled(self)
        checkpoints = self._checkpoints()
        for key in ("weights", "caption_weights", "text_weights"):
            # A store doesn't depend on where weights lay.
            values[key] = pretrained.name_of(checkpoints.get(key, values[key]))
        values["snippet_stride"] = self.stride
        return {
            "options": digests.of_json(values),
            "weights": {k: pretrained.known_digest(name) for k, name in checkpoints.items()},
        }

    def _checkpoints(self) -> dict[str, str]:
        """The name or folder of each checkpoint that is used, by field."""
        from generation.encoders import captions
        from generation.encoders import clip as encoders_clip
        from generation.encoders import text as encoders_text

        used = {}
        if self.encoder == "clip-l14":
            used["weights"] = self.weights or encoders_clip.DEFAULT_WEIGHTS
        if self.captioner in captions.DEFAULT_WEIGHTS:
            used["caption_weights"] = (
                self.caption_weights or captions.DEFAULT_WEIGHTS[self.captioner]
            )
        if self.captioner != "none" and self.text_encoder in encoders_text.DEFAULT_WEIGHTS:
            used["text_weights"] = (
                self.text_weights or encoders_text.DEFAULT_WEIGHTS[self.text_encoder]
            )
        return used

    @property
    def needs_torch(self) -> bool:
        embeds = self.captioner != "none" and self.text_encoder != "hashed"
        return self.encoder != "motion" or self.captioner in ("git", "blip") or embeds


def make_captioner(
    name: str, text_encoder: str, *, text_weights: str = "", caption_weights: str = "", **settings
) -> tuple[Captioner | StandIn | None, TextEmbedder | None]:
    """The captioner and text embedder of these names; (None, None) for "none".

    Args:
      name: one of captions.CAPTIONERS, or "description".
      text_encoder: one of text_encoders.TEXT_ENCODERS.
      text_weights, caption_weights: other checkpoints' names or folders.
      **settings: device, of both; dtype and chat, see captions.make_captioner.

    Raises:
      UserError: an unknown name, weights that can't be loaded.
    """
    if name == "none":
        return None, None
    from generation.encoders import captions
    from generation.encoders import text as encoders_text

    if name == STAND_IN:
        captioner = StandIn()
    else:
        captioner = captions.make_captioner(name, weights=caption_weights, **settings)
    device = settings.get("device")
    return captioner, encoders_text.make_text_encoder(
        text_encoder, weights=text_weights, device=device
    )


def parse_fps_policy(text: str) -> float | str:
    """ "native", or a number of frames per second up to 1000; raises UserError."""
    if text == "native":
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1000:
        raise UserError(
            f"--fps_policy: expected native or up to 1000 frames per second, found {text!r}; "
            "correct it"
        )
    return rate
