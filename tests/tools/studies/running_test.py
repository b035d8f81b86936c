"""Running a grid: in worker processes, resumed after a kill, row by row."""

import functools
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.store import annotations
from gvvad_jax.store.reader import Store
from tools.studies import draws, grid, rows, running

ARMS = ["real: --keep=none", "all: --keep=all", "random: --keep=random"]
# Runs the study of `make` in another process.
KILLED = """
import sys
from tests.tools.studies import running_test
running_test.run(sys.argv[1], train_row=running_test.train_until_killed)
"""


def make(folder, **fields):
    """A grid of 2 draws x 2 seeds x 2 numbers x 3 arms x 2 detectors: 24 rows without its gaps."""
    fields = {
        "csv": f"{folder}/t.csv", "out": f"{folder}/out", "draws": 2, "seeds": 2,
        "counts": "2+1,2+2", "detectors": "rtfm,lap", "jobs": 2,
    } | fields  # fmt: skip
    return grid.GridStudy(**fields)


def prepare(study, number, with_clips):
    """A draw without any store."""
    content = {
        f"{split}-{label}{i}": {"file": "x.mp4", "label": label, "split": split}
        for split in ("train", "test") for label in (0, 1) for i in range(4)
    }  # fmt: skip
    (study.folder / "splits").mkdir(exist_ok=True)
    clips = draws.Clips("made", "filtered.jsonl", ("random-0.jsonl", "random-1.jsonl"))
    listed = annotations.from_json({"videos": content}, "videos.json")
    return draws.Draw(f"real-{number}", listed, {"1": clips} if with_clips else {})


def no_draw_1(study, number, with_clips):
    if number == 1:
        raise UserError("videos.json: expected videos,\n found none")
    return prepare(study, number, with_clips)


def train(config):
    """Notes the run instead of training; lambda and steps say what it was given."""
    workdir = pathlib.Path(config.workdir)
    workdir.mkdir()
    (workdir / "checkpoint").write_text("")
    cores = os.sched_getaffinity(0)
    line = " ".join(
        map(str, (workdir.name, config.store, config.synthetic_store, config.synthetic_keep,
                  config.seed, *cores, os.getpid()))
    )  # fmt: skip
    with open(workdir.parent / "ran.txt", "a") as file:
        file.write(line + "\n")
    trained = annotations.load(config.annotations).in_split("train")
    values = {"auc": len(trained) / 10, "steps": config.seed, "cpu_seconds": 1.0}
    return dict.fromkeys(rows.MEASURES) | values


def train_until_killed(config):
    ran = pathlib.Path(config.workdir).with_name("ran.txt")
    if ran.exists() and len(ran.read_text().splitlines()) >= 9:
        os.kill(os.getppid(), signal.SIGKILL)
    return train(config)


def train_but_lap(config):
    if config.detector == "lap":
        raise (Interrupted if config.synthetic_store else UserError)("LAP: no\nvideos")
    return train(config)


def train_wrongly(config):
    raise KeyError("a fault")


def die(config):
    os._exit(7)


def run(folder, train_row=train, prepare=prepare, arms=ARMS, flags=None, **fields):
    config = TrainConfig(**(flags or {}))
    return running.run(
        make(folder, **fields), config, grid.parse_arms(arms), prepare=prepare, train_row=train_row
    )


def ran(folder):
    """What `train` noted of each run, and forgets it."""
    path = pathlib.Path(folder) / "out" / "runs" / "t" / "ran.txt"
    if not path.exists():
        return []
    lines = [line.split(" ") for line in path.read_text().splitlines()]
    path.unlink()
    return lines


def test_every_row_is_run_once_in_two_processes_on_their_data(tmp_path, capfd):
    assert run(tmp_path) == 0
    table = rows.read(tmp_path / "t.csv")
    expected = list(grid.cells(make(tmp_path), grid.parse_arms(ARMS)))
    assert [row.cell for row in table] == expected and len(table) == 48
    for row in table:
        assert row.measures["auc"] == (row.cell.normal + row.cell.abnormal) / 10
        assert row.measures["steps"] == 1000 * row.cell.draw + row.cell.seed
    lines = ran(tmp_path)
    assert len({line[0] for line in lines}) == len(lines) == 48
    assert len({line[-1] for line in lines}) == 2
    assert {len(line) for line in lines} == {7}  # One core each.
    stores = {(line[0].split("-")[4], *line[1:4]) for line in lines if "world-001-1" in line[0]}
    assert {store[1:] for store in stores} == {
        ("real-1", "", ""), ("real-1", "made", ""), ("real-1", "made", "random-1.jsonl"),
    }  # fmt: skip
    # What is in the table needs no folder.
    assert [p.name for p in (tmp_path / "out" / "runs" / "t").iterdir() if p.is_dir()] == []
    shown = capfd.readouterr().err
    assert "48 of 48 rows to run" in shown and shown.count("AUC 0.300 (1.0 s)") == 24
    assert run(tmp_path) == 0 and ran(tmp_path) == []


def test_a_kill_at_any_moment_loses_only_rows_in_progress(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)], check=False, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    before, first = rows.read(tmp_path / "t.csv"), ran(tmp_path)
    assert len(first) >= 9 and len(before) >= len(first) - 2
    # The first rows of the grid, but for those in progress.
    expected = list(grid.cells(make(tmp_path), grid.parse_arms(ARMS)))
    assert {row.cell for row in before} <= set(expected[: len(before) + 6])
    assert run(tmp_path) == 0
    assert len(ran(tmp_path)) == 48 - len(before)
    assert [row.cell for row in rows.read(tmp_path / "t.csv")] == expected


