"""Runs a study's grid: which row on which worker, and the table after every row."""

import contextlib
import dataclasses
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gvvad_jax import seeds
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import folders
from gvvad_jax.store.files import write_json
from gvvad_jax.store.workers import Outcome, Worker, cores, ready, value
from tools.studies import draws, grid, rows
from tools.studies.grid import Arm, Cell, GridStudy

Prepare = Callable[[GridStudy, int, bool], draws.Draw]
Train = Callable[[TrainConfig], Mapping[str, Any]]


def run(
    study: GridStudy,
    train: TrainConfig,
    arms: Sequence[Arm],
    *,
    prepare: Prepare = draws.prepare,
    train_row: Train = rows.train,
) -> int:
    """Runs the rows of a study that its table doesn't hold.

    Args:
      study: the grid.
      train: flags of training that all arms share.
      arms: the arms.
      prepare: makes the stores of a draw, in a worker.
      train_row: trains a row's run, in a worker.

    Returns:
      How many rows couldn't be run; each was reported in a line.

    Raises:
      UserError: the study's table or folder is another's, or another process runs the study.
      Interrupted: a worker died.
    """
    table = Table(study, train, arms)
    name = pathlib.Path(study.csv).stem
    folder = folders.claim(study.folder, "study", signs=("runs", "summary.json")) / "runs" / name
    folder.mkdir(parents=True, exist_ok=True)
    busy = folders.busy(study.csv, "run this study")
    with folders.locked(folder.with_name(f".lock-{name}"), busy), contextlib.ExitStack() as stack:
        todo = table.todo()
        if not todo:
            return 0
        # One core also for a single process: the number of threads changes the order of sums.
        own = cores() or [None]
        trainers = [
            Worker(folder / f"worker-{i}.log", own[i % len(own)]) for i in range(study.jobs)
        ]
        preparer = Worker(folder / "prepare.log")
        for worker in (*trainers, preparer):
            stack.callback(worker.end)
        at_once = study.seeds_at_once
        if not at_once:
            trainers[0].start(seeds.usual_at_once, study.seeds)
            at_once = value(trainers[0])
        return _Run(
            study, arms, table, folder, trainers, preparer, prepare, train_row, at_once
        ).run(todo)


class Table:
    """A study's table: which rows it holds, in the order of the grid."""

    def __init__(self, study: GridStudy, train: TrainConfig, arms: Sequence[Arm]):
        self._path = pathlib.Path(study.csv)
        self._study, self._arms = study, {arm.name: arm for arm in arms}
        self._train = train
        self._digests: dict[tuple[str, str], str] = {}
        self._rows = {row.cell: row for row in rows.read(self._path)}

    def digest(self, cell: Cell) -> str:
        """Returns the digest of a row's flags."""
        key = cell.arm, cell.detector
        if key not in self._digests:
            arm = self._arms[cell.arm]
            self._digests[key] = grid.flags_digest(self._study, self._train, arm, cell.detector)
        return self._digests[key]

    def todo(self) -> list[Cell]:
        """Lists the rows that are missing, or were run with other flags, which is reported."""
        cells = list(grid.cells(self._study, list(self._arms.values())))
        outdated = [c for c in cells if c in self._rows and self._rows[c].flags != self.digest(c)]
        todo = [cell for cell in cells if cell not in self._rows or cell in outdated]
        print(f"{self._path}: {len(todo)} of {len(cells)} rows to run", file=sys.stderr)
        if outdated:
            print(
                f"{self._path}: {len(outdated)} rows are of other flags and are run again, first: "
                f"{outdated[0]}",
                file=sys.stderr,
            )
        if others := len(self._rows.keys() - set(cells)):
            print(f"{self._path}: {others} rows aren't of this grid; they stay", file=sys.stderr)
        return todo

    def config(self, cell: Cell) -> TrainConfig:
        """Returns the flags of a row's run, without its data."""
        config = grid.arm_config(self._train, self._arms[cell.arm], cell.detector)
        return dataclasses.replace(config, seed=grid.run_seed(cell))

    def add(self, cell: Cell, measures: rows.Measures) -> None:
        """Adds a row to the table as it is by now, and writes it."""
        self._rows = {row.cell: row for row in rows.read(self._path)}
        self._rows[cell] = rows.Row(cell, self.digest(cell), measures)
        rows.write(self._path, sorted(self._rows.values(), key=lambda row: self._place(row.cell)))

    def _place(self, cell: Cell) -> tuple[Any, ...]:
        """A row's place in the table, which doesn't depend on which rows there are."""
        study, arms = self._study, list(self._arms)

        def place(value: Any, order: Sequence[Any]) -> tuple[int, str]:
            return (order.index(value), "") if value in order else (len(order), str(value))

        return (
            cell.draw,
            cell.seed,
            place((cell.normal, cell.abnormal), study.numbers),
            place(cell.gap, ["", *study.gap_names]) if len(study.gap_names) > 1 else (0, ""),
            place(cell.arm, arms),
            place(cell.detector, study.detector_names),
            dataclasses.astuple(cell),
        )


