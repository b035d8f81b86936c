"""Checks of one video's features before a detector scores them: types, shapes, finite values."""

from collections.abc import Sequence

import numpy as np

from gvvad_jax.command import UserError
from gvvad_jax.store.format import Manifest

# Crops of published features: one, the corners and the centre, those and their mirror images.
PUBLISHED_CROPS = (1, 5, 10)


def text_dim(manifest: Manifest) -> int:
    """Returns the width of text rows; 0 without text."""
    return int(manifest.text["dim"]) if manifest.text else 0


def _numbers(value: object, where: str, expected: str) -> np.ndarray:
    """An array of finite real numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise UserError(
            f"{where}: expected {expected} of numbers, found {array.dtype} of shape "
            f"{list(array.shape)}; convert it to float32"
        )
    if not np.isfinite(array).all():
        raise UserError(
            f"{where}: expected finite features, found NaN or infinity; encode the video again"
        )
    return array


def require_visual(value: object, manifest: Manifest, where: str) -> np.ndarray:
    """One video's visual features as [T, N, D].

    Args:
      value: an array [T, D] or [T, N, D].
      manifest: of the model.
      where: the file, or the argument and the video, for messages.

    Raises:
      UserError: another type, shape, width or number of crops, or values that aren't finite.
    """
    dim, crops = manifest.dim, manifest.crops["count"]
    array = _numbers(value, where, f"an array [T, {dim}]")
    visual_TxNxD = array[:, None] if array.ndim == 2 else array
    if visual_TxNxD.ndim != 3 or not visual_TxNxD.size or visual_TxNxD.shape[-1] != dim:
        raise UserError(
            f"{where}: expected an array [T, {dim}] or [T, crops, {dim}], found "
            f"{list(array.shape)}; encode with {manifest.encoder['id']}"
        )
    if crops == "unknown" and array.ndim == 3:
        _require_crops_second(array.shape, where)
    elif crops not in ("unknown", visual_TxNxD.shape[1]):
        raise UserError(
            f"{where}: expected [T, {crops}, {dim}], {crops} crops as in training, found "
            f"{list(array.shape)}; where crops come first, transpose to [T, crops, dim]"
        )
    return visual_TxNxD


def _require_crops_second(shape: Sequence[int], where: str) -> None:
    """Raises UserError unless the shape tells that it is [T, crops, D], as crops are 1, 5 or 10."""
    first, second = (size in PUBLISHED_CROPS for size in shape[:2])
    if second and (not first or tuple(shape[:2]) == (1, 1)):
        return
    if first and not second:
        found, remedy = "crops first", "transpose it to [T, crops, dim]"
    else:
        found = "sizes that could be either" if first else "other sizes"
        remedy = (
            "import the checkpoint with --num_crops to say how many there are, as [T, crops, dim]"
        )
    raise UserError(
        f"{where}: expected an array [T, crops, dim] of {', '.join(map(str, PUBLISHED_CROPS))} "
        f"crops, because the model doesn't say how many, found {list(shape)}, {found}; {remedy}"
    )


def require_text(value: object, length: int, manifest: Manifest, where: str) -> np.ndarray:
    """One video's text rows [S, E]; what is missing to T rows is repeated from its end.

    Args:
      value: an array [S, E] of about as many rows as the video has, or None.
      length: T, the video's rows.
      manifest: of the model.
      where: the file, or the argument and the video, for messages.

    Raises:
      UserError: no text, another type, shape or width, or values that aren't finite.
    """
    dim = text_dim(manifest)
    text_SxE = None if value is None else _numbers(value, where, f"text [{length}, {dim}]")
    # Published captions end a few snippets before or after the video does.
    if (
        text_SxE is None
        or text_SxE.ndim != 2
        or text_SxE.shape[1] != dim
        or abs(len(text_SxE) - length) > max(4, length // 8)
        or 2 * len(text_SxE) < length
    ):
        shape = "none" if text_SxE is None else list(text_SxE.shape)
        raise UserError(
            f"{where}: expected text, an array [{length}, {dim}], a few rows more or fewer, found "
            f"{shape}; embed the video's captions with the run's text encoder"
        )
    return text_SxE
