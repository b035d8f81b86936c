"""Rows of a store: the features, captions and measures of videos while they are decoded."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from generation.encode import decode_ahead, provenance
from generation.encode.recipe import Recipe
from generation.encode.reporting import DecodingBar, warn
from gvvad_jax.store import annotations
from gvvad_jax.store.format import Row
from gvvad_jax.store.writer import StoreWriter

if TYPE_CHECKING:
    from generation.prompts.descriptions import Description


def encode_videos(
    writer: StoreWriter,
    videos: Sequence[annotations.VideoAnnotation],
    recipe: Recipe,
    descriptions: "Mapping[str, Description]",
    digest_by_id: Mapping[str, str],
    *,
    progress: bool = False,
) -> Iterator[None]:
    """Encodes videos, or quarantines unreadable ones; yields after each.

    Args:
      writer: writer of the store.
      videos: the videos to encode.
      recipe: how to encode them.
      descriptions: descriptions of generated videos by video id.
      digest_by_id: result of provenance.video_digests.
      progress: whether to show the progress within each video on a terminal.
    """
    dtypes = {getattr(m, "dtype", None) for m in (recipe.encoder, recipe.captioner)} - {None}
    if dtypes:
        provenance.add_notes(writer.path, computed_in=list(dtypes))
    bar = DecodingBar(enabled=progress)
    messages = decode_ahead.Source(writer.videos, recipe, bar=bar).messages(videos)
    alive = decode_ahead.VIDEOS_ALIVE if recipe.whole_video else decode_ahead.CHUNKS_ALIVE
    rows = None
    with (
        contextlib.closing(bar),
        contextlib.closing(decode_ahead.ahead(messages, alive)) as decoded,
    ):
        for message in decoded:
            if isinstance(message, decode_ahead.Unreadable):
                writer.quarantine(message.video.id, message.reason)
                yield
                continue
            # A new plan for the same video restarts it.
            if rows is None or rows.plan is not message.plan:
                rows = _VideoRows(recipe, message.plan)
            if isinstance(message, decode_ahead.Chunk):
                rows.add(message)
            else:
                video_id = message.plan.video.id
                rows.finish(writer, message, descriptions.get(video_id), digest_by_id[video_id])
                yield
            del message  # Frees its frames before the next message arrives.


class _VideoRows:
    """The rows of one video, which grow chunk by chunk.

    Args:
      recipe: how to encode.
      plan: the video's plan.
    """

    def __init__(self, recipe: Recipe, plan: decode_ahead.DecodePlan):
        self.plan, self._recipe = plan, recipe
        self._visual: list[np.ndarray] = []
        self._captions: list[str] = []
        self._failed = False

    def add(self, chunk: decode_ahead.Chunk) -> None:
        """Encodes the next chunk."""
        if self._failed:
            return
        if chunk.pictures:
            self._caption(self._recipe.captioner.caption_snippets, chunk.pictures)
        if not self._recipe.encoder.whole_video:
            visual_TxNxD = self._recipe.encoder.encode_snippets(chunk.prepared)
            # Converted now, because a long video has many rows.
            self._visual.append(visual_TxNxD.astype(self._recipe.dtype, copy=False))

    def finish(
        self,
        writer: StoreWriter,
        ending: decode_ahead.Ending,
        description: "Description | None",
        digest: str,
    ) -> None:
        """Writes the video's rows; a video whose captions failed is left out and tried again.

        Args:
          writer: writer of the store.
          ending: the last message about the video.
          description: the description that the video was generated from, if any.
          digest: digest of the video, see provenance.video_digests.
        """
        recipe, plan = self._recipe, self.plan
        whole_video = ending.frames_FxHxWx3, plan.spans_Tx2, plan.rate
        if recipe.uses_descriptions:
            self._captions = [description.phrase] * len(plan.spans_Tx2)
        elif recipe.captioner is not None and recipe.captioner.whole_video:
            self._caption(recipe.captioner.captions, *whole_video)
        if self._failed:
            return
        text_TxE = None if recipe.captioner is None else recipe.text_encoder(self._captions)
        feature_statistics = None
        if recipe.encoder.whole_video:
            visual_TxNxD = recipe.encoder.encode_video(*whole_video)
        else:
            visual_TxNxD = np.concatenate(self._visual)
            consistency = recipe.encoder.consistency(ending.probes)
            feature_statistics = {"consistency": round(consistency, 6)}
        for fault in ending.faults:
            warn(plan.video.id, fault)
        generated_from = {}
        if description is not None:
            names = ("description", "twin", "seed")
            generated_from = {name: getattr(description, name) for name in names}
        row = Row(
            id=plan.video.id,
            num_snippets=len(plan.spans_Tx2),
            num_frames=plan.num_frames,
            fps=plan.fps,
            source=recipe.source,
            declared_frames=ending.declared_frames,
            decoded_frames=plan.num_frames,
            pixel_statistics=ending.pixel_statistics,
            feature_statistics=feature_statistics,
            made_of=digest,
            **generated_from,
        )
        writer.add(row, visual_TxNxD, text_TxE)

    def _caption(self, caption: Callable[..., list[str]], *arguments: Any) -> None:
        from generation.chat import client

        try:
            self._captions += caption(*arguments)
        except Exception as error:
            # A failed request affects only this video; a wrong key would affect every video.
            if not any(isinstance(e, client.Failed) for e in (error, error.__cause__)):
                raise
            self._failed = True
            warn(self.plan.video.id, f"not encoded: {error}")
