"""A trained detector as a folder to share: weights, settings and a model card, without pickle.

    model.safetensors   weights, running statistics and the standardisation of features
    config.json         settings, features, calibration, facts for the card, digests of the files
    README.md           the model card
    bank.json, bank.npy the prompt bank, where the run's store has one

`Model.save_pretrained` writes it, `gv.load` reads it. It names no path and no video of its author.
"""

import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import jax
import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from gvvad_jax import step
from gvvad_jax.calibration import Calibration
from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.sharing import card
from gvvad_jax.sharing.card import Facts
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.store import digests, folders
from gvvad_jax.store.files import (
    as_type,
    load_array,
    read_json,
    read_json_as,
    require_regular,
    write_atomically,
    write_json,
)
from gvvad_jax.store.format import Manifest

LIBRARY = "gvvad-jax"
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
BANK = ("bank.json", "bank.npy")
# Settings that name files, folders and services of the machine that trained.
PRIVATE = (
    "store",
    "synthetic_store",
    "synthetic_keep",
    "annotations",
    "normal_store",
    "workdir",
    "compilation_cache",
    "loggers",
)
# Larger files aren't read, nor fetched.
MAX_BYTES = {CONFIG: 4 << 20, WEIGHTS: 1 << 30, BANK[0]: 4 << 20, BANK[1]: 64 << 20}
_HEADER_BYTES = 1 << 20
# Means and deviations of features, which lie beside the weights.
_STATISTICS = ("standardisation", "seen")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_REMEDY = "save it again with save_pretrained, or fetch it again"


class _Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The types of config.json."""

    library: Literal["gvvad-jax"]
    format_version: Literal[1]
    config: dict[str, Any]
    manifest: dict[str, Any]
    calibration: dict[str, Any] | None
    facts: Facts
    files: dict[str, str]
    sha256: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared:
    """All of a detector that is shared.

    Attributes:
      config: the settings of its training, without those of PRIVATE.
      manifest: of the features that it takes.
      standard: the standardisation of its visual features.
      seen: mean and deviation of the features that it was adapted to, or None.
      variables: its weights and running statistics.
      calibration: its temperature and threshold, or None.
      facts: what the model card says besides.
    """

    config: TrainConfig
    manifest: Manifest
    standard: Standardisation
    seen: Standardisation | None
    variables: Any
    calibration: Calibration | None
    facts: Facts


def is_shared(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder looks like a shared detector, and not like a run's."""
    folder = pathlib.Path(folder)
    return (folder / CONFIG).exists() and not (folder / "model.json").exists()


def write(
    folder: str | os.PathLike[str],
    shared: Shared,
    *,
    name: str = "",
    bank_folder: pathlib.Path | None = None,
) -> None:
    """Writes a detector to share: all files or none.

    Args:
      folder: absent, empty, or with a shared detector, which is replaced.
      shared: the detector.
      name: what `gv.load` takes, for the card (default: a placeholder for the folder).
      bank_folder: where the prompt bank's files are; None for no bank.

    Raises:
      UserError: no licence, a manifest that names a path, or a folder with anything else.
    """
    folder = pathlib.Path(folder)
    if not _LICENSE.fullmatch(shared.facts.license):
        raise UserError(
            "license: expected a licence's identifier, such as apache-2.0, cc-by-nc-4.0 or other, "
            f"found {shared.facts.license!r}; say under which one the weights may be used: that of "
            "the training data may bind you"
        )
    _require_no_path(shared.manifest)
    _require_own(folder)
    folder.mkdir(parents=True, exist_ok=True)
    folders.clear_litter(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".partial") as partial:
        staged = pathlib.Path(partial)
        write_atomically(staged / WEIGHTS, safetensors.numpy.save(_tensors(shared)))
        if bank_folder:
            for bank in BANK:
                write_atomically(staged / bank, (bank_folder / bank).read_bytes())
        files = {path.name: digests.of_file(path) for path in sorted(staged.iterdir())}
        settings = dataclasses.asdict(shared.config)
        content = {
            "library": LIBRARY,
            "format_version": 1,
            "config": {k: v for k, v in settings.items() if k not in PRIVATE},
            "manifest": shared.manifest.to_json(),
            "calibration": shared.calibration and dataclasses.asdict(shared.calibration),
            "facts": msgspec.to_builtins(shared.facts),
            "files": files,
        }
        text = card.render(shared.config, shared.manifest, shared.calibration, shared.facts, name)
        write_atomically(staged / CARD, text.encode())
        write_json(staged / CONFIG, content | {"sha256": digests.of_json(content)})
        # config.json comes last: until then its digests say that the files aren't whole.
        for file in (CARD, *files, CONFIG):
            os.replace(staged / file, folder / file)
        for bank in set(BANK) - set(files):
            (folder / bank).unlink(missing_ok=True)


