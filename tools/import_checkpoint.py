"""Takes over a published PyTorch checkpoint: a workdir that evaluate and score use.

    python -m tools.import_checkpoint --source=model.pkl --workdir=W [--store=STORE]

--source is a state dict of RTFM, TEVAD, LAP or UR-DMU, alone or under a trainer's key, loaded with
weights_only. Sizes are read from its arrays; every name and shape is checked. What the arrays
can't say are flags: --fusion (add and product have the same shapes), --heads (UR-DMU). Features
are those of --store where it is given; without it they are of an unknown encoder, 16 frames a
snippet, and any such store of the same widths is taken. evaluate aligns scores with frames as
published (--fidelity=reference) where snippets are 16 frames every 16. Prints one JSON object.
"""

import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from gvvad_jax import config as config_lib
from gvvad_jax.command import UserError, run_command
from gvvad_jax.store.files import write_atomically
from gvvad_jax.store.format import Manifest
from gvvad_jax.store.reader import Store

# Where trainers put the state dict.
WRAPPERS = ("state_dict", "model_state_dict", "model")
# What torch.load raises on files that are no such thing, text for one.
UNREADABLE = (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError)
PREFIX = "module."  # Of DataParallel.


def main(_: Sequence[str]) -> None:
    values = flags.FLAGS
    for name in ("source", "workdir"):
        if not values[name].value:
            raise UserError(f"--{name}: expected a path, found none")
    found = import_checkpoint(
        values.source,
        values.workdir,
        store_path=values.store,
        detector=values.detector,
        fusion=values.fusion,
        heads=values.heads,
        allow_leftovers=values.allow_leftovers,
    )
    if found["leftovers"]:
        print(f"left over, of no effect: {', '.join(found['leftovers'])}", file=sys.stderr)
    print(json.dumps(found))


def import_checkpoint(
    source: str,
    workdir: str,
    *,
    store_path: str = "",
    detector: str = "auto",
    fusion: str = "auto",
    heads: int = 4,
    allow_leftovers: bool = False,
) -> dict[str, Any]:
    """Writes a workdir from a PyTorch state dict.

    Args:
      source: the file.
      workdir: to write; the same import again changes nothing.
      store_path: a store whose manifest the features follow; none for unknown features.
      detector: auto, rtfm, tevad, lap or ur_dmu. TEVAD and LAP score alike; auto takes LAP where
        the file has a learned lambda.
      fusion: auto, or one of config's.
      heads: of UR-DMU's attention.
      allow_leftovers: take a file that has parameters which the detector doesn't.

    Returns:
      {"workdir", "sha256", "detector", "fusion", "heads", "dim", "text_dim", "parameters",
      "lambda", "leftovers", "manifest"}: `parameters` counts numbers, `lambda` is the learned one
      or None, `manifest` is of the features.

    Raises:
      UserError: not such a file, names or shapes that aren't the detector's, a store of other
        widths, a workdir of another run.
    """
    import jax

    from gvvad_jax import step
    from gvvad_jax.run import checkpoints
    from tools import torch_names

    state = read_state(source)
    config, dim, text_dim = _config(source, state, detector, fusion, heads)
    fresh = jax.eval_shape(lambda: step.init_state(config, dim, text_dim))
    try:
        variables, leftovers = torch_names.to_flax(state)
        torch_names.require_fit(state, fresh.params["detector"], fresh.batch_stats)
    except UserError as error:
        raise UserError(f"{source}: {error}; are --fusion and --heads right?") from error
    if leftovers and not allow_leftovers:
        raise UserError(
            f"{source}: expected parameters of {config.detector} alone, found {len(leftovers)} "
            f"more ({', '.join(leftovers[:4])}); --allow_leftovers imports without them"
        )
    manifest = _manifest(store_path, dim, text_dim)
    learned = variables["ssls"].get("lambda")
    found = {
        "workdir": str(workdir),
        "sha256": hashlib.sha256(pathlib.Path(source).read_bytes()).hexdigest(),
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
    _claim(pathlib.Path(workdir), found)
    saved = checkpoints.Checkpoints(workdir)
    restored = step.state_of(config, variables["params"], variables["batch_stats"])
    saved.save("last", 0, restored, [])
    saved.close()
    checkpoints.write_model(workdir, config, manifest, None)
    return found


def read_state(source: str) -> dict[str, np.ndarray]:
    """A PyTorch file's state dict as float32 arrays by name, without DataParallel's prefix.

    Raises:
      UserError: no such file, or anything in it but tensors by name.
    """
    import pickle

    import torch

    try:
        content = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, EOFError, pickle.UnpicklingError, *UNREADABLE) as error:
        # PyTorch's own message advises to load the file unsafely: not passed on.
        reason = (
            getattr(error, "strerror", None) or "another kind of file, or objects besides tensors"
        )
        raise UserError(
            f"{source}: expected a PyTorch state dict that loads with weights_only, found "
            f"{reason}; save it with torch.save(model.state_dict(), FILE)"
        ) from error
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(
            isinstance(name, str) and isinstance(value, torch.Tensor)
            for name, value in content.items()
        )
    ):
        raise UserError(
            f"{source}: expected tensors by name, found {type(content).__name__} of other things; "
            "save it with torch.save(model.state_dict(), FILE)"
        )
    state = {
        name.removeprefix(PREFIX): value.detach().float().numpy() for name, value in content.items()
    }
    broken = [name for name, value in state.items() if not np.isfinite(value).all()]
    if broken:
        raise UserError(
            f"{source}: expected finite parameters, found {broken[0]!r} and {len(broken) - 1} more "
            "with NaN or infinity; was the training stopped by them?"
        )
    return state


