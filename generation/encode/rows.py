"""Rows of a store: the features, captions and measures of videos while they are decoded."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from generation.encode import decode_ahead, provenance
from generation.encode.recipe import Recipe
from generation.encode.reporting import DecodingBar, warn
from gvvad_jax.command import UserError
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
    rows = None
    with (
        contextlib.closing(bar),
        contextlib.closing(decode_ahead.ahead(messages, decode_ahead.CHUNKS_ALIVE)) as decoded,
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
                rows.finish(writer, message, descriptions.get(rows.plan.video.id), digest_by_id)
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
        # Why the video can't be encoded, and whether it is tried again when the command is.
        self._failure: Exception | None = None
        self._again = False

    @contextlib.contextmanager
    def _failing_alone(self) -> Iterator[None]:
        """Keeps what goes wrong with this video from ending the run."""
        try:
            yield
        except Exception as error:
            from generation.chat import client

            self._failure = error
            # What a server didn't answer today, it may answer tomorrow.
            failed = (error, error.__cause__)
            self._again = any(isinstance(e, client.Failed) for e in failed)
            # A wrong key or a format that overflows would affect every video.
            if isinstance(error, UserError) and not self._again:
                raise

    def add(self, chunk: decode_ahead.Chunk) -> None:
        """Encodes the next chunk."""
        if self._failure is not None:
            return
        with self._failing_alone():
            if self.plan.captions is not None:
                self._captions += self.plan.captions.take(chunk.captions)
            # Converted now, because a long video has many rows.
            dtype = self._recipe.dtype
            self._visual += [
                row_NxD.astype(dtype, copy=False)
                for row_NxD in self.plan.features.take(chunk.features)
            ]

    def finish(
        self,
        writer: StoreWriter,
        ending: decode_ahead.Ending,
        description: "Description | None",
        digest_by_id: Mapping[str, str],
    ) -> None:
        """Writes the video's rows, or why there are none.

        A video that a server didn't caption is left out, to be tried again; others that fail are
        quarantined.

        Args:
          writer: writer of the store.
          ending: the last message about the video.
          description: the description that the video was generated from, if any.
          digest_by_id: result of provenance.video_digests.
        """
        video_id = self.plan.video.id
        if self._failure is None:
            with self._failing_alone():
                rows = self._stacked(ending, description, digest_by_id[video_id])
        if self._failure is None:
            for fault in ending.faults:
                warn(video_id, fault)
            writer.add(*rows)
        elif self._again:
            warn(video_id, f"not encoded: {self._failure}")
        else:
            writer.quarantine(video_id, decode_ahead.reason(self._failure))

    def _stacked(
        self, ending: decode_ahead.Ending, description: "Description | None", digest: str
    ) -> tuple[Row, np.ndarray, np.ndarray | None]:
        """Returns the video's line, visual rows and text rows."""
        recipe, plan = self._recipe, self.plan
        text_TxE = None
        if recipe.uses_descriptions:
            self._captions = [description.phrase] * len(plan.spans_Tx2)
        if recipe.captioner is not None:
            text_TxE = recipe.text_encoder(self._captions)
        feature_statistics = None
        if ending.probes:
            consistency = recipe.encoder.consistency(ending.probes)
            feature_statistics = {"consistency": round(consistency, 6)}
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
            decoded_frames=ending.decoded_frames,
            pixel_statistics=ending.pixel_statistics,
            feature_statistics=feature_statistics,
            made_of=digest,
            **generated_from,
        )
        visual_TxNxD = np.stack(self._visual)
        self._visual.clear()
        return row, visual_TxNxD, text_TxE