class _Run:
    """The rows of a study on their way through the workers."""

    def __init__(
        self,
        study: GridStudy,
        arms: Sequence[Arm],
        table: Table,
        folder: pathlib.Path,
        trainers: Sequence[Worker],
        preparer: Worker,
        prepare: Prepare,
        train_row: Train,
        at_once: int,
    ):
        self._at_once = at_once
        self._study, self._table, self._folder = study, table, folder
        self._arms = {arm.name: arm for arm in arms}
        self._trainers, self._preparer = trainers, preparer
        self._prepare, self._train_row = prepare, train_row
        self._draws: dict[int, draws.Draw] = {}
        self._busy: dict[Worker, list[Cell] | int] = {}
        self._detectors: dict[Worker, str] = {}
        self._failed = self._done = 0

    def run(self, todo: list[Cell]) -> int:
        """Runs rows; returns how many couldn't be run."""
        self._count = len(todo)
        while True:
            self._start_preparing(todo)
            for worker in self._trainers:
                if worker not in self._busy and (cells := self._next(worker, todo)):
                    todo[:] = [cell for cell in todo if cell not in cells]
                    self._start(worker, cells)
            if not self._busy:
                return self._failed
            for worker in ready(self._busy):
                self._take(worker, self._busy.pop(worker), worker.outcome(), todo)

    def _start_preparing(self, todo: Sequence[Cell]) -> None:
        """Prepares the next draw as soon as the rows of the last one have begun."""
        numbers = list(dict.fromkeys(cell.draw for cell in todo))
        missing = [number for number in numbers if number not in self._draws]
        if missing and self._preparer not in self._busy and len(numbers) - len(missing) < 2:
            with_clips = any(arm.generated for arm in self._arms.values())
            print(f"draw {missing[0]}: preparing its videos", file=sys.stderr, flush=True)
            self._busy[self._preparer] = missing[0]
            self._preparer.start(self._prepare, self._study, missing[0], with_clips)

    def _next(self, worker: Worker, todo: Sequence[Cell]) -> list[Cell]:
        """Chooses a row of the first pair that has any left, of the worker's last detector if any.

        So programs are compiled in few workers, and what is finished is a whole, smaller study.
        Rows that differ in the seed alone may come with it, to train in one program.
        """
        ready = [cell for cell in todo if cell.draw in self._draws]
        window = [cell for cell in ready if cell.pair == ready[0].pair]
        others = {self._detectors[w] for w in self._busy if w in self._detectors}
        own = [cell for cell in window if cell.detector == self._detectors.get(worker)]
        free = [cell for cell in window if cell.detector not in others]
        chosen = [*own, *free, *window][:1]
        alike = [
            cell
            for first in chosen
            for cell in ready
            if cell != first and dataclasses.replace(cell, seed=first.seed) == first
        ]
        return [*chosen, *alike][: self._at_once]

    def _start(self, worker: Worker, cells: list[Cell]) -> None:
        self._busy[worker], self._detectors[worker] = cells, cells[0].detector
        configs = [self._config(cell) for cell in cells]
        worker.start(_train_on, self._train_row, configs, self._draws[cells[0].draw], cells)

    def _config(self, cell: Cell) -> TrainConfig:
        arm, draw = self._arms[cell.arm], self._draws[cell.draw]
        clips = draw.clips[cell.gap] if arm.generated else None
        name = f"{cell.footage}-{cell.draw:03d}-{cell.seed}-{cell.normal}+{cell.abnormal}"
        number = list(self._arms).index(cell.arm)
        run_name = f"{name}-gap{cell.gap}-arm{number}-{cell.detector}"
        return dataclasses.replace(
            self._table.config(cell),
            store=draw.store,
            synthetic_store=clips.store if clips else "",
            synthetic_keep=clips.decisions(arm.keep, cell.seed) if clips else "",
            # In the study's own folder: another one may divide the same videos otherwise.
            annotations=str(self._folder / f"{name}.json"),
            workdir=str(self._folder / run_name),
        )

    def _take(
        self, worker: Worker, work: list[Cell] | int, outcome: Outcome, todo: list[Cell]
    ) -> None:
        """Takes in what a worker has done."""
        if isinstance(work, int):
            if outcome.refused:
                lost = [cell for cell in todo if cell.draw == work]
                todo[:] = [cell for cell in todo if cell.draw != work]
                self._failed += len(lost)
                print(f"draw {work}: {len(lost)} rows not run: {outcome.refused}", file=sys.stderr)
            else:
                self._draws[work] = outcome.value
            return
        for cell, measures in zip(
            work, outcome.value or [outcome.refused] * len(work), strict=True
        ):
            self._take_row(cell, measures)

    def _take_row(self, cell: Cell, measures: Mapping[str, Any] | str) -> None:
        """Takes in what a row reached, or why it couldn't be run."""
        self._done += 1
        if isinstance(measures, str):
            self._failed += 1
            print(f"{cell}: not run: {measures}", file=sys.stderr, flush=True)
            return
        self._table.add(cell, measures)
        # Only what is in the table is removed.
        shutil.rmtree(self._config(cell).workdir, ignore_errors=True)
        auc, seconds = measures["auc"], measures["cpu_seconds"]
        shown = "-" if auc is None else f"{auc:.3f}"
        print(
            f"{self._done} of {self._count}: {cell}: AUC {shown} ({seconds:.1f} s)",
            file=sys.stderr,
            flush=True,
        )


def _train_on(
    train_row: Train, configs: Sequence[TrainConfig], draw: draws.Draw, cells: Sequence[Cell]
) -> Sequence[Mapping[str, Any] | str]:
    """Writes the lists of rows' real videos and trains in empty folders; in a worker."""
    for config, cell in zip(configs, cells, strict=True):
        # A run that was killed may be of other flags by now.
        shutil.rmtree(config.workdir, ignore_errors=True)
        write_json(pathlib.Path(config.annotations), draws.subset(draw, cell).to_json())
    return rows.train_together(configs) if len(configs) > 1 else [train_row(configs[0])]
