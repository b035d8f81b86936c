"""Reads a camera's footage: from a folder of videos, from a store, or as feedback names it."""

import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from gvvad_jax import calibration
from gvvad_jax.command import UserError
from gvvad_jax.scoring import Model, VideoFeatures
from gvvad_jax.splits import Member
from gvvad_jax.store.reader import Store
from tools.adapting import feedback
from tools.adapting.camera import Footage
from tools.watching import features, sources

# Encodes a video: features, and start and end of each snippet.
Encode = Callable[[pathlib.Path], tuple[VideoFeatures, np.ndarray]]


def encoder(workdir: str, model: Model, models: Any) -> Encode:
    """Returns what encodes videos as the run's were; see features.RunFeatures."""
    run = features.RunFeatures.open(workdir, model, models)

    def encode(path: pathlib.Path) -> tuple[VideoFeatures, np.ndarray]:
        def report(fault: str) -> None:
            print(f"{path.name}: {fault}", file=sys.stderr)

        visual_TxNxD, text_TxE, times_Tx2, _ = run.of_file(path, report=report)
        return (visual_TxNxD, text_TxE), times_Tx2

    return encode


def of_folder(folder: str, encode: Encode) -> Footage:
    """Encodes the videos of --normal; those that can't be read are named and left out.

    Raises:
      UserError: the folder has no video, or none that can be read.
    """
    if not os.path.isdir(folder):
        raise UserError(f"--normal={folder}: expected a folder of videos, found none; name one")
    paths = {str(found.path.relative_to(folder)): found.path for found in sources.find([folder])}
    return _encoded(paths.items(), encode, f"--normal={folder}")


def _encoded(paths: Iterable[tuple[str, pathlib.Path]], encode: Encode, where: str) -> Footage:
    footage, refused = Footage({}, {}), 0
    for name, path in paths:
        try:
            footage.features[name], footage.times[name] = encode(path)
        except features.UnreadableVideo as error:
            refused += 1
            print(f"{name}: left out: {error}", file=sys.stderr)
    if not footage.features:
        raise UserError(f"{where}: expected videos that can be read, found {refused} that can't")
    return footage


def of_store(model: Model, path: str) -> Footage:
    """Opens --normal_store; see calibration.open_normal."""
    return of_members(calibration.open_normal(model, path))


def of_members(members: Sequence[Member]) -> Footage:
    """Returns videos of stores as footage; their features stay mapped."""
    return Footage(
        {m.video.id: (m.store.visual(m.video.id), m.store.text(m.video.id)) for m in members},
        {m.video.id: m.store.times(m.video.id) for m in members},
    )


def of_feedback(
    path: str, rows: Sequence[feedback.Row], model: Model, where: str, encode: Callable[[], Encode]
) -> Footage:
    """Finds the videos that feedback names, and encodes them unless they are in a store.

    Args:
      path: the CSV, for messages.
      rows: its rows.
      model: the detector.
      where: --feedback_videos: a store, whose ids the rows name; or a folder of videos, which they
        name by path, file name, or file name without its ending. Empty: the CSV's folder.
      encode: gives what encodes videos.

    Raises:
      UserError: videos that aren't there, all of whose rows the message names.
    """
    place = where or os.path.dirname(os.path.abspath(path))
    if os.path.exists(os.path.join(place, "manifest.json")):
        store = Store(place)
        model.require(store.manifest, place)
        _require(path, rows, store.rows, f"ids of {place}")
        ids = dict.fromkeys(row.video for row in rows)
        return Footage(
            {i: (store.visual(i), store.text(i)) for i in ids}, {i: store.times(i) for i in ids}
        )
    names: dict[str, set[pathlib.Path]] = {}
    for found in sources.find([place]):
        within = found.path.relative_to(place)
        for name in (str(found.path), str(within), within.name, within.stem):
            names.setdefault(name, set()).add(found.path)
    _require(path, rows, [n for n, files in names.items() if len(files) == 1], f"one in {place}")
    paths = {row.video: next(iter(names[row.video])) for row in rows}
    return _encoded(paths.items(), encode(), path)


def _require(path: str, rows: Sequence[feedback.Row], known: Iterable[str], where: str) -> None:
    known = set(known)
    feedback.refuse(path, [
        (row.line, f"video: expected {where}, found {row.video!r}")
        for row in rows if row.video not in known
    ])  # fmt: skip