def read(folder: str | os.PathLike[str]) -> Shared:
    """Reads a shared detector; checks names, shapes, types and digests.

    Raises:
      UserError: a file is missing, too large, damaged or of another version.
    """
    folder = pathlib.Path(folder)
    content = read_config(folder)
    path = folder / CONFIG
    try:
        settings: dict[str, Any] = dict.fromkeys(PRIVATE, "")
        if private := sorted(content.config.keys() & set(PRIVATE)):
            raise ValueError(f"the setting {private[0]}, which isn't shared")
        settings |= content.config
        settings["head_widths"] = tuple(settings["head_widths"])
        config = TrainConfig(**settings)
        manifest = Manifest.from_json(content.manifest)
        calibration = content.calibration
        calibrated = None if calibration is None else as_type(Calibration)(calibration)
        template = _template(config, manifest)
    except (KeyError, TypeError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(
            f"{path}: expected a detector of this version, found another "
            f"({' '.join(str(error).split())[:200]}); update gvvad-jax, or {_REMEDY}"
        ) from error
    for bank in set(BANK) & set(content.files):
        _require_digest(folder / bank, content.files[bank])
    tensors = _read_tensors(folder / WEIGHTS, content.files[WEIGHTS], template, manifest.dim)
    standard, seen = (_pop_statistics(tensors, name) for name in _STATISTICS)
    leaves = {name: jax.device_put(array) for name, array in tensors.items()}
    return Shared(
        config=config,
        manifest=manifest,
        standard=standard or Standardisation(),
        seen=seen,
        variables=jax.tree_util.tree_map_with_path(lambda at, _: leaves[_name(at)], template),
        calibration=calibrated,
        facts=content.facts,
    )


def read_config(folder: pathlib.Path) -> _Config:
    """Reads config.json and compares it with its digest."""
    path = folder / CONFIG
    require_regular(path, "the settings of a shared detector", MAX_BYTES[CONFIG])
    saved = read_json_as(path, _Config, "a detector that save_pretrained wrote", _REMEDY)
    content = read_json(path)
    if content.pop("sha256") != digests.of_json(content):
        raise UserError(f"{path}: expected the values that it was written with; {_REMEDY}")
    if WEIGHTS not in saved.files or set(saved.files) - {WEIGHTS, *BANK}:
        raise UserError(f"{path}: expected digests of {WEIGHTS}, found others; {_REMEDY}")
    return saved


def _template(config: TrainConfig, manifest: Manifest) -> Any:
    """The names, shapes and types of a detector's variables."""
    text_dim = int(manifest.text["dim"]) if manifest.text else 0
    state = jax.eval_shape(lambda: step.init_state(config, manifest.dim, text_dim))
    return step.scoring_variables(cast(step.TrainState, state))


def _name(path: Any) -> str:
    return "/".join(str(key.key) for key in path)


def _tensors(shared: Shared) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(shared.variables)
    tensors = {_name(path): np.ascontiguousarray(leaf) for path, leaf in leaves}
    for name, standard in zip(_STATISTICS, (shared.standard, shared.seen), strict=True):
        if standard and standard.mean_D is not None and standard.std_D is not None:
            tensors |= {f"{name}/mean": standard.mean_D, f"{name}/std": standard.std_D}
    return tensors


def _pop_statistics(tensors: dict[str, np.ndarray], name: str) -> Standardisation | None:
    if f"{name}/mean" not in tensors:
        return None
    return Standardisation(tensors.pop(f"{name}/mean"), tensors.pop(f"{name}/std"))


def _read_tensors(
    path: pathlib.Path, digest: str, template: Any, dim: int
) -> dict[str, np.ndarray]:
    """Reads the weights that a template describes, and the standardisation if there is one."""
    expected = {_name(at): leaf for at, leaf in jax.tree_util.tree_leaves_with_path(template)}
    size = sum(leaf.size for leaf in expected.values()) * 8 + 8 * dim + _HEADER_BYTES
    require_regular(path, "a detector's weights", min(size, MAX_BYTES[WEIGHTS]))
    content = path.read_bytes()
    if digests.of_bytes(content) != digest:
        raise UserError(
            f"{path}: expected the weights that {CONFIG} has the digest of, found others; {_REMEDY}"
        )
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: expected weights as safetensors, found something else ({reason}); {_REMEDY}"
        ) from error
    statistics = [name for name in _STATISTICS if f"{name}/mean" in tensors]
    moments = [f"{name}/{moment}" for name in statistics for moment in ("mean", "std")]
    known: Mapping[str, Any] = expected | dict.fromkeys(moments, np.zeros(dim, np.float32))
    differing = sorted(known.keys() ^ tensors.keys())
    if differing:
        has = "lacks" if differing[0] in known else "has"
        raise UserError(
            f"{path}: expected the {len(known)} arrays of the detector that {CONFIG} describes, "
            f"found one that {has} {differing[0]!r}; {_REMEDY}"
        )
    for name, leaf in known.items():
        array = tensors[name]
        # A detector trained in float64 may be read in 32 bits, as its checkpoints may.
        same = array.dtype == leaf.dtype or (array.dtype == np.float64 and name in expected)
        if array.shape != leaf.shape or not same:
            raise UserError(
                f"{path}: array {name!r}: expected {leaf.dtype} {list(leaf.shape)}, found "
                f"{array.dtype} {list(array.shape)}; {_REMEDY}"
            )
    return tensors


