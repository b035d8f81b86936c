"""Which rows of a finished store are sound, and which were made of something else. numpy only."""

import os
import pathlib
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store import sealing
from gvvad_jax.store.format import Manifest, Row, row_faults, shard_paths
from gvvad_jax.store.reader import read_quarantine, read_rows, read_shard


def sound_rows(
    path: pathlib.Path,
    manifest: Manifest,
    skipped: Collection[str],
    report: Callable[[str], object],
) -> Iterator[tuple[Row, np.ndarray, np.ndarray | None]]:
    """Yields the videos of a store whose rows have their digest, as `read_shard` does.

    Args:
      path: the store's folder.
      manifest: its settings.
      skipped: names of shards' .jsonl that aren't to be trusted.
      report: takes a line for each fault.
    """
    for shard in shard_paths(path):
        if shard.name in skipped:
            continue
        try:
            videos = list(read_shard(shard))
        except UserError as error:
            report(str(error))
            continue
        for row, visual_TxNxD, text_TxE in videos:
            faults = row_faults(row, visual_TxNxD, text_TxE, manifest)
            if faults:
                report(f"{shard}: video {row.id!r}: {faults[0]}")
            else:
                yield row, visual_TxNxD, text_TxE


def faults(path: pathlib.Path, contents: sealing.Contents) -> list[str]:
    """Lists what is damaged in a finished store, which is read whole; not in its bank."""
    wrong = sealing.faults(path, contents.files)
    found = [fault for name, fault in wrong.items() if name not in sealing.BANK]
    for _ in sound_rows(path, contents.manifest, wrong, found.append):
        pass
    try:
        read_quarantine(path)
    except UserError as error:
        found.append(str(error))
    return found


def is_sound(path: str | os.PathLike[str]) -> bool:
    """Tells whether a finished store has all that it was finished with; it is read whole."""
    path = pathlib.Path(path)
    try:
        contents = sealing.read(path)
        return not sealing.faults(path, contents.files) and not faults(path, contents)
    except UserError:
        return False


def outdated(path: str | os.PathLike[str], made_of: Mapping[str, str]) -> list[str]:
    """Sorted ids of the packed videos whose `made_of` is another one than given."""
    path = pathlib.Path(path)
    noted = {row.id: row.made_of for shard in shard_paths(path) for row in read_rows(shard)}
    noted |= {entry.id: entry.made_of for entry in read_quarantine(path)}
    return sorted(i for i, each in noted.items() if is_outdated(each, made_of.get(i)))


def is_outdated(noted: str | None, made_of: str | None) -> bool:
    """Tells whether a row says that it was made of something else than now."""
    return noted is not None and made_of is not None and noted != made_of
