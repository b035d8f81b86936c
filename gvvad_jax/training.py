"""Training runs: from stores to result.json, resumable at any moment."""

import contextlib
import pathlib
import subprocess
from collections.abc import Sequence
from typing import Any, NamedTuple

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.run import folder as run_folder
from gvvad_jax.store import digests
from gvvad_jax.store.files import load_array, read_json, write_json
from gvvad_jax.store.format import bank_faults
from gvvad_jax.store.reader import Store


def train(config: TrainConfig) -> dict[str, Any]:
    """One training run, from stores to result.json.

    Args:
      config: what to train on what.

    Returns:
      The content of result.json: `last`, `best_on_validation`, `best_on_test` (each the test
      set's measures, or None), `steps` done (fewer than asked for after an early stop) and
      `provenance`.

    Raises:
      UserError: see config.py and batches.open_splits; also a workdir of another run.
      Interrupted: the loss or the parameters became NaN.
    """
    import jax

    from gvvad_jax import parallel

    if config.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    if config.compilation_cache:
        cache = pathlib.Path(config.compilation_cache).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
    workdir = run_folder.require_flags(config)
    parallel.join(config)
    try:
        return _train(config, workdir)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise parallel.lost(error) from error


def _train(config: TrainConfig, workdir: pathlib.Path) -> dict[str, Any]:
    import jax

    from gvvad_jax import parallel
    from gvvad_jax.run import checkpoints
    from gvvad_jax.run.log import RunLog
    from gvvad_jax.run.selection import Selection
    from gvvad_jax.step import init_state

    # The first process alone writes, and knows of checkpoints; the others are told.
    is_first = jax.process_index() == 0
    # Closed however it ends: what is being saved then is saved whole.
    with contextlib.ExitStack() as opened:
        saved = None
        if is_first:
            opened.enter_context(run_folder.locked(workdir))
            saved = opened.enter_context(contextlib.closing(checkpoints.Checkpoints(workdir)))
        ready = _prepare(config)
        run_folder.require_data(workdir, config, ready.made_of)
        text_dim = (ready.manifest.text or {}).get("dim", 0)
        state = init_state(config, ready.manifest.dim, text_dim)
        start = int(parallel.from_first((saved.latest("last") or 0) if saved else 0))
        if start > config.steps:
            raise UserError(
                f"--steps: expected at least the {start} that are done in {workdir}, found "
                f"{config.steps}; raise it, or give another --workdir"
            )
        if start:
            state = parallel.from_first(saved.restore("last", state) if saved else state)
        selection = Selection(config, ready.splits, ready.manifest, ready.standard, saved)
        runner = parallel.Runner(config, state)
        feed = opened.enter_context(contextlib.closing(_feed(config, ready, runner, workdir)))
        if is_first:
            run_folder.claim(workdir, config, ready.made_of)
            if not (workdir / "model.json").exists():
                standard = ready.standard.to_json()
                checkpoints.write_model(workdir, config, ready.manifest, standard)
        log = opened.enter_context(contextlib.closing(RunLog(workdir if is_first else None, start)))
        done = _run_steps(config, start, runner, feed, selection, saved, log)
        if not saved:
            return {}
        saved.wait()
        result = selection.results(runner.state())
        result |= {"steps": done, "provenance": _provenance(ready)}
        write_json(workdir / "result.json", result)
        return result


