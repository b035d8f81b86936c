"""Training runs: from stores to result.json, resumable at any moment."""

import contextlib
import dataclasses
import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import tqdm

from gvvad_jax import ground_truth, parallel, probing, segments
from gvvad_jax.calibration import Calibrations
from gvvad_jax.command import UserError, raise_if_interrupted
from gvvad_jax.config import TrainConfig
from gvvad_jax.measures import Measures
from gvvad_jax.run import checkpoints, loggers
from gvvad_jax.run import folder as run_folder
from gvvad_jax.run.inputs import Inputs, ahead, make_feed, open_inputs
from gvvad_jax.run.lambda_choice import to_begun
from gvvad_jax.run.log import RunLog
from gvvad_jax.run.selection import Selection
from gvvad_jax.splits import Splits, report_reasons
from gvvad_jax.step import TrainState, init_state
from gvvad_jax.store import folders
from gvvad_jax.store.files import write_json

# A run that takes longer than this says so, after so many steps.
LONG_SECONDS, PACED_STEPS = 1800, 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a training run reached; the content of result.json.

    Attributes:
      last: measures of the last step's checkpoint on the test videos; None without test videos
        that have frame annotations.
      best_on_validation: the same of the checkpoint with the highest validation AUC, with its
        `step`; None, too, without validation videos of both labels.
      best_on_test: the same of the checkpoint with the highest test AUC; None unless
        `TrainConfig.best_on_test` asks for it.
      steps: number of steps done, fewer than asked for after an early stop.
      workdir: the run's folder, which `load` takes.
      provenance: the commit, library versions and digests of the data.
      reports_best_on_test: whether `best_on_test` was asked for.
      calibration: temperature and threshold of each of the checkpoints, by the names above, and
        what they rest on; the content of calibration.Calibration.
      reasons: why a checkpoint has no measures, by its name, and under "synthetic" why no generated
        video of a label trained; measures have reasons of their own.
      probe: what a logistic regression reaches on the test videos, the content of
        probing.Baseline; None without test videos.
      chosen_lambda: what `--lambda_mode=auto` chose, `lambda` in result.json; else None.

    Of several processes (`TrainConfig.processes`) the first one alone measures: in the others
    all measures are None.
    """

    last: Measures | None
    best_on_validation: Measures | None
    best_on_test: Measures | None
    steps: int
    workdir: pathlib.Path
    provenance: Mapping[str, Any]
    reports_best_on_test: bool = False
    calibration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)
    probe: Mapping[str, float | None] | None = None
    chosen_lambda: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of result.json, which doesn't name the folder that it lies in."""
        best: dict[str, Any] = {"best_on_validation": self.best_on_validation}
        if self.reports_best_on_test:
            best["best_on_test"] = self.best_on_test
        return {
            "last": self.last,
            **best,
            "probe": self.probe and dict(self.probe),
            **({"lambda": dict(self.chosen_lambda)} if self.chosen_lambda else {}),
            "calibration": dict(self.calibration),
            "reasons": dict(self.reasons),
            "steps": self.steps,
            "provenance": dict(self.provenance),
        }


def fit(config: TrainConfig) -> Result:
    """Trains a detector; the same call again resumes a run that was stopped at any moment.

    Args:
      config: what to train on what, and the run's folder.

    Returns:
      What the run reached on the test videos.

    Raises:
      UserError: stores or annotations that the run can't use, or a folder of another run; see
        config.py and splits.open_splits.
      Interrupted: the loss or the parameters became NaN.
    """
    if not isinstance(config, TrainConfig):
        raise UserError(
            f"config: expected a TrainConfig, found {type(config).__name__}; give "
            "TrainConfig(store=..., workdir=...)"
        )
    workdir = prepared(config)
    parallel.join(config)
    try:
        return _fit(config, workdir)
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise parallel.lost(error) from error


