"""Trains a detector on real and generated videos that carry video-level labels only.

    python -m gvvad_jax.train --flagfile=configs/ucf_crime.flags --store=REAL \\
        --synthetic_store=SYN --synthetic_keep=decisions.jsonl --workdir=W

Killed at any moment, the same command resumes and ends with the same numbers. The run's folder
gets config.flags, model.json, metrics.jsonl, TensorBoard events, checkpoints/ and result.json.
"""

import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
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
    selection = _Selection(config, ready, saved)
    runner = parallel.Runner(config, state)
    feed = _feed(config, ready, runner, workdir)
    if is_first:
        # Only a run that can start claims its folder.
        write_atomically(workdir / "config.flags", options.to_flagfile(config).encode())
        bank = None if ready.bank_KxE is None else ready.bank_KxE.tolist()
        checkpoints.write_model(workdir, config, ready.manifest, ready.standard.to_json(), bank)
    log = _Log(workdir if is_first else None, start)

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

    @property
    def manifest(self) -> Any:
        return self.stores[0].manifest

    @property
    def members(self) -> list[Any]:
        """All whose features a step may ask for, in the order of their numbers."""
        return [*self.splits.train, *self.splits.held_out]


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


class _Log:
    """metrics.jsonl and TensorBoard. A resumed run's log reads like an uninterrupted one's.

    Without a folder it only looks out for NaN.
    """

    def __init__(self, workdir: pathlib.Path | None, start: int):
        self._file = self._board = None
        if workdir is None:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= start]
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115
        self._folder, self._start = workdir / "tensorboard", start

    def training(self, step: int, metrics: Any, every: int) -> None:
        """Fetches a step's metrics, stops on a NaN, and writes them at the log's pace."""
        import jax
        import numpy as np

        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        if not np.isfinite(values["loss"]):
            raise FloatingPointError(f"step {step}: loss is {values['loss']}; metrics: {values}")
        if step % every == 0:
            self.write(step, values)

    def write(self, step: int, values: dict[str, float]) -> None:
        if not values or not self._file:
            return
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        if not self._board:
            import tensorboardX  # A second, which the first step needn't wait for.

            self._board = tensorboardX.SummaryWriter(
                str(self._folder), purge_step=self._start, write_to_disk=True
            )
        for name, value in values.items():
            if value is not None:
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        for opened in (self._file, self._board):
            if opened:
                opened.close()


def _whole_lines(path: pathlib.Path) -> Iterator[str]:
    """Lines of a log, less the one that a kill cut short."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            json.loads(line)
        except ValueError:
            return
        yield line


class _Selection:
    """Which checkpoints are best, and what they reach on the test set.

    Validation videos have video labels only: best_on_validation has the highest video-level AUC
    of top-k mean scores, ties by validation loss. The test set selects nothing unless
    best_on_test is asked for.
    """

    def __init__(self, config: TrainConfig, ready: _Prepared, saved):
        from gvvad_jax import score, step

        splits = ready.splits
        if config.early_stop and not splits.validation:
            raise UserError(
                "--early_stop: expected validation videos, found none (fewer than five training "
                "videos of a label, or --validation_share=0); name some in videos.json or set it "
                "to 0"
            )
        self._splits, self._config, self._saved = splits, config, saved
        self._model = score.Model(
            config=config,
            manifest=ready.manifest,
            standard=ready.standard,
            variables=None,
            score_step=step.make_score_step(config),
        )
        has_frames = [m for m in splits.test if m.video.abnormal_frames is not None
                      or not m.video.label]  # fmt: skip
        self._test = splits.test if len(has_frames) == len(splits.test) else []
        if splits.test and not self._test:
            print("test videos without abnormal_frames: no frame-level result", file=sys.stderr)

    def _at(self, state) -> Any:
        from gvvad_jax import step

        return dataclasses.replace(self._model, variables=step.scoring_variables(state))

    def stale(self, step: int) -> bool:
        """Whether the last --early_stop validations brought nothing better."""
        from gvvad_jax import parallel

        if not self._config.early_stop:
            return False
        best = self._saved and self._saved.latest("best_on_validation")
        patience = self._config.early_stop * self._config.validate_every
        return bool(parallel.from_first(best is not None and step - best >= patience))

    def consider(self, step: int, state) -> dict[str, float]:
        """Saves the state where it is the best so far; returns the measures to log."""
        if not self._saved:
            return {}
        from gvvad_jax import evaluate

        model, measures = self._at(state), {}
        if self._splits.validation:
            auc, loss = self._validate(model)
            measures |= {"validation_auc": auc, "validation_loss": loss}
            self._keep("best_on_validation", step, state, [auc, -loss])
        if self._config.best_on_test and self._test:
            auc = evaluate.of_members(model, self._test)["auc"]
            measures["test_auc"] = auc
            self._keep("best_on_test", step, state, [auc])
        return measures

    def _keep(self, kind: str, step: int, state, measure: list[float]) -> None:
        best = self._saved.measure(kind)
        # Seen before the kill that this run resumes from.
        seen = step <= (self._saved.latest(kind) or 0)
        if not seen and (best is None or measure > best):
            self._saved.save(kind, step, state, measure)

    def _validate(self, model) -> tuple[float, float]:
        import numpy as np

        from gvvad_jax import metrics

        members = self._splits.validation
        scores = model.scores(
            {m.video.id: (m.store.visual(m.video.id), m.store.text(m.video.id)) for m in members}
        )
        of_video = np.array(
            [metrics.video_score(scores[m.video.id], self._config.top_k) for m in members]
        )
        labels = np.array([m.video.label for m in members])
        chance = np.clip(np.where(labels, of_video, 1 - of_video), 1e-7, 1)
        return metrics.roc_auc(of_video, labels), float(-np.log(chance).mean())

    def results(self, state) -> dict[str, Any]:
        """Test measures of the last and the best checkpoints, None where there is none."""
        from gvvad_jax import evaluate

        kinds = ["best_on_validation"] + ["best_on_test"] * self._config.best_on_test
        found = {"last": evaluate.of_members(self._at(state), self._test) if self._test else None}
        for kind in kinds:
            step = self._saved.latest(kind)
            found[kind] = None
            if step is not None and self._test:
                best = self._at(self._saved.restore(kind, state))
                found[kind] = evaluate.of_members(best, self._test) | {"step": step}
        return found


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
