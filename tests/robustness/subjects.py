"""The files that the project reads, each with sound examples and with what reads them."""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from gvvad_jax import evaluation, flagfiles, splits
from gvvad_jax.store import files
from gvvad_jax.store.reader import Store
from tests.support import stores


@dataclasses.dataclass(frozen=True)
class Subject:
    """A format.

    Attributes:
      make: writes sound files into a folder.
      patterns: which of them to damage.
      read: reads the folder; returns what was read, as bytes or values that can be compared.
      sealed: whether a digest covers the files, so that damage is refused or changes nothing.
    """

    make: Callable[[pathlib.Path], None]
    patterns: tuple[str, ...]
    read: Callable[[pathlib.Path], Any]
    sealed: bool = False


def _make_store(folder):
    stores.write_store(folder / "store", {"train": (2, 2), "test": (1, 1)}, lengths=(2, 4))


def _read_store(folder):
    store = Store(folder / "store")
    bank = files.load_array(folder / "store" / "bank.npy", "a bank")
    return bank.tobytes(), {
        video_id: (
            store.rows[video_id],
            np.asarray(video.visual_TxNxD).tobytes(),
            np.asarray(video.text_TxE).tobytes(),
        )
        for video_id, video in store.items()
    }


def _read_splits(folder):
    store = Store(folder / "store")
    return [(member.video.id, member.video.label) for member in splits.members_of(store, None)]


def _make_truth(folder):
    intervals = [[10, 20], [30, 31]]
    entry = {"file": "a.mp4", "label": 1, "split": "test", "fps": 10, "num_frames": 40}
    videos = {"a": entry | {"abnormal_frames": intervals}, "b": entry | {"label": 0}}
    (folder / "videos.json").write_text(json.dumps({"videos": videos}))
    scores = {name: np.linspace(0, 1, 40, dtype=np.float32) for name in "ab"}
    files.write_arrays(folder / "scores.npz", scores)


def _measure(folder):
    return evaluation.measure_files(str(folder / "scores.npz"), str(folder / "videos.json"))


def _make_decisions(folder):
    lines = [json.dumps({"id": name, "keep": name != "b"}) + "\n" for name in "abc"]
    (folder / "decisions.jsonl").write_text("".join(lines))


def _make_flagfile(folder):
    (folder / "x.flags").write_text("# A comment\n--steps=10\n--lambda_value=0.5\n--notext\n")


def _make_features(folder):
    np.save(folder / "a.npy", np.ones((5, 2, 3), np.float32))


def _read_features(folder):
    return files.load_array(folder / "a.npy", "features").shape


SUBJECTS = {
    "store": Subject(
        _make_store,
        ("store/manifest.json", "store/shard-*", "store/bank.*"),
        _read_store,
        sealed=True,
    ),
    "the list in a store": Subject(_make_store, ("store/videos.json",), _read_splits),
    "truth and scores": Subject(_make_truth, ("videos.json", "scores.npz"), _measure),
    "decisions": Subject(
        _make_decisions,
        ("decisions.jsonl",),
        lambda folder: splits.read_decisions(str(folder / "decisions.jsonl")),
    ),
    "a flagfile": Subject(
        _make_flagfile,
        ("x.flags",),
        lambda folder: flagfiles.expand(["x", f"--flagfile={folder}/x.flags"], "gvvad_jax.train"),
    ),
    "an array": Subject(_make_features, ("a.npy",), _read_features),
}