def prepared(config: TrainConfig) -> pathlib.Path:
    """Sets JAX up for a run, and returns the run's folder; see `fit`."""
    loggers.require(config.loggers)
    if config.precision == "float64":
        jax.config.update("jax_enable_x64", True)
    _keep_programs(config)
    workdir = run_folder.require_flags(config)
    folders.require_own(workdir, "run", flag="--workdir", signs=["config.flags"])
    return workdir


def _keep_programs(config: TrainConfig) -> None:
    """Has JAX keep compiled programs in --compilation_cache, if that folder can be written."""
    if not config.compilation_cache:
        return
    try:
        # Without a home folder, a path with ~ is none.
        cache = pathlib.Path(config.compilation_cache).expanduser()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except (OSError, RuntimeError) as error:
        print(
            f"--compilation_cache={config.compilation_cache}: no compiled programs are kept "
            f"({getattr(error, 'strerror', None) or error})",
            file=sys.stderr,
        )
        # JAX's own variable may name the same folder.
        jax.config.update("jax_compilation_cache_dir", None)
    else:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        # A small run compiles some thirty small programs, which took most of its time.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _fit(config: TrainConfig, workdir: pathlib.Path) -> Result:
    # On every way out, a checkpoint that is being saved is finished first.
    with contextlib.ExitStack() as stack:
        run = Run(config, workdir, stack)
        runner = parallel.Runner(run.trained, run.state)
        feed = stack.enter_context(
            contextlib.closing(make_feed(run.config, run.inputs, runner, workdir))
        )
        run.begin()
        progress = tqdm.tqdm(range(run.start, config.steps), initial=run.start, total=config.steps,
                             desc="train", unit="step", mininterval=1.0,
                             disable=not run.saved)  # fmt: skip
        pace = Pace()
        for step in progress:
            if run.stopped:
                break
            raise_if_interrupted()
            run.after(runner.step(*feed.at(step)), runner.state)
            if run.saved and (told := pace.told(config.steps - run.done)):
                progress.write(told, file=sys.stderr)
            if run.log.latest:
                progress.set_postfix(run.log.latest, refresh=False)
        progress.close()
        return run.finish(runner.state())


