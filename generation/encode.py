"""Videos -> feature store.

    python -m generation.encode --videos=videos.json --encoder=motion --out=STORE
    RANK=1 WORLD_SIZE=2 python -m generation.encode ...          # one of several ranks

Each video is read, resampled by the fps policy, cut into snippets and encoded; beside its features
go a caption's text row a snippet and the pixel measures that the filter judges. A video is the unit
of resuming: killed anywhere, the same command goes on and ends with the same bytes. Videos that
can't be read, or only in part, are named at the end and never silently absent.
"""

import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tqdm
from absl import flags

from generation import text_bank
from gvvad_jax import annotations, store
from gvvad_jax.store import UserError, run_command

CAPTIONERS = ("rules", "none")
TEXT_ENCODERS = ("hashed",)
# Motion is cheap enough to look often; CLIP's is the published protocol, end to end.
DEFAULT_STRIDES = {"motion": 4, "clip-l14": 16}


class VisualEncoder(Protocol):
    """Frames to features; see generation/encoders.py."""

    id: str
    dim: int
    manifest: Mapping[str, Any]  # {id, weights, pooling, normalised, standardise}
    crops: Mapping[str, Any]  # {count, order}

    def encode_video(
        self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float
    ) -> np.ndarray:
        """float32 [T, crops, dim]."""
        ...


class Captioner(Protocol):
    """Pixels to one sentence a snippet; nothing but pixels and their rate goes in."""

    id: str

    def captions(
        self, frames_FxHxWx3: np.ndarray, spans_Tx2: np.ndarray, fps: float
    ) -> list[str]: ...