def _run_steps(
    config: TrainConfig, start: int, runner: Any, feed: Any, selection: Any, saved: Any, log: Any
) -> int:
    """The training loop; returns how many steps are done."""
    import tqdm

    progress = tqdm.tqdm(range(start, config.steps), initial=start, total=config.steps,
                         desc="train", unit="step", mininterval=1.0,
                         disable=not saved)  # fmt: skip
    waiting: tuple[int, Any] | None = None
    done, stopped = start, selection.stale(start)
    for step in progress:
        if stopped:
            break
        metrics = runner.step(*feed.at(step))
        # One transfer a step, of the step before: the device is never waited for.
        if waiting:
            log.training(*waiting, config.log_every)
        done = step + 1
        waiting = done, metrics
        is_last = done == config.steps
        validates = is_last or done % config.validate_every == 0
        saves = is_last or done % config.checkpoint_every == 0
        if validates or saves:
            # Here it is: what isn't finite is neither chosen nor saved.
            log.training(*waiting, config.log_every)
            waiting = None
        if validates:
            log.write(done, selection.consider(done, runner.state()))
            stopped = selection.stale(done)
        if saved and (saves or stopped):
            saved.save("last", done, runner.state(), [])
    progress.close()
    return done


class _Prepared(NamedTuple):
    """What a run is made of: its videos and how they are drawn."""

    splits: Any
    stores: Sequence[Store]
    standard: Any
    bank_KxE: Any
    synthetic_V: Any
    drawn: Any
    members: Sequence[Any]  # All whose features a step may ask for, by their number.
    made_of: dict[str, Any]  # Hashes of what was read.

    @property
    def manifest(self) -> Any:
        return self.stores[0].manifest


def _prepare(config: TrainConfig) -> _Prepared:
    """Opens the stores; features are read when they are asked for."""
    import numpy as np

    from gvvad_jax import batches
    from gvvad_jax.splits import open_splits, standardisation

    splits, stores = open_splits(config)
    members = [*splits.train, *splits.held_out]
    synthetic_V = np.array([member.row.source == "synthetic" for member in members])
    drawn = batches.Batches(
        np.array([member.video.label for member in members]),
        synthetic_V,
        config,
        held_out_V=np.arange(len(members)) >= len(splits.train),
    )
    bank_KxE = _read_bank(stores[0]) if config.uses_bank else None
    return _Prepared(
        splits=splits,
        stores=stores,
        standard=standardisation(splits.train, config),
        bank_KxE=bank_KxE,
        synthetic_V=synthetic_V,
        drawn=drawn,
        members=members,
        made_of=_made_of(config, splits, stores, bank_KxE),
    )


def _made_of(
    config: TrainConfig, splits: Any, stores: Sequence[Store], bank_KxE: Any
) -> dict[str, Any]:
    """Hashes of all that a run's steps depend on and its flags only name; None for what isn't."""
    named = [*splits.train, *splits.held_out, *splits.validation]
    labels = sorted((member.video.id, member.video.label) for member in named)
    keep = config.synthetic_keep
    return {
        "stores": [opened.digest() for opened in stores],
        "splits": digests.of_json(splits.to_json()),
        "labels": digests.of_json(labels),
        "decisions": digests.of_file(keep) if keep else None,
        "bank": None if bank_KxE is None else digests.of_bytes(bank_KxE.tobytes()),
    }


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


def _read_bank(opened: Store) -> Any:
    """The anomaly-prompt bank that was embedded with the store's text."""
    import numpy as np

    path = opened.path / "bank.npy"
    bank_KxE = load_array(
        path,
        "LAP's anomaly-prompt bank [K, text_dim] (else encode with text, or use --detector=tevad "
        "or --feature_group=visual)",
    )
    if faults := bank_faults(bank_KxE, opened.manifest):
        raise UserError(f"{path}: {faults[0]}; embed the bank again, by the store's text encoder")
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


def _provenance(ready: _Prepared) -> dict[str, Any]:
    """Where a result comes from: code, library versions, and hashes of what it was made of."""
    import importlib.metadata

    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"commit": _commit(), "versions": versions} | ready.made_of


def _commit() -> str:
    """The commit of this code, "unknown" where it was installed without one."""
    path = pathlib.Path(__file__)
    git = ["git", "-C", str(path.parent)]
    try:
        # Else an environment inside another repository would have that one's commit.
        for command in (
            ["ls-files", "--error-unmatch", path.name],
            ["describe", "--always", "--dirty", "--abbrev=40"],
        ):
            done = subprocess.run([*git, *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