class Run:
    """A run that is open in its folder: what it trains on, and what each of its steps entails.

    Of several processes only the first one writes and reads checkpoints; it sends the others what
    they need.

    Args:
      config: what to train on what.
      workdir: the run's folder.
      stack: closes what the run has opened.

    Attributes:
      config: the settings, with the lambda that auto chose.
      trained: those of its training step, which differ where there is one domain.
      inputs: the videos and how they are drawn.
      state: the state at step `start`, where the run begins or goes on.
      saved: its checkpoints; None in all but the first process.
      done: how many steps are done.
      stopped: whether it ended early.

    Raises:
      UserError: see `fit`.
    """

    def __init__(self, config: TrainConfig, workdir: pathlib.Path, stack: contextlib.ExitStack):
        self._workdir, self._stack, self._flags = workdir, stack, config
        self._is_first = jax.process_index() == 0
        self.saved: checkpoints.Checkpoints | None = None
        if self._is_first:
            folders.claim(workdir, "run", flag="--workdir", signs=["config.flags"])
            stack.enter_context(run_folder.locked(workdir))
            self.saved = stack.enter_context(contextlib.closing(checkpoints.Checkpoints(workdir)))
        self.inputs = inputs = open_inputs(config)
        # The lambda that auto chose, for everything but the folder of the run.
        self.config = inputs.config
        if self._is_first:
            _report(self.config, inputs.splits)
            inputs.drawn.report()
        run_folder.require_data(workdir, config, inputs.made_of)
        self.state, self.start = self._first_state()
        self._selection = Selection(
            self.config, inputs.splits, inputs.manifest, inputs.standards.real, self.saved
        )
        # Where no real video is drawn there is one domain, whose statistics are kept for scoring.
        one_domain = dataclasses.replace(self.config, batch_norm="shared")
        draws_real = self.config.synthetic_share != 1 and not inputs.synthetic_V.all()
        self.trained = self.config if draws_real else one_domain
        if self.config.conflicts == "limit" and not draws_real:
            raise UserError(
                "--conflicts=limit: expected real videos, without whose gradient generated ones "
                "move nothing, found none in the batches; take another, or draw real ones"
            )

    def _first_state(self) -> tuple[TrainState, int]:
        """Returns the state to go on from, and its step."""
        config, manifest, saved = self.config, self.inputs.manifest, self.saved
        state = init_state(config, manifest.dim, (manifest.text or {}).get("dim", 0))
        start = int(parallel.from_first((saved.latest("last") or 0) if saved else 0))
        if start > config.steps:
            raise UserError(
                f"--steps: expected at least the {start} that are done in {self._workdir}, found "
                f"{config.steps}; raise it, or give another --workdir"
            )
        if start:
            state = parallel.from_first(saved.restore("last", state) if saved else state)
        return state, start

    def ahead(self, runner: segments.Placing) -> segments.Ahead:
        """Feeds steps with the videos of one batch, which aren't on the devices."""
        return ahead(self.config, self.inputs, runner, self._workdir)

    def begin(self) -> None:
        """Claims the folder; a run that was refused before has left it free."""
        if self._is_first:
            begun = self.inputs.made_of, to_begun(self.inputs.choice)
            run_folder.claim(self._workdir, self._flags, *begun)
            if not (self._workdir / "model.json").exists():
                self._write_model()
        self.log = RunLog(
            self._workdir if self._is_first else None,
            self.start,
            loggers.parse(self.config.loggers),
            dataclasses.asdict(self._flags),
        )
        self._stack.enter_context(contextlib.closing(self.log))
        self._waiting: tuple[int, Mapping[str, jax.Array]] | None = None
        self.done, self.stopped = self.start, self._selection.stale(self.start)

    def _write_model(self, *calibrations: Calibrations) -> None:
        standard = self.inputs.standards.real.to_json()
        checkpoints.write_model(
            self._workdir, self._flags, self.inputs.manifest, standard, *calibrations
        )

    def after(self, metrics: Mapping[str, jax.Array], state: Callable[[], TrainState]) -> None:
        """Logs, validates and saves what a step calls for.

        Args:
          metrics: the step's metrics, which may still be computed.
          state: gives the state after the step.

        Raises:
          Interrupted: the loss or the parameters became NaN.
        """
        config = self.config
        # Reads the metrics of the step before, so that the device never waits for the host.
        if self._waiting:
            self.log.training(*self._waiting, config.log_every)
        self.done += 1
        self._waiting = self.done, metrics
        is_last = self.done == config.steps
        validates = is_last or self.done % config.validate_every == 0
        saves = is_last or self.done % config.checkpoint_every == 0
        if validates or saves:
            # Checks this step too before it is chosen or saved: a NaN ends the run here.
            self.log.training(*self._waiting, config.log_every)
            self._waiting = None
        if validates:
            self.log.write(self.done, self._selection.consider(self.done, state()))
            self.stopped = self._selection.stale(self.done)
        if self.saved and (saves or self.stopped):
            self.saved.save("last", self.done, state(), [])

    def finish(self, state: TrainState) -> Result:
        """Measures the run and writes its result."""
        if self.saved:
            self.saved.wait()
        measured = self._selection.results(state) if self.saved else {}
        calibrations = self._selection.calibrations()
        result = self._result(measured, calibrations)
        if self._is_first:
            self._write_model(calibrations)
            path = self._workdir / "result.json"
            is_new = self.done > self.start or not path.exists()
            write_json(path, result.to_json())
            if is_new:
                self.log.finish(result.last or {})
        return result

    def _result(
        self, measured: Mapping[str, Measures | None], calibrations: Calibrations
    ) -> Result:
        """What a finished run reached, and from what; only the first process measures."""
        inputs, config = self.inputs, self.config
        reasons = {kind: why for kind, why in self._selection.reasons().items() if kind in measured}
        reasons |= {kind: why for kind, why in inputs.splits.reasons.items() if kind == "synthetic"}
        return Result(
            last=measured.get("last"),
            best_on_validation=measured.get("best_on_validation"),
            best_on_test=measured.get("best_on_test"),
            steps=self.done,
            workdir=self._workdir,
            provenance=_provenance(inputs) | {"rows_verified": config.verify_rows},
            reports_best_on_test=config.best_on_test,
            calibration={kind: c.to_json() for kind, c in calibrations.checkpoints.items()},
            reasons=reasons,
            probe=_probe(config, inputs.splits) if self._is_first else None,
            chosen_lambda=inputs.choice.to_json() if inputs.choice else None,
        )