def _config(
    source: str, state: Mapping[str, np.ndarray], detector: str, fusion: str, heads: int
) -> tuple[config_lib.TrainConfig, int, int]:
    """(the run that the file is of, visual width, text width)."""
    from tools import torch_names

    try:
        fields = torch_names.sizes(state, heads)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    dim, text_dim = fields.pop("dim"), fields.pop("text_dim")
    if not dim:
        raise UserError(
            f"{source}: expected a visual stream (Aggregate.*), found text alone; import a "
            "checkpoint with both"
        )
    fields["detector"] = _detector(source, detector, fields["detector"], "VLR" in state)
    fields["fusion"] = _fusion(source, fusion, fields) if text_dim else "concat"
    config = config_lib.TrainConfig(**fields, fidelity="reference", standardise="no")
    return config, dim, text_dim


def _detector(source: str, asked: str, seen: str, has_lambda: bool) -> str:
    """The detector: as asked where the file's names allow it."""
    with_text = ("lap", "tevad") if has_lambda else ("tevad", "lap")
    possible = with_text if seen == "tevad" else (seen, "tevad", "lap")[: 1 + 2 * (seen == "rtfm")]
    if asked == "auto":
        return possible[0]
    if asked not in possible:
        raise UserError(
            f"--detector: expected one of {', '.join(possible)} for {source}, found {asked}; "
            "its parameters are another detector's"
        )
    return asked


def _fusion(source: str, asked: str, fields: Mapping[str, Any]) -> str:
    possible = (fields["fusion"],) if "fusion" in fields else ("add", "product")
    if asked == "auto" and len(possible) == 1:
        return possible[0]
    if asked not in possible:
        raise UserError(
            f"--fusion: expected {' or '.join(possible)} for {source}, found {asked}; its shapes "
            "allow no other"
        )
    return asked


def _manifest(store_path: str, dim: int, text_dim: int) -> Manifest:
    """Of the store, or one that says what is unknown."""
    if not store_path:
        unknown = "unknown"
        text = {"encoder": unknown, "dim": text_dim, "normalised": unknown} if text_dim else None
        return Manifest(
            encoder={"id": unknown, "weights": unknown, "pooling": unknown, "normalised": unknown},
            dim=dim,
            crops={"count": unknown, "order": unknown},
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


def _claim(workdir: pathlib.Path, found: Mapping[str, Any]) -> None:
    """Writes the import's record first; raises UserError where the folder is another's."""
    path = workdir / "import.json"
    ours = {key: value for key, value in found.items() if key != "workdir"}
    if path.exists():
        theirs = json.loads(path.read_text())
        theirs.pop("workdir", None)
        taken = theirs != ours
    else:
        taken = (workdir / "model.json").exists()
    if taken:
        raise UserError(
            f"{workdir}: expected an empty folder or one of this import, found another run's; "
            "give another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    flags.DEFINE_string("source", "", "PyTorch state dict (.pkl, .pth, .pt)")
    flags.DEFINE_string("workdir", "", "folder to write")
    flags.DEFINE_string("store", "", "feature store that the checkpoint's features are like")
    flags.DEFINE_enum("detector", "auto", ["auto", "rtfm", "tevad", "lap", "ur_dmu"], "whose it is")
    flags.DEFINE_enum(
        "fusion", "auto", ["auto", "concat", "add", "product", "add_up"], "how the streams meet"
    )
    flags.DEFINE_integer("heads", 4, "UR-DMU: attention heads", 1)
    flags.DEFINE_bool("allow_leftovers", False, "ignore parameters that the detector doesn't have")
    run_command(main, usage=__doc__)
