"""The parts of a store that is being written: one video each, whole or not at all. numpy only."""

import dataclasses
import io
import json
import pathlib

import msgspec
import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from gvvad_jax.store.files import Json, as_type, load_array, read_json, write_atomically
from gvvad_jax.store.format import Quarantined, Row

_SUFFIXES = {"visual": ".npy", "text": ".text.npy"}


class Parts:
    """The folder of parts: rows of some videos, and why others have none.

    Args:
      folder: the folder, which may not exist.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def _path(self, video_id: str, suffix: str = ".json") -> pathlib.Path:
        return (self.folder / digests.of_text(video_id)[:32]).with_suffix(suffix)

    def exist(self) -> bool:
        """Returns whether there is such a folder: the store is unfinished."""
        return self.folder.exists()

    def __contains__(self, video_id: str) -> bool:
        return self._path(video_id).exists()

    def read(self, video_id: str) -> Row | Quarantined | None:
        """Returns what is known of a video; None if nothing is, or a damaged part was removed."""
        path = self._path(video_id)
        if not path.exists():
            return None
        try:
            content = read_json(path)
            is_row = not isinstance(content, dict) or "reason" not in content
            entry = Row.from_json(content) if is_row else as_type(Quarantined)(content)
            if entry.id == video_id:
                return entry
        except ValueError:  # A UserError is one, too.
            pass
        self.drop(video_id)
        return None

    def drop(self, video_id: str) -> None:
        """Removes a video's part: its rows are made again."""
        self._path(video_id).unlink(missing_ok=True)

    def write(self, row: Row, visual_TxNxD: np.ndarray, text_TxE: np.ndarray | None) -> None:
        """Writes a video's line and rows."""
        # Removed first: killed halfway, its old line must not stand for new rows.
        self.drop(row.id)
        write_atomically(self._path(row.id, _SUFFIXES["visual"]), _npy(visual_TxNxD))
        if text_TxE is not None:
            write_atomically(self._path(row.id, _SUFFIXES["text"]), _npy(text_TxE))
        # Written last: it is the sign of a whole part.
        write_atomically(self._path(row.id), _json(dataclasses.asdict(row)))

    def quarantine(self, entry: Quarantined) -> None:
        """Writes why a video has no rows."""
        write_atomically(self._path(entry.id), _json(msgspec.to_builtins(entry)))

    def rows(self, row: Row, kind: str) -> np.ndarray:
        """Returns a video's rows, visual or text; raises UserError if they can't be read."""
        try:
            return load_array(self._path(row.id, _SUFFIXES[kind]), f"{kind} rows")
        except UserError as error:
            raise self.damaged(row.id, str(error)) from error

    def damaged(self, video_id: str, found: str) -> UserError:
        """Removes a damaged part; returns the error that says so."""
        self.drop(video_id)
        return UserError(
            f"{self.folder}: expected whole rows of video {video_id!r}, found them damaged "
            f"({found}); run the same command again, it makes them again"
        )


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _json(content: Json) -> bytes:
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()