class TextEmbedder(Protocol):
    """Sentences to vectors."""

    id: str
    dim: int
    normalised: bool

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """float32 [len(texts), dim]."""
        ...


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
    captioner: Captioner | None = None
    text_embedder: TextEmbedder | None = None
    bank: str = "ucf_crime"
    source: str = "real"

    def manifest(self) -> store.Manifest:
        text = None
        if self.captioner is not None:
            text = {
                "encoder": self.text_embedder.id,
                "dim": self.text_embedder.dim,
                "normalised": self.text_embedder.normalised,
                "captioner": self.captioner.id,
            }
        return store.Manifest(
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


def encode(
    videos_path: str | os.PathLike,
    out: str | os.PathLike,
    recipe: Recipe,
    *,
    prompts_path: str | os.PathLike | None = None,
    progress: bool = True,
) -> bool:
    """Encodes the videos of a videos.json into a store, resuming what is there.

    Ranks (RANK, WORLD_SIZE) share the videos; the one that finishes last packs the store.

    Args:
      videos_path: the videos.json.
      out: the store's folder.
      recipe: how to encode.
      prompts_path: prompts.jsonl of generated videos: description, twin and seed of the record
        with a video's id go into its row.
      progress: a bar on standard error; what is wrong with videos is told in any case.

    Returns:
      Whether the store is finished; False while other ranks' videos are missing.

    Raises:
      UserError: a listed file is missing, no video is readable, a video's rate isn't known, or
        `out` holds a store of another making.
    """
    videos = annotations.load(videos_path)
    _require_files(videos)
    made_from = _descriptions(prompts_path)
    writer = store.Writer(out, recipe.manifest(), videos)
    if recipe.captioner is not None:
        _write_bank(writer.path, recipe)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    mine = list(videos.videos.values())[rank::world_size]
    for video in tqdm.tqdm(mine, "encode", disable=not progress, unit="video"):
        if not writer.has(video.id):
            _encode_into(writer, video, recipe, made_from.get(video.id, {}))
    if not writer.pack():
        print(f"{out}: waiting for the videos of other ranks", file=sys.stderr)
        return False
    _tell(store.Store(out))
    return True


def _require_files(videos: annotations.Annotations) -> None:
    missing = [v.file for v in videos.videos.values() if not videos.resolve(v).exists()]
    if missing:
        raise UserError(
            f"{videos.path}: expected {len(videos.videos)} files, found {len(missing)} of them "
            f"missing, {missing[0]!r} first; fetch them or remove their entries"
        )


def _descriptions(prompts_path: str | os.PathLike | None) -> dict[str, dict[str, Any]]:
    """{description, twin, seed} by video id."""
    if prompts_path is None:
        return {}
    from generation import prompts

    return {
        record.id: {"description": record.description, "twin": record.twin, "seed": record.seed}
        for record in prompts.load(prompts_path)
    }


def _encode_into(
    writer: store.Writer,
    video: annotations.VideoAnnotation,
    recipe: Recipe,
    made_from: Mapping[str, Any],
) -> None:
    """One video from file to part, or to quarantine."""
    from generation import filter as video_filter
    from generation import video_io

    path = writer.videos.resolve(video)
    try:
        decoded = video_io.read(path)
    except UserError as error:
        # As the list names it: a store doesn't depend on where its videos lay.
        writer.quarantine(video.id, str(error).replace(str(path), video.file))
        return
    fps = decoded.fps or video.fps
    if not fps:
        raise UserError(
            f"{writer.videos.path}: video {video.id!r}: expected fps, found it neither in "
            f"{video.file} nor here; add it to the entry"
        )
    frames_FxHxWx3, rate = _resample(decoded.frames_TxHxWx3, fps, recipe.fps_policy)
    spans_Tx2 = annotations.snippet_spans(
        len(frames_FxHxWx3), recipe.snippet_frames, recipe.snippet_stride
    )
    text_TxE = None
    if recipe.captioner is not None:
        captions = recipe.captioner.captions(frames_FxHxWx3, spans_Tx2, rate)
        text_TxE = recipe.text_embedder(captions)
    statistics = video_filter.pixel_statistics(
        decoded.frames_TxHxWx3, fps, declared_frames=decoded.declared_frames
    )
    row = store.Row(
        id=video.id,
        num_snippets=len(spans_Tx2),
        num_frames=len(decoded.frames_TxHxWx3),
        fps=fps,
        source=recipe.source,
        declared_frames=decoded.declared_frames,
        decoded_frames=len(decoded.frames_TxHxWx3),
        pixel_statistics=statistics,
        **made_from,
    )
    writer.add(row, recipe.encoder.encode_video(frames_FxHxWx3, spans_Tx2, rate), text_TxE)


def _resample(
    frames_FxHxWx3: np.ndarray, fps: float, policy: float | str
) -> tuple[np.ndarray, float]:
    """(frames, frames per second) as the fps policy wants them."""
    if policy == "native":
        return frames_FxHxWx3, fps
    chosen = annotations.resampled_frames(len(frames_FxHxWx3), fps, float(policy))
    return frames_FxHxWx3[chosen], float(policy)


def _write_bank(path: pathlib.Path, recipe: Recipe) -> None:
    """bank.npy [K, E] and bank.json beside the manifest, for training to find."""
    prompts = text_bank.prompt_bank(recipe.bank)
    bank_KxE = recipe.text_embedder([prompt.phrase for prompt in prompts])
    text_bank.save_bank(path, recipe.bank, prompts, recipe.text_embedder.id, bank_KxE)


def _tell(finished: store.Store) -> None:
    """Names every video that isn't what its container or videos.json promised."""
    for video_id, reason in finished.quarantined.items():
        print(f"warning: {video_id}: not encoded: {reason}", file=sys.stderr)
    for row in finished.rows.values():
        for fault in _broken_promises(row, finished.videos.videos[row.id]):
            print(f"warning: {row.id}: {fault}", file=sys.stderr)
    if not finished.rows:
        raise UserError(
            f"{finished.path}: expected at least one readable video, found none among "
            f"{len(finished.quarantined)}; correct the files, remove this folder and encode again"
        )


def _broken_promises(row: store.Row, video: annotations.VideoAnnotation) -> list[str]:
    faults = []
    if row.declared_frames and row.decoded_frames != row.declared_frames:
        faults.append(
            f"the file declares {row.declared_frames} frames, {row.decoded_frames} could be decoded"
        )
    if video.num_frames is not None and video.num_frames != row.num_frames:
        faults.append(f"videos.json says {video.num_frames} frames, the file has {row.num_frames}")
    # Containers round rates such as 29.97.
    if video.fps is not None and abs(video.fps - row.fps) > 0.01 * row.fps:
        faults.append(f"videos.json says {video.fps:g} fps, the file {row.fps:g}, which is used")
    return faults


def make_captioner(name: str, text_encoder: str) -> tuple[Captioner | None, TextEmbedder | None]:
    """The captioner and text embedder of these names; (None, None) for "none"."""
    if name == "none":
        return None, None
    from generation.captions import MotionCaptioner

    if name not in CAPTIONERS or text_encoder not in TEXT_ENCODERS:
        raise UserError(
            f"--captioner, --text_encoder: expected {', '.join(CAPTIONERS)} and "
            f"{', '.join(TEXT_ENCODERS)}, found {name!r} and {text_encoder!r}"
        )
    return MotionCaptioner(), text_bank.HashedTextEmbedder()


def parse_fps_policy(text: str) -> float | str:
    """ "native", or a positive number of frames per second; raises UserError."""
    if text == "native":
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise UserError(f"--fps_policy: expected native or frames per second, found {text!r}")
    return rate


def main(_) -> None:
    if not _VIDEOS.value or not _OUT.value:
        raise UserError("--videos, --out: expected a videos.json and a folder, found none of one")
    import cv2

    from generation import encoders

    # Ranks are the parallelism; their threads would only get in each other's way.
    cv2.setNumThreads(1)
    captioner, text_embedder = make_captioner(_CAPTIONER.value, _TEXT_ENCODER.value)
    recipe = Recipe(
        encoder=encoders.make_encoder(
            _ENCODER.value, pooling=_POOLING.value, weights=_WEIGHTS.value
        ),
        snippet_frames=_SNIPPET_FRAMES.value,
        snippet_stride=_SNIPPET_STRIDE.value or DEFAULT_STRIDES[_ENCODER.value],
        fps_policy=parse_fps_policy(_FPS_POLICY.value),
        dtype=_DTYPE.value,
        captioner=captioner,
        text_embedder=text_embedder,
        source=_SOURCE.value,
    )
    finished = encode(_VIDEOS.value, _OUT.value, recipe, prompts_path=_PROMPTS.value)
    summary = {"out": _OUT.value, "finished": finished}
    print(json.dumps(summary | (store.Store(_OUT.value).summary() if finished else {})))


if __name__ == "__main__":
    _VIDEOS = flags.DEFINE_string("videos", None, "The videos.json to encode.")
    _OUT = flags.DEFINE_string("out", None, "Folder of the store.")
    _ENCODER = flags.DEFINE_enum("encoder", "motion", list(DEFAULT_STRIDES), "Visual encoder.")
    _WEIGHTS = flags.DEFINE_string("weights", "", "Of clip-l14: another checkpoint or its folder.")
    _POOLING = flags.DEFINE_enum("pooling", "mean", ["mean", "middle"], "Frames to a snippet.")
    _SNIPPET_FRAMES = flags.DEFINE_integer("snippet_frames", 16, "Frames a snippet.", 1)
    _SNIPPET_STRIDE = flags.DEFINE_integer(
        "snippet_stride", None, f"Frames from one start to the next; {DEFAULT_STRIDES}.", 1
    )
    _FPS_POLICY = flags.DEFINE_string(
        "fps_policy", "native", "native, or frames per second that videos are resampled to."
    )
    _DTYPE = flags.DEFINE_enum("dtype", "float32", store.DTYPES, "Of the rows.")
    _CAPTIONER = flags.DEFINE_enum("captioner", "rules", CAPTIONERS, "Text rows; none without.")
    _TEXT_ENCODER = flags.DEFINE_enum("text_encoder", "hashed", TEXT_ENCODERS, "Embeds captions.")
    _SOURCE = flags.DEFINE_enum("source", "real", store.SOURCES, "Where the videos come from.")
    _PROMPTS = flags.DEFINE_string("prompts", None, "prompts.jsonl of generated videos.")
    run_command(main, usage=__doc__)
