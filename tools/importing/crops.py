"""Files that hold one crop of a video each: `Abuse001_x264__0.npy` to `__9`, or `_0` to `_9`."""

import collections
import re
from collections.abc import Sequence

from gvvad_jax.command import UserError
from tools.importing.sources import Found

_DOUBLE = re.compile(r"^(.+)__(\d{1,2})$")
_SINGLE = re.compile(r"^(.+?)_(\d{1,2})$")


def crop_numbers(found: Sequence[Found], forced: str | None) -> list[tuple[str, int | None]]:
    """Tells which crop of which video each file of one source is.

    Two underscores and a number always mean a crop. One does if most names have 0, 1 ... n - 1
    behind them, and the arrays of one name have one length.

    Args:
      found: the arrays of a source.
      forced: the layout that the user named for the source; None to tell by the names.

    Returns:
      (name without the crop's number, crop; None where a file isn't a single crop) of each.

    Raises:
      UserError: it can't be told.
    """
    whole: list[tuple[str, int | None]] = [(each.stem, None) for each in found]
    if forced not in (None, "per_crop"):
        return whole
    for pattern in (_DOUBLE, _SINGLE):
        matches = [pattern.match(each.stem) for each in found]
        if sum(map(bool, matches)) * 2 <= len(found) and not (forced and any(matches)):
            continue
        split = [(m[1], int(m[2])) if m else w for m, w in zip(matches, whole, strict=True)]
        if pattern is _DOUBLE or forced or _are_crops(found, split):
            return split
    if forced:
        raise UserError(
            f"--layout=per_crop: expected names that end in _0, _1 ... or __0, __1 ..., found "
            f"{found[0].name}; use another layout"
        )
    return whole


def _are_crops(found: Sequence[Found], split: Sequence[tuple[str, int | None]]) -> bool:
    lengths = collections.defaultdict(list)
    numbers = collections.defaultdict(set)
    for each, (name, number) in zip(found, split, strict=True):
        if number is not None and len(each.array.shape) == 2:
            lengths[name].append(each.array.shape[0])
            numbers[name].add(number)
    if not numbers:
        return False
    count, _ = collections.Counter(map(len, numbers.values())).most_common(1)[0]
    complete = [name for name, seen in numbers.items() if seen == set(range(count))]
    equal = [name for name in complete if len(set(lengths[name])) == 1]
    if count < 2 or 2 * len(equal) <= len(numbers):
        return False
    if len(numbers) == 1:
        name = next(iter(numbers))
        raise UserError(
            f"{found[0].source}: expected names that tell crops from videos, found {count} files "
            f"{name}_0 to {name}_{count - 1} of one length, which may be either; give "
            "--layout=per_crop for crops of one video, or --layout=TxNxD for videos"
        )
    return True
