"""Trains a detector on real and generated videos that carry video-level labels only.

    python -m gvvad_jax.train --flagfile=configs/ucf_crime.flags --store=REAL \\
        --synthetic_store=SYN --synthetic_keep=decisions.jsonl --workdir=W

Killed at any moment, the same command resumes and ends with the same numbers. The run's folder
gets config.flags, model.json, metrics.jsonl, TensorBoard events, checkpoints/ and result.json.
"""

import hashlib
import json
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

from gvvad_jax import options
from gvvad_jax.annotations import read_json
from gvvad_jax.command import UserError, run_command
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import Store, write_atomically

# A resumed run may log at another pace, and go on for longer where no schedule depends on its
# length; all else must be as it was.
MAY_CHANGE = (
    "log_every",
    "validate_every",
    "checkpoint_every",
    "workdir",
    "compilation_cache",
    "parallel",
    "processes",
    "device_gigabytes",
)


def main(_: Sequence[str]) -> None:
    result = train(options.from_flags(TrainConfig))
    if result:  # The first of several processes has it.
        print(json.dumps(result))


def train(config: TrainConfig) -> dict[str, Any]:
    """One training run, from stores to result.json.

    Args:
      config: what to train on what.

    Returns:
      The content of result.json: `last`, `best_on_validation`, `best_on_test` (each the test
      set's measures, or None), `steps` done (fewer than asked for after an early stop) and
      `provenance`.

    Raises:
      UserError: see config.py and batches.open_splits; also a workdir of another config.
      FloatingPointError: the loss became NaN.
    """
    import jax

    from gvvad_jax import parallel

    if config.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    if config.compilation_cache:
        cache = pathlib.Path(config.compilation_cache).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
    workdir = _require_workdir(config)
    parallel.join(config)
    try:
        return _train(config, workdir)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise parallel.lost(error) from error