def test_rows_of_other_flags_are_run_again_in_one_line(tmp_path, capfd):
    run(tmp_path, jobs=1, draws=1, seeds=1, counts="2+1")
    capfd.readouterr()
    ran(tmp_path)
    flags = {"lambda_value": 0.25}
    run(tmp_path, jobs=1, draws=1, seeds=1, counts="2+1", flags=flags)
    # Real videos alone don't depend on lambda.
    assert len(ran(tmp_path)) == 4
    shown = capfd.readouterr().err
    assert "4 rows are of other flags and are run again, first: draw 0, seed 0, 2+1" in shown
    # A smaller grid leaves the other rows where they are.
    run(
        tmp_path,
        jobs=1,
        draws=1,
        seeds=1,
        counts="2+1",
        flags=flags,
        detectors="lap",
        arms=ARMS[1:],
    )
    assert ran(tmp_path) == [] and "4 rows aren't of this grid; they stay" in capfd.readouterr().err
    assert len(rows.read(tmp_path / "t.csv")) == 6


def train_beside_another_study(config):
    """The other one divides the same videos otherwise, under the same folder."""
    path = pathlib.Path(config.annotations)
    assert path.is_relative_to(pathlib.Path(config.workdir).parent)
    return train(config)


def test_a_row_trains_on_the_videos_that_its_own_study_drew(tmp_path):
    fields = {"jobs": 1, "draws": 1, "seeds": 1, "counts": "2+1", "detectors": "rtfm"}
    assert run(tmp_path, train_beside_another_study, **fields) == 0


def test_a_table_keeps_what_others_write_into_it_meanwhile(tmp_path):
    """As a study of other draws does that runs elsewhere, or someone who edits the file."""
    fields = {"draws": 1, "seeds": 1, "counts": "2+1", "detectors": "rtfm"}
    arms, path = grid.parse_arms(ARMS), tmp_path / "t.csv"
    tables = [
        running.Table(make(tmp_path, first_draw=draw, **fields), TrainConfig(), arms)
        for draw in (0, 1)
    ]
    measures = dict.fromkeys(rows.MEASURES)
    for table in (*tables, tables[0]):
        table.add(table.todo()[0], measures)
    assert [row.cell.draw for row in rows.read(path)] == [0, 0, 1]
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    tables[0].add(tables[0].todo()[0], measures)
    assert [row.cell.draw for row in rows.read(path)] == [0, 0]


def test_rows_that_cannot_be_run_are_reported_and_the_study_goes_on(tmp_path, capfd):
    assert run(tmp_path, train_but_lap, jobs=1, draws=1, seeds=1, counts="2+1") == 3
    shown = capfd.readouterr().err
    assert shown.count("lap: not run: LAP: no videos") == 3
    assert {row.cell.detector for row in rows.read(tmp_path / "t.csv")} == {"rtfm"}
    assert run(tmp_path, prepare=no_draw_1, jobs=1, seeds=1, counts="2+1") == 6
    shown = capfd.readouterr().err
    assert "draw 1: 6 rows not run: videos.json: expected videos, found none" in shown
    assert len(rows.read(tmp_path / "t.csv")) == 6
    assert run(tmp_path, prepare=no_draw_1, jobs=1, seeds=1, counts="2+1,9+1", draws=1) == 6
    assert "--counts: expected at most the 4 normal training videos" in capfd.readouterr().err


def test_a_fault_and_a_dead_worker_end_the_study(tmp_path):
    with pytest.raises(RuntimeError, match="KeyError: 'a fault'"):
        run(tmp_path, train_wrongly, draws=1, seeds=1, jobs=1)
    with pytest.raises(Interrupted, match="worker-.*log: .* the process ended with 7"):
        run(tmp_path, die, draws=1, seeds=1, jobs=1)


def test_a_study_has_one_process_and_its_own_folder(tmp_path):
    from gvvad_jax.store import folders

    (tmp_path / "out" / "runs").mkdir(parents=True)
    (tmp_path / "out" / ".gvvad").write_text("study\n")
    with (
        folders.locked(tmp_path / "out" / "runs" / ".lock-t", "busy"),
        pytest.raises(UserError, match="t.csv: expected no other process to run this study"),
    ):
        run(tmp_path)
    (tmp_path / "out" / ".gvvad").write_text("store\n")
    with pytest.raises(UserError, match="found one of the kind 'store'"):
        run(tmp_path)


@pytest.mark.slow
def test_seeds_of_a_row_may_train_in_one_program(tmp_path, real_store):
    """Two seeds of one arm, together, give the rows that they give apart."""
    listed = Store(real_store).videos
    assert _auc_by_cell(tmp_path / "a", listed, real_store, 1) == pytest.approx(
        _auc_by_cell(tmp_path / "b", listed, real_store, 2), abs=1e-3
    )


def _auc_by_cell(folder, listed, real_store, at_once):
    folder.mkdir()
    flags = {"detector": "mil_rank", "batch_size": 2, "segments": 6, "steps": 3}
    study = make(
        folder, draws=1, counts="5+4", detectors="mil_rank", jobs=1, seeds_at_once=at_once,
    )  # fmt: skip
    failed = running.run(
        study,
        TrainConfig(**flags),
        grid.parse_arms(ARMS[:1]),
        prepare=functools.partial(_draw_of, str(real_store), listed),
    )
    assert failed == 0
    return {str(row.cell): row.measures["auc"] for row in rows.read(folder / "t.csv")}


def _draw_of(store, listed, study, number, with_clips):
    (study.folder / "splits").mkdir(exist_ok=True)
    return draws.Draw(store, listed, {})
