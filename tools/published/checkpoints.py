"""Imports published PyTorch checkpoints into workdirs that evaluate and score can use."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gvvad_jax import config as config_lib
from gvvad_jax.command import UserError, check, option
from gvvad_jax.store import digests, folders
from gvvad_jax.store.files import read_json, write_json
from gvvad_jax.store.format import Manifest
from gvvad_jax.store.reader import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointImport:
    """A PyTorch file and how to read it; each field is a flag."""

    source: str = option("", "PyTorch state dict to import (.pkl, .pth, .pt). Required.")
    workdir: str = option(
        "", "Folder to write; repeating the same import changes nothing. Required."
    )
    store: str = option("", "Feature store of the checkpoint's encoder (default: unknown).")
    detector: str = option(
        "auto",
        "Detector that the checkpoint is of; auto goes by its parameters and takes LAP, which "
        "scores as TEVAD does, where there is a learned lambda.",
        choices=("auto", "rtfm", "tevad", "lap", "ur_dmu"),
    )
    fusion: str = option(
        "auto",
        "How the visual and the text stream are joined; auto goes by the shapes.",
        choices=("auto", "concat", "add", "product", "add_up"),
    )
    heads: int = option(4, "UR-DMU: attention heads.", low=1)
    num_crops: int = option(
        0,
        "Crops of a frame in the checkpoint's features, published ones have 1, 5 or 10; without "
        "--store and this, scoring goes by the shapes of arrays and asks where they don't tell "
        "(default: unknown).",
        low=0,
    )
    allow_leftovers: bool = option(False, "Skip parameters that the detector doesn't have.")

    def __post_init__(self):
        check(self)
        for name in ("source", "workdir"):
            if not getattr(self, name):
                raise UserError(f"--{name}: expected a path, found none; give one")
        if self.store and self.num_crops:
            raise UserError(
                "--num_crops, --store: expected one of them, found both; the store knows its crops"
            )


def import_checkpoint(request: CheckpointImport) -> dict[str, Any]:
    """Writes a workdir from a PyTorch state dict.

    Returns:
      {"workdir", "sha256", "detector", "fusion", "heads", "dim", "text_dim", "parameters",
      "lambda", "leftovers", "manifest"}: `parameters` is the number of weights, `lambda` is
      the learned one or None, `manifest` describes the features.

    Raises:
      UserError: the file isn't a state dict, its names or shapes aren't the detector's, the store
        has other widths, or the workdir belongs to another run.
    """
    import jax

    from gvvad_jax import step
    from gvvad_jax.run import checkpoints
    from tools.published import names, state_dicts

    source, state = request.source, state_dicts.read(request.source)
    config, dim, text_dim = _config(request, state)
    fresh = jax.eval_shape(lambda: step.init_state(config, dim, text_dim))
    try:
        variables, leftovers = names.to_flax(state)
        names.require_fit(state, fresh.params["detector"], fresh.batch_stats)
    except UserError as error:
        raise UserError(f"{source}: {error}; are --fusion and --heads right?") from error
    if leftovers and not request.allow_leftovers:
        raise UserError(
            f"{source}: expected parameters of {config.detector} alone, found {len(leftovers)} "
            f"more ({', '.join(leftovers[:4])}); --allow_leftovers imports without them"
        )
    manifest = _manifest(request.store, request.num_crops, dim, text_dim)
    learned = variables["ssls"].get("lambda")
    imported = {
        "workdir": request.workdir,
        "sha256": digests.of_file(source),
        "detector": config.detector,
        "fusion": config.fusion if text_dim else None,
        "heads": config.heads if config.detector == "ur_dmu" else None,
        "dim": dim,
        "text_dim": text_dim,
        "parameters": sum(int(np.size(value)) for name, value in state.items()
                          if name not in leftovers),
        "lambda": None if learned is None else float(learned),
        "leftovers": leftovers,
        "manifest": manifest.to_json(),
    }  # fmt: skip
    _claim(pathlib.Path(request.workdir), imported)
    saved = checkpoints.Checkpoints(request.workdir)
    restored = step.state_of(config, variables["params"], variables["batch_stats"])
    saved.save("last", 0, restored, [])
    saved.close()
    checkpoints.write_model(request.workdir, config, manifest, None)
    return imported


def _config(
    request: CheckpointImport, state: Mapping[str, np.ndarray]
) -> tuple[config_lib.TrainConfig, int, int]:
    """The config of the file's detector, its visual width and its text width."""
    from tools.published import names

    source = request.source
    try:
        fields = names.sizes(state, request.heads)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    dim, text_dim = fields.pop("dim"), fields.pop("text_dim")
    if not dim:
        raise UserError(
            f"{source}: expected a visual stream (Aggregate.*), found text alone; import a "
            "checkpoint with both"
        )
    fields["detector"] = _detector(source, request.detector, fields["detector"], "VLR" in state)
    fields["fusion"] = _fusion(source, request.fusion, fields) if text_dim else "concat"
    config = config_lib.TrainConfig(**fields, fidelity="reference", standardise="no")
    return config, dim, text_dim


