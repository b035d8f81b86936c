"""manifest.json: a store's settings, and digests of its index and bank. numpy only.

Each line of the index has the digest of a video's rows, so the manifest covers every number of a
finished store. videos.json isn't covered: labels and splits may be corrected by hand.
"""

import functools
import json
import os
import pathlib
import sys
from collections.abc import Mapping
from typing import NamedTuple

from gvvad_jax.command import UserError
from gvvad_jax.store import digests
from gvvad_jax.store.files import Json, as_type, read_json, require_regular
from gvvad_jax.store.format import FORMAT_VERSION, Manifest

BANK = ("bank.npy", "bank.json")
# Which files of a folder show that it is a store, also one of version 1.
SIGNS = ("manifest.json", "videos.json")
REMEDY = (
    "run the command that wrote the store again (generation.encode, or the script with "
    "StoreWriter): it makes again what is damaged"
)


class Damaged(UserError):
    """A manifest that isn't as it was written, so that nobody knows what the rows are."""


class Contents(NamedTuple):
    """The content of manifest.json.

    Attributes:
      manifest: the settings that all rows share.
      files: digest by name of the files that it covers; None in a store of version 1.
    """

    manifest: Manifest
    files: Mapping[str, str] | None


def read(path: str | os.PathLike[str]) -> Contents:
    """Reads the manifest of the store at `path`.

    Raises:
      UserError: it is missing, of a later version, damaged, or its values are of other types.
    """
    manifest_path = pathlib.Path(path) / "manifest.json"
    try:
        content = read_json(manifest_path, finite=True)
    except UserError as error:
        raise Damaged(f"{error}; {REMEDY}") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise UserError(
            f"{manifest_path}: expected format_version {FORMAT_VERSION} or less, found {version}; "
            "use the version of this package that wrote it, or encode again into another folder"
        )
    files, digest = None, None
    try:
        if version != 1 and isinstance(content, dict):
            digest, files = content.pop("sha256", None), content.pop("files", None)
            files = as_type(dict[str, str])(files)
        manifest = Manifest.from_json(content)
    except ValueError as error:
        raise Damaged(
            f"{manifest_path}: expected a manifest, found another value ({error}); {REMEDY}"
        ) from error
    if version != 1 and digest != digests.of_json([content, files]):
        raise Damaged(
            f"{manifest_path}: expected the values that it was written with, found others; {REMEDY}"
        )
    return Contents(manifest, files)


def to_bytes(manifest: Manifest, files: Mapping[str, str]) -> bytes:
    """Returns the content of manifest.json.

    Args:
      manifest: the settings.
      files: digest by name of the files that are covered, from `covered`.
    """
    content: dict[str, Json] = manifest.to_json()
    digest = digests.of_json([content, dict(files)])
    content |= {"files": dict(files), "sha256": digest}
    return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()


def covered(path: pathlib.Path) -> dict[str, str]:
    """Returns the digests of a store's index and bank, as they are on disk, by name."""
    paths = [*path.glob("shard-*.jsonl"), path / "quarantine.jsonl", *(path / n for n in BANK)]
    return {each.name: _digest(each) for each in sorted(paths) if os.path.lexists(each)}


def faults(path: pathlib.Path, files: Mapping[str, str] | None) -> dict[str, str]:
    """Returns what is wrong with the files that a finished store's manifest covers, by name.

    A bank that isn't listed was added later, and is no fault.
    """
    if files is None:
        return {}
    present = covered(path)
    wrong = {}
    for name in sorted(files.keys() | (present.keys() - set(BANK))):
        if files.get(name) != present.get(name):
            what = "none" if name not in present else "another content"
            what = what if name in files else "a file that the manifest doesn't list"
            wrong[name] = f"{path / name}: expected what the store was finished with, found {what}"
    return wrong


def is_consistent_bank(path: pathlib.Path) -> bool:
    """Tells whether bank.json names the digest of the bank.npy beside it."""
    try:
        content = read_json(path / "bank.json")
        return bool(content["sha256"] == _digest(path / "bank.npy"))
    except (UserError, KeyError, TypeError):
        return False


@functools.cache
def warn_of_version_1(path: str) -> None:
    """Reports once a process that a store has no digests of its manifest, index and bank."""
    print(
        f"{path}: a store of format version 1: its rows are checked, its manifest, index and bank "
        f"can't be; gvvad store {path} --upgrade adds their digests",
        file=sys.stderr,
    )


def _digest(path: pathlib.Path) -> str:
    require_regular(path, "a file of the store")
    return digests.of_bytes(path.read_bytes())