def _train(config: TrainConfig, workdir: pathlib.Path) -> dict[str, Any]:
    import jax
    import tqdm

    from gvvad_jax import checkpoints, parallel
    from gvvad_jax.run_log import RunLog
    from gvvad_jax.selection import Selection
    from gvvad_jax.step import init_state

    # The first process alone writes, and knows of checkpoints; the others are told.
    is_first = jax.process_index() == 0
    ready = _prepare(config)
    text_dim = (ready.manifest.text or {}).get("dim", 0)
    state = init_state(config, ready.manifest.dim, text_dim)
    saved = checkpoints.Checkpoints(workdir) if is_first else None
    start = int(parallel.from_first((saved.latest("last") or 0) if saved else 0))
    if start:
        state = parallel.from_first(saved.restore("last", state) if saved else state)
    selection = Selection(config, ready.splits, ready.manifest, ready.standard, saved)
    runner = parallel.Runner(config, state)
    feed = _feed(config, ready, runner, workdir)
    if is_first:
        # Only a run that can start claims its folder.
        write_atomically(workdir / "config.flags", options.to_flagfile(config).encode())
        bank = None if ready.bank_KxE is None else ready.bank_KxE.tolist()
        checkpoints.write_model(workdir, config, ready.manifest, ready.standard.to_json(), bank)
    log = RunLog(workdir if is_first else None, start)

    progress = tqdm.tqdm(range(start, config.steps), initial=start, total=config.steps,
                         desc="train", unit="step", mininterval=1.0,
                         disable=not is_first)  # fmt: skip
    waiting: tuple[int, Any] | None = None
    done, stopped = start, selection.stale(start)
    for step in progress:
        if stopped:
            break
        metrics = runner.step(*feed.at(step))
        # One transfer a step, of the step before: the device is never waited for.
        if waiting:
            log.training(*waiting, config.log_every)
        waiting = step + 1, metrics
        done = step + 1
        if done % config.validate_every == 0 or done == config.steps:
            log.write(done, selection.consider(done, runner.state()))
            stopped = selection.stale(done)
        if done % config.checkpoint_every == 0 or done == config.steps or stopped:
            log.training(*waiting, config.log_every)
            waiting = None
            if saved:
                saved.save("last", done, runner.state(), [])
    progress.close()
    feed.close()
    log.close()
    if not saved:
        return {}
    saved.wait()
    result = selection.results(runner.state())
    result |= {"steps": done, "provenance": _provenance(config, ready)}
    saved.close()
    write_atomically(workdir / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


class _Prepared(NamedTuple):
    """What a run is made of: its videos and how they are drawn."""

    splits: Any
    stores: Sequence[Store]
    standard: Any
    bank_KxE: Any
    synthetic_V: Any
    drawn: Any
    members: Sequence[Any]  # All whose features a step may ask for, by their number.

    @property
    def manifest(self) -> Any:
        return self.stores[0].manifest


def _prepare(config: TrainConfig) -> _Prepared:
    """Opens the stores; features are read when they are asked for."""
    import numpy as np

    from gvvad_jax import batches

    splits, stores = batches.open_splits(config)
    members = [*splits.train, *splits.held_out]
    synthetic_V = np.array([member.row.source == "synthetic" for member in members])
    drawn = batches.Batches(
        np.array([member.video.label for member in members]),
        synthetic_V,
        config,
        held_out_V=np.arange(len(members)) >= len(splits.train),
    )
    return _Prepared(
        splits=splits,
        stores=stores,
        standard=batches.standardisation(splits.train, config),
        bank_KxE=_read_bank(stores[0]) if config.uses_bank else None,
        synthetic_V=synthetic_V,
        drawn=drawn,
        members=members,
    )


def _feed(config: TrainConfig, ready: _Prepared, runner: Any, workdir: pathlib.Path) -> Any:
    """Where each step's videos come from: the devices where they fit, else mapped files."""
    import jax

    from gvvad_jax import segments

    fixed = segments.Fixed(synthetic_V=ready.synthetic_V, bank_KxE=ready.bank_KxE)
    kept = segments.Segments(ready.members, ready.standard, config)
    if kept.num_bytes / runner.num_devices <= config.device_gigabytes * 1e9:
        return segments.Resident(kept, fixed, ready.drawn, runner)
    folder = workdir / f"segments-{jax.process_index()}-of-{jax.process_count()}"
    kept = segments.Segments(ready.members, ready.standard, config, folder)
    return segments.Ahead(kept, fixed, ready.drawn, runner)


def _require_workdir(config: TrainConfig) -> pathlib.Path:
    """The run's folder, checked to be this run's where it has been begun."""
    if not config.workdir:
        raise UserError("--workdir: expected a folder for the run, found none")
    workdir = pathlib.Path(config.workdir)
    path = workdir / "config.flags"
    ours = _lines(config)
    may_change = set(MAY_CHANGE) | (set() if config.depends_on_steps else {"steps"})
    if config.early_stop:
        may_change.remove("validate_every")
    if path.exists():
        theirs = dict(line.split("=", 1) for line in path.read_text().splitlines())
        changed = [
            f"{key}={theirs.get(key)} there, {ours.get(key)} now"
            for key in sorted(ours.keys() | theirs.keys())
            if ours.get(key) != theirs.get(key) and key.lstrip("-") not in may_change
        ]
        if changed:
            raise UserError(
                f"{workdir}: expected the same flags as the run begun here, found "
                f"{'; '.join(changed)}; give another --workdir or remove it"
            )
    elif (workdir / "model.json").exists():
        raise UserError(
            f"{workdir}: expected an empty folder or a run begun here, found an imported "
            "checkpoint; training would replace it: give another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    return workdir


def _lines(config: TrainConfig) -> dict[str, str]:
    return dict(line.split("=", 1) for line in options.to_flagfile(config).splitlines())


def _read_bank(opened: Store) -> Any:
    """The anomaly-prompt bank that was embedded with the store's text."""
    import numpy as np

    path = opened.path / "bank.npy"
    try:
        bank_KxE = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: expected LAP's anomaly-prompt bank [K, text_dim], found {error}; encode with "
            "text, or use --detector=tevad or --feature_group=visual"
        ) from error
    if bank_KxE.ndim != 2 or bank_KxE.shape[1] != opened.manifest.text["dim"]:
        raise UserError(
            f"{path}: expected [K, {opened.manifest.text['dim']}], found {list(bank_KxE.shape)}; "
            "embed the bank with the store's text encoder"
        )
    _require_encoder(path.with_suffix(".json"), opened)
    return np.float32(bank_KxE)


def _require_encoder(path: pathlib.Path, opened: Store) -> None:
    """Vectors of different text encoders don't mix, whatever their width. Imports have no .json."""
    if not path.exists():
        return
    content, expected = read_json(path), opened.manifest.text["encoder"]
    found = content.get("encoder") if isinstance(content, dict) else content
    if "unknown" not in (found, expected) and found != expected:
        raise UserError(
            f"{path}: expected a bank embedded by {expected!r} as the store's text, found "
            f"{found!r}; encode the store again, or copy bank.npy and bank.json from one of that "
            "encoder"
        )


def _provenance(config: TrainConfig, ready: _Prepared) -> dict[str, Any]:
    """Where a result comes from: code, library versions, and hashes of what it was made of."""
    import importlib.metadata

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    decisions = None
    if config.synthetic_keep:
        decisions = hashlib.sha256(pathlib.Path(config.synthetic_keep).read_bytes()).hexdigest()
    return {
        "commit": _commit(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "stores": [opened.digest() for opened in ready.stores],
        "splits": hashlib.sha256(
            json.dumps(ready.splits.to_json(), sort_keys=True).encode()
        ).hexdigest(),
        "decisions": decisions,
    }


def _commit() -> str:
    """The commit of this code, "unknown" where it was installed without one."""
    folder = pathlib.Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    options.define_flags(TrainConfig)
    run_command(main, usage=__doc__)