def _require_digest(path: pathlib.Path, digest: str) -> None:
    require_regular(path, "a file of the prompt bank", MAX_BYTES[path.name])
    if digests.of_file(path) != digest:
        raise UserError(f"{path}: expected the content that {CONFIG} has the digest of; {_REMEDY}")


def _require_no_path(manifest: Manifest) -> None:
    """Raises UserError where the features' description names a path of this machine."""
    for field in ("encoder", "text"):
        for key, value in (getattr(manifest, field) or {}).items():
            if isinstance(value, str) and re.match(r"~|[A-Za-z]:[\\/]|.*(^|[:@ -])/\S", value):
                raise UserError(
                    f"manifest: expected {field}.{key} without a path, found {value!r}, which "
                    "would be published; name the encoder otherwise"
                )


def _require_own(folder: pathlib.Path) -> None:
    """Raises UserError for a folder with other files than a shared detector's."""
    if (folder / CONFIG).exists():
        read_json_as(folder / CONFIG, _Library, "a folder of a shared detector", "give another")
    elif folder.is_dir() and (folder / WEIGHTS).exists():
        return  # Saving was stopped before its end.
    else:
        folders.require_own(folder, "shared detector", flag="folder")


class _Library(msgspec.Struct):
    library: Literal["gvvad-jax"]


def bank_folder(
    candidates: Sequence[str | os.PathLike[str]], manifest: Manifest
) -> pathlib.Path | None:
    """Returns the first folder with a whole prompt bank of the detector's text encoder, or None."""
    if not manifest.text:
        return None
    for folder in map(pathlib.Path, candidates):
        if not all((folder / name).is_file() for name in BANK):
            continue
        note = read_json(folder / BANK[0])
        rows_KxE = load_array(folder / BANK[1], "a prompt bank")
        if not isinstance(note, dict):
            continue
        fits = rows_KxE.ndim == 2 and rows_KxE.shape[1] == manifest.text["dim"]
        if fits and note.get("sha256") == digests.of_file(folder / BANK[1]):
            return folder
    return None
