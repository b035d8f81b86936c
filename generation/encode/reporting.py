"""Warnings about videos, and the progress of decoding, on standard error."""

import sys

import tqdm

from gvvad_jax.command import Interrupted
from gvvad_jax.store import annotations
from gvvad_jax.store.format import Row
from gvvad_jax.store.reader import Store


class DecodingBar:
    """A second progress bar with the share of the current video's frames that are decoded.

    It is shown only if standard error is a terminal.

    Args:
      enabled: whether to show it at all.
    """

    def __init__(self, *, enabled: bool):
        # tqdm takes None for "only on a terminal".
        self._bar = tqdm.tqdm(
            position=1, leave=False, unit="frame", disable=None if enabled else True
        )

    def start(self, video_id: str) -> None:
        """Begins a video."""
        self._bar.set_description(f"decoding {video_id}", refresh=False)
        self._bar.reset()

    def update(self, decoded: int, total: int) -> None:
        """Shows the number of frames decoded so far, of `total`, 0 if unknown."""
        self._bar.total = total or None
        self._bar.update(decoded - self._bar.n)

    def close(self) -> None:
        """Removes the bar."""
        self._bar.close()


def warn(video_id: str, fault: str) -> None:
    """Prints a warning about a video above the progress bars."""
    tqdm.tqdm.write(f"warning: {video_id}: {fault}", file=sys.stderr)


def report_faults(store: Store) -> None:
    """Warns of every video that differs from what its container or videos.json declares.

    Raises:
      Interrupted: no video could be encoded.
    """
    for video_id, reason in store.quarantined.items():
        warn(video_id, f"not encoded: {reason}")
    for row in store.rows.values():
        for fault in _contradictions(row, store.videos.videos[row.id]):
            warn(row.id, fault)
    if not store.rows:
        raise Interrupted(
            f"{store.path}: expected at least one readable video, found none among "
            f"{len(store.quarantined)}; correct the files, remove this folder and encode again"
        )


def _contradictions(row: Row, video: annotations.VideoAnnotation) -> list[str]:
    faults = []
    if row.declared_frames and row.decoded_frames != row.declared_frames:
        faults.append(
            f"the file declares {row.declared_frames} frames, {row.decoded_frames} could be decoded"
        )
    return faults + annotations.contradictions(video, row.num_frames, row.fps)