class Pace:
    """Tells once, when a run has started, that it will be a long one.

    Args:
      clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._times = clock, list[float]()

    def told(self, steps_left: int) -> str | None:
        """Returns the line to print after a step; None almost always."""
        if len(self._times) > PACED_STEPS:
            return None
        self._times.append(self._clock())
        # The first step's time is that of compiling.
        if len(self._times) <= PACED_STEPS:
            return None
        seconds = (self._times[-1] - self._times[0]) / PACED_STEPS
        if seconds * steps_left <= LONG_SECONDS:
            return None
        return (
            f"this run will take another {seconds * steps_left / 3600:.1f} hours, {seconds:.2g} "
            "seconds a step; fewer --steps and --segments, smaller --mtn_channels and "
            "--head_widths, and --train_crops=1 where there are ten cost less; for up to 50 videos "
            "of a label take configs/small.flags. It can be stopped and resumed"
        )


def _probe(config: TrainConfig, splits: Splits) -> dict[str, Any] | None:
    """What training has to beat on the test videos."""
    return probing.baseline(splits, config).to_json() if splits.test else None


def _report(config: TrainConfig, splits: Splits) -> None:
    """Reports settings and data that are accepted but may not be what was meant."""
    report_reasons(splits)
    if config.top_k > config.bag:
        kind = "snippets" if config.causal_window else "segments"
        print(
            f"--top_k={config.top_k} is more than the {config.bag} {kind} of a training "
            "video: all of them stand for it",
            file=sys.stderr,
        )
    if config.lambda_value < 0 and config.synthetic_store:
        print(
            f"--lambda_value={config.lambda_value:g} is negative: training raises the generated "
            "videos' loss",
            file=sys.stderr,
        )
    by_domain = "domain" in config.batch_norm or config.standardise_by == "domain"
    if by_domain and all(member.row.source != "real" for member in splits.train):
        print(
            "no real training video: generated ones are normalised by their own statistics, and "
            "so is what is scored",
            file=sys.stderr,
        )
    elif config.normalises_by_domain and config.synthetic_share == 1:
        print(
            "--synthetic_share=1: no real video is drawn, so BatchNorm keeps the generated ones' "
            "statistics, and scores by them",
            file=sys.stderr,
        )
    seen = [*splits.train, *splits.held_out, *splits.validation]
    ground_truth.report_contradictions(seen, config.annotations)
    ground_truth.report_alignment(splits.test or seen)


def _provenance(inputs: Inputs) -> dict[str, Any]:
    """The commit of this code, the library versions, and digests of the data."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"commit": _commit(), "versions": versions} | inputs.made_of


def _commit() -> str:
    """The commit of this code; "unknown" where it was installed without its repository."""
    path = pathlib.Path(__file__)
    git = ["git", "-C", str(path.parent)]
    try:
        # The first command fails where the code isn't tracked: an environment may lie inside
        # another repository, whose commit says nothing about this code.
        for command in (
            ["ls-files", "--error-unmatch", path.name],
            ["describe", "--always", "--dirty", "--abbrev=40"],
        ):
            done = subprocess.run([*git, *command], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()
