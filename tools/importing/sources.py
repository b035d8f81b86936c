"""Which files have features: those of a folder, or those that a list names."""

import collections
import dataclasses
import os
import pathlib
import stat
from collections.abc import Iterator, Mapping, Sequence

from gvvad_jax.command import UserError
from gvvad_jax.store.annotations import SPLITS
from tools.importing import lists
from tools.importing.checks import Fault
from tools.importing.lists import FEATURE_SUFFIXES, Entry
from tools.importing.reading import Array, arrays_of


@dataclasses.dataclass(frozen=True)
class Found:
    """An array, and where it was found.

    Attributes:
      array: the array.
      name: its path as the list has it, or below the folder.
      source: the folder or list, as the user named it.
      split: the split that the user named for the source; None if none.
      entry: the list's line; None in a folder.
    """

    array: Array
    name: str
    source: str
    split: str | None = None
    entry: Entry | None = None

    @property
    def stem(self) -> str:
        """The name of the video, which a crop's number may follow."""
        return self.array.stem


def find(spec: str, root: str, flag: str) -> tuple[list[Found], list[Fault]]:
    """Finds the arrays that a flag names.

    Args:
      spec: folders, lists or feature files, separated by commas; each may have a split in front
        (train=PATH) and the name of an array behind (PATH::visual).
      root: the folder below which files of lists are looked for (default: the list's own).
      flag: the flag's name, for messages.

    Returns:
      (arrays in the order of folders and lists, files that are missing or can't be read).

    Raises:
      UserError: a source is missing or has no file at all.
    """
    found: list[Found] = []
    faults: list[Fault] = []
    for item in filter(None, spec.split(",")):
        split, path = _split_of(item)
        path, _, member = path.partition("::")
        source = pathlib.Path(path)
        before = len(found) + len(faults)
        if source.is_dir():
            files = [(file, file.relative_to(source).as_posix()) for file in _below(source)]
        elif source.suffix.lower() in FEATURE_SUFFIXES:
            files = [(source, source.name)]
        else:
            listed = _Listed(source, root, member)
            for entry in lists.read(source):
                arrays = listed.arrays(entry, faults)
                found += [Found(array, entry.path, path, split, entry) for array in arrays]
            continue
        for file, name in files:
            for array in _arrays(file, member, faults):
                label = name if array.alone else f"{name}/{array.member}"
                found.append(Found(array, label, path, split))
        if len(found) + len(faults) == before:
            raise UserError(
                f"--{flag}={path}: expected {', '.join(FEATURE_SUFFIXES)} files, found none; name "
                "the folder that has them"
            )
    return found, faults


def _split_of(item: str) -> tuple[str | None, str]:
    word, equals, path = item.partition("=")
    return (word, path) if equals and word in SPLITS else (None, item)


def _below(folder: pathlib.Path, *, owned: bool = False) -> list[pathlib.Path]:
    """Lists the feature files below a folder, sorted, those behind links too.

    Args:
      folder: the folder.
      owned: whether what lies in it and belongs to other people is left alone.
    """
    files = []
    for parent, folders, names in os.walk(folder, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if owned and pathlib.Path(parent) == folder:
            for entries in (folders, names):
                entries[:] = [n for n in entries if os.lstat(folder / n).st_uid == os.geteuid()]
        files += [
            pathlib.Path(parent, name)
            for name in sorted(names)
            if pathlib.PurePath(name).suffix.lower() in FEATURE_SUFFIXES
            and not name.startswith(".")
        ]
    return files


def _arrays(file: pathlib.Path, member: str, faults: list[Fault]) -> list[Array]:
    try:
        return arrays_of(file, member)
    except UserError as error:
        kind = "empty" if "an empty file" in str(error) else "unreadable"
        kind = kind if file.is_file() else "missing"
        faults.append(Fault(kind, str(file), str(error).removeprefix(f"{file}: ")))
        return []


class _Listed:
    """Finds what the lines of a list name, by path, by the path's end, or by the video's id.

    Lists come with the paths of their author's machine. Where a list lies in a folder that
    everybody may write in, such as /tmp, what other people have there isn't searched.

    Args:
      path: the list.
      root: the folder to search; empty for the list's own.
      member: see find.
    """

    def __init__(self, path: pathlib.Path, root: str, member: str):
        self._path, self._member = path, member
        self._root = pathlib.Path(root) if root else path.parent
        if not self._root.is_dir():
            raise UserError(
                f"--root={self._root}: expected a folder, found none; name the features'"
            )
        self._is_shared = not root and bool(self._root.stat().st_mode & stat.S_ISVTX)
        self._files: Mapping[str, list[pathlib.Path]] | None = None
        self._arrays: dict[str, list[Array]] = {}

    def arrays(self, entry: Entry, faults: list[Fault]) -> Sequence[Array]:
        """Returns the arrays that a line names; a line without a suffix may name several crops."""
        where = f"{self._path}: line {entry.line}"
        named = pathlib.PurePosixPath(entry.path)
        if named.suffix.lower() in FEATURE_SUFFIXES:
            for folder in (self._path.parent, self._root):
                if (file := folder / named).is_file():
                    return _arrays(file, self._member, faults)
            candidates = self._index().get(named.name, [])
            if candidates:
                common = [_common_end(file, named) for file in candidates]
                best = [f for f, n in zip(candidates, common, strict=True) if n == max(common)]
                if len(best) == 1:
                    return _arrays(best[0], self._member, faults)
                faults.append(
                    Fault("ambiguous", where, f"{named.name} is {best[0]} as well as {best[1]}")
                )
                return []
        arrays = self._by_id().get(lists.video_id(named.name), [])
        if not arrays:
            owned = ", in folders of yours (--root names another)" if self._is_shared else ""
            missing = f"no file {entry.path} below {self._root}{owned}"
            faults.append(Fault("missing", where, missing))
        return arrays

    def _index(self) -> Mapping[str, list[pathlib.Path]]:
        if self._files is None:
            self._files = collections.defaultdict(list)
            for file in _below(self._root, owned=self._is_shared):
                self._files[file.name].append(file)
        return self._files

    def _by_id(self) -> Mapping[str, list[Array]]:
        """The arrays below the root by video, with and without a number behind it."""
        if not self._arrays:
            ignored: list[Fault] = []
            for files in self._index().values():
                for file in files:
                    for array in _arrays(file, self._member, ignored):
                        for name in _names(array.stem):
                            self._arrays.setdefault(name, []).append(array)
            self._arrays.setdefault("", [])
        return self._arrays


def _names(stem: str) -> Iterator[str]:
    whole = lists.video_id(stem)
    yield whole
    base, underscore, number = stem.rpartition("_")
    if underscore and number.isdigit() and len(number) <= 2:
        without = lists.video_id(base.rstrip("_"))
        if without and without != whole:
            yield without


def _common_end(file: pathlib.Path, named: pathlib.PurePosixPath) -> int:
    pairs = zip(reversed(file.parts), reversed(named.parts), strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), len(named.parts))