def _detector(source: str, requested: str, named: str, has_lambda: bool) -> str:
    """The requested detector, if the file's names allow it."""
    with_text = ("lap", "tevad") if has_lambda else ("tevad", "lap")
    possible = (
        with_text if named == "tevad" else (named, "tevad", "lap")[: 1 + 2 * (named == "rtfm")]
    )
    if requested == "auto":
        return possible[0]
    if requested not in possible:
        raise UserError(
            f"--detector: expected one of {', '.join(possible)} for {source}, found {requested}; "
            "its parameters are another detector's"
        )
    return requested


def _fusion(source: str, requested: str, fields: Mapping[str, Any]) -> str:
    possible = (fields["fusion"],) if "fusion" in fields else ("add", "product")
    if requested == "auto" and len(possible) == 1:
        return possible[0]
    if requested not in possible:
        raise UserError(
            f"--fusion: expected {' or '.join(possible)} for {source}, found {requested}; its "
            "shapes allow no other"
        )
    return requested


def _manifest(store_path: str, crops: int, dim: int, text_dim: int) -> Manifest:
    """The store's manifest; without a store, one whose fields are "unknown"."""
    if not store_path:
        unknown = "unknown"
        text = {"encoder": unknown, "dim": text_dim, "normalised": unknown} if text_dim else None
        return Manifest(
            encoder={"id": unknown, "weights": unknown, "pooling": unknown, "normalised": unknown},
            dim=dim,
            crops={"count": crops or unknown, "order": unknown},
            snippet={"frames": 16, "stride": 16, "pooling": unknown},
            fps_policy="native",
            text=text,
        )
    manifest = Store(store_path).manifest
    widths = (manifest.dim, (manifest.text or {}).get("dim", 0) if text_dim else 0)
    if widths != (dim, text_dim):
        raise UserError(
            f"{store_path}: expected features of width {dim} and text of width {text_dim}, found "
            f"{widths[0]} and {widths[1]}; encode with the checkpoint's encoders"
        )
    return manifest


def _claim(workdir: pathlib.Path, imported: Mapping[str, Any]) -> None:
    """Writes the record of the import; raises UserError if the folder belongs to another run."""
    path = workdir / "import.json"
    folders.require_own(workdir, "checkpoint", flag="--workdir", signs=[path.name])
    if path.exists():
        existing = read_json(path)
        anywhere = {"workdir": ""}  # Where the folder lies doesn't matter.
        if not isinstance(existing, dict) or existing | anywhere != imported | anywhere:
            raise UserError(
                f"{workdir}: expected an empty folder or one of this import, found another "
                "import's; give another --workdir"
            )
    folders.claim(workdir, "checkpoint", flag="--workdir", signs=[path.name])
    write_json(path, imported)
