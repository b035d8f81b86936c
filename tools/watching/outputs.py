"""What is written about a video: NAME.html, .json, .csv and pictures; and events.jsonl for all."""

import csv
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gvvad_jax import events
from gvvad_jax.command import UserError
from gvvad_jax.events import Event
from gvvad_jax.store import folders
from gvvad_jax.store.files import read_json_as, write_atomically, write_json

KIND = "scored videos"
# Rises with every change of what is written, so that older outputs are written again.
VERSION = 1
EVENTS = "events.jsonl"


class Summary(msgspec.Struct):
    """What is read again of NAME.json.

    Attributes:
      video: its name.
      place: tells where the file lay, see sources.VideoFile.
      made_of: digest of all that its outputs depend on.
      files: files that belong to it, below the folder.
      events: its events.
    """

    video: str
    place: str
    made_of: str
    files: list[str]
    events: list[dict[str, Any]]


class Folder:
    """The folder of --out.

    Args:
      out: the folder; it is claimed, and must be empty or one of this command.
    """

    def __init__(self, out: str | os.PathLike[str]):
        self.path = folders.claim(out, KIND)
        folders.clear_litter(self.path)
        folders.clear_litter(self.path, "*.files/.*.partial*")
        self._known: dict[str, Summary] = {}
        for path in sorted(self.path.glob("*.json")):
            summary = _read(path)
            if summary is not None and summary.video == path.stem:
                self._known[summary.video] = summary

    @property
    def places(self) -> dict[str, str]:
        """The place of the video by each name that is taken, in lower case."""
        return {name.casefold(): summary.place for name, summary in self._known.items()}

    def has(self, name: str, made_of: str) -> bool:
        """Tells whether a video's outputs are there, made of the same."""
        known = self._known.get(name)
        if known is None or known.made_of != made_of:
            return False
        return all((self.path / file).is_file() for file in known.files)

    def events_of(self, name: str) -> int:
        """Returns how many events a video has."""
        return len(self._known[name].events)

    def begin(self, name: str) -> pathlib.Path:
        """Returns an empty folder for a video's pictures, and forgets what was written before.

        Raises:
          UserError: it is a link, which might lead out of the folder.
        """
        self.discard(name)
        folder = self.path / f"{name}.files"
        if folder.is_symlink():
            raise UserError(f"{folder}: expected a folder, found a link; remove it")
        folder.mkdir(exist_ok=True)
        for path in folder.iterdir():
            if not path.is_dir() or path.is_symlink():
                path.unlink()
        return folder

    def discard(self, name: str) -> None:
        """Forgets a video's outputs: its .json, which comes last, says that they are whole."""
        (self.path / f"{name}.json").unlink(missing_ok=True)
        if self._known.pop(name, None):
            self.write_events()

    def finish(self, name: str, page: str, content: Mapping[str, Any]) -> None:
        """Writes a video's page, CSV and JSON, and the events of all.

        Args:
          name: the video's name.
          page: its page.
          content: the content of its JSON; `files` are those that lie in its folder.
        """
        write_atomically(self.path / f"{name}.html", page.encode())
        write_atomically(self.path / f"{name}.csv", to_csv(content["events"]).encode())
        files = [f"{name}.html", f"{name}.csv", *content["files"]]
        write_json(self.path / f"{name}.json", {**content, "files": files})
        self._known[name] = Summary(
            video=name,
            place=content["place"],
            made_of=content["made_of"],
            files=files,
            events=list(content["events"]),
        )
        folder = self.path / f"{name}.files"
        if not any(folder.iterdir()):
            folder.rmdir()
        self.write_events()

    def write_events(self) -> None:
        """Writes the events of all videos, in the order of their names."""
        lines = [
            json.dumps(event) + "\n"
            for _, summary in sorted(self._known.items())
            for event in summary.events
        ]
        write_atomically(self.path / EVENTS, "".join(lines).encode())


def _read(path: pathlib.Path) -> Summary | None:
    """Reads a video's JSON; None for a damaged one, or one of another version."""
    try:
        return read_json_as(path, Summary, "the scores of a video", "it is written again")
    except UserError:
        return None


def to_csv(found: Sequence[Mapping[str, Any]]) -> str:
    """Returns events as CSV, with their names in the first line; None is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(events.COLUMNS)
    for event in found:
        writer.writerow(["" if event[c] is None else str(event[c]) for c in events.COLUMNS])
    return text.getvalue()


def file_name(event: Event, number: int) -> str:
    """Returns the name of an event's files without their endings."""
    minutes, seconds = divmod(int(event.start), 60)
    return f"event-{number + 1:03d}-{minutes // 60:02d}h{minutes % 60:02d}m{seconds:02d}s"
