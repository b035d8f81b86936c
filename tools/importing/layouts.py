"""Which axis of an array has the snippets and which the crops, told by shapes and counts."""

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from gvvad_jax.command import UserError
from tools.importing.checks import Fault
from tools.importing.videos import Video

LAYOUTS = ("TxNxD", "NxTxD", "per_crop")
# How many crops and segments published features have.
_USUAL_CROPS = (1, 5, 10)
_USUAL_SEGMENTS = (32, 64, 100, 128, 200, 256)
# Longer axes are no features'.
_MOST = 1 << 20
# With fewer videos, one length of all of them may be chance.
_MIN_SEGMENTED = 3

Sources = Mapping[tuple[str, str], Sequence[Video]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of a source's arrays.

    Attributes:
      name: TxD, TxNxD, NxTxD or per_crop.
      crops: N.
      dim: D.
    """

    name: str
    crops: int
    dim: int

    def snippets(self, shape: Sequence[int]) -> int:
        """Returns T of an array."""
        return shape[1] if self.name == "NxTxD" else shape[0]

    @property
    def shape(self) -> str:
        """The shape of an array, for messages."""
        n, d = self.crops, self.dim
        return {
            "TxD": f"[T, {d}]",
            "per_crop": f"[T, {d}] a crop",
            "TxNxD": f"[T, {n}, {d}]",
            "NxTxD": f"[{n}, T, {d}]",
        }[self.name]


def parse_forced(flag: str) -> dict[str | None, str]:
    """Reads --layout: a layout for all, or split=LAYOUT for each split; auto isn't kept.

    Raises:
      UserError: another word.
    """
    forced: dict[str | None, str] = {}
    for item in filter(None, flag.split(",")):
        split, equals, layout = item.rpartition("=")
        if layout not in (*LAYOUTS, "auto"):
            raise UserError(
                f"--layout: expected auto, {', '.join(LAYOUTS)}, or one for each split such as "
                f"train=NxTxD,test=TxNxD, found {flag}; correct it"
            )
        if layout != "auto":
            forced[split if equals else None] = layout
    return forced


def detect(
    sources: Sources,
    forced: Mapping[str | None, str],
    fits: Callable[[int, int], bool],
) -> dict[tuple[str, str], Layout]:
    """Detects the layout of each source's arrays.

    Args:
      sources: the videos by source and split.
      forced: layouts that the user named, by split, or by None for all.
      fits: whether so many rows may be of so many frames.

    Raises:
      UserError: a layout can't be told, or sources have another number of crops.
    """
    dim = _width([video for videos in sources.values() for video in videos])
    layouts: dict[tuple[str, str], Layout] = {}
    undecided: dict[tuple[str, str], list[Layout]] = {}
    for key, videos in sources.items():
        named = forced.get(key[1], forced.get(None))
        candidates = _candidates(key[0], videos, named, dim)
        if len(candidates) > 1:
            candidates = _fitting(candidates, videos, fits)
        if len(candidates) == 1:
            layouts[key] = candidates[0]
        else:
            undecided[key] = candidates
    known = {layout.crops for layout in layouts.values()}
    for key, candidates in undecided.items():
        usual = [c for c in candidates if c.crops in (known or _USUAL_CROPS)]
        if len(usual) != 1:
            raise _ambiguous(key, candidates, sources[key])
        layouts[key] = usual[0]
    return {key: layouts[key] for key in sources}


def _candidates(source: str, videos: Sequence[Video], named: str | None, dim: int) -> list[Layout]:
    """The layouts that a source's arrays may have; most of them must have one."""
    if any(crop is not None for video in videos for crop in video.crops):
        count = _most_common([len(video.files) for video in videos])[0]
        return [Layout("per_crop", count, dim)]
    shapes = [video.files[0].array.shape for video in videos]
    ranks = collections.Counter(map(len, shapes))
    rank = ranks.most_common(1)[0][0]
    shapes = [shape for shape in shapes if len(shape) == rank]
    if rank == 2:
        return [Layout("TxD", 1, dim)]
    votes = {}
    for name, axis in (("TxNxD", 1), ("NxTxD", 0)):
        crops, count = _most_common([shape[axis] for shape in shapes])
        if named in (None, name):
            votes[Layout(name, crops, dim)] = count / len(shapes)
    best = max(votes.values(), default=0.0)
    if best <= 0.5 and len(shapes) > 1:
        raise UserError(
            f"{source}: expected one number of crops in most arrays, found axes 0 and 1 of other "
            f"lengths in each file, such as {list(shapes[0])} and {list(shapes[1])}; give arrays "
            "[T, crops, D] or [crops, T, D]"
        )
    return [layout for layout, share in votes.items() if share == best]


def _most_common(values: Sequence[int]) -> tuple[int, int]:
    return collections.Counter(values).most_common(1)[0]


def _width(videos: Sequence[Video]) -> int:
    return _most_common([v.files[0].array.shape[-1] for v in videos])[0]


def _fitting(
    candidates: Sequence[Layout], videos: Sequence[Video], fits: Callable[[int, int], bool]
) -> list[Layout]:
    """Keeps the layouts by which the rows fit the frames that are known."""
    known = [(v.files[0].array.shape, v.num_frames) for v in videos if v.num_frames]
    known = [(shape, frames) for shape, frames in known if len(shape) == 3]
    kept = [
        c for c in candidates if known and all(fits(c.snippets(s), frames) for s, frames in known)
    ]
    return kept if len(kept) == 1 else list(candidates)


def _ambiguous(
    key: tuple[str, str], candidates: Sequence[Layout], videos: Sequence[Video]
) -> UserError:
    shape = list(videos[0].files[0].array.shape)
    choices = " or ".join(
        f"--layout={c.name} ({c.snippets(shape)} snippets of {c.crops} crops)" for c in candidates
    )
    return UserError(
        f"{key[0]} ({key[1]}): expected arrays whose shapes tell snippets from crops, found "
        f"{shape}, which may be either; give {choices}, for one split as --layout={key[1]}="
        f"{candidates[0].name}"
    )


def axes_faults(videos: Sequence[Video]) -> list[Fault]:
    """Lists the arrays that can have no layout."""
    return [
        Fault(
            "empty" if 0 in file.array.shape else "wrong shape",
            str(file.array),
            f"expected [T, crops, D], [crops, T, D] or [T, D], found {list(file.array.shape)}",
            video.key,
        )
        for video in videos
        for file in video.files
        if len(file.array.shape) not in (2, 3)
        or not all(0 < size <= _MOST for size in file.array.shape)
    ]


def shape_faults(videos: Sequence[Video], layout: Layout) -> list[Fault]:
    """Lists the arrays of a source that haven't its layout, from `detect`."""
    faults = []
    for video in videos:
        for file in video.files:
            if fault := _shape_fault(file.array.shape, layout):
                what = f"expected {layout.shape}, found {list(file.array.shape)}"
                faults.append(Fault(fault, str(file.array), what, video.key))
        if layout.name != "per_crop":
            continue
        lengths = {file.array.shape[:1] for file in video.files}
        if len(video.files) != layout.crops or video.crops != list(range(layout.crops)):
            if layout.crops > 1 or len(video.files) > 1:
                numbers = ", ".join(map(str, video.crops))
                what = f"expected crops 0 to {layout.crops - 1}, found {numbers}"
                faults.append(Fault("crops", video.name, what, video.key))
        elif len(lengths) > 1:
            rows = ", ".join(str(file.array.shape[0]) for file in video.files)
            what = f"expected crops of one length, found {rows}"
            faults.append(Fault("crops", video.name, what, video.key))
    return faults


def _shape_fault(shape: Sequence[int], layout: Layout) -> str | None:
    """Returns the kind of fault of an array's shape, or None."""
    axes = {"TxNxD": (None, layout.crops), "NxTxD": (layout.crops, None)}.get(layout.name, (None,))
    wanted = (*axes, layout.dim)

    def agrees(candidate: Sequence[int]) -> bool:
        return len(candidate) == len(wanted) and all(
            w in (None, s) for w, s in zip(wanted, candidate, strict=True)
        )

    if agrees(shape):
        return None
    swapped = [(*shape[:-2], shape[-1], shape[-2])] if len(shape) > 1 else []
    swapped += [(shape[1], shape[0], *shape[2:])] if len(shape) > 1 else []
    if any(map(agrees, swapped)):
        return "transposed"
    return "wrong width" if shape[-1] != layout.dim else "wrong shape"


def are_segmented(videos: Sequence[Video], layout: Layout, fits: Callable[[int, int], bool]) -> int:
    """Returns of how many segments all videos of a source are; 0 for videos of their own length."""
    lengths = {layout.snippets(video.files[0].array.shape) for video in videos}
    known = [v for v in videos if v.num_frames]
    own = [v for v in known if fits(layout.snippets(v.files[0].array.shape), v.num_frames or 0)]
    if known and 2 * len(own) > len(known):
        return 0
    # A sound source has one layout, so that faulty arrays are left to be told first.
    common = len(lengths) == 1 and len(videos) >= _MIN_SEGMENTED
    length = next(iter(lengths))
    return length if common and (length in _USUAL_SEGMENTS or known) else 0
