"""The command that compares runs: what it writes, refuses, and says of a real run."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.support import runs_on_disk
from tests.support.started import python
from tools.pages import report_runs


def command(*flags):
    return subprocess.run(
        [*python(), "-m", "tools.report", *flags], capture_output=True, text=True, check=False
    )


def test_a_run_whose_store_is_gone_is_reported_from_its_result(tmp_path):
    run = runs_on_disk.write_run(tmp_path / "run", result=runs_on_disk.recorded(0.75))
    out = tmp_path / "new" / "report"
    done = command(f"--workdir={run}", f"--out={out}", "--markdown")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "out": str(out / "report.html"),
        "runs": {"run": False},
        "markdown": str(out / "report.md"),
    }
    assert done.stderr.startswith(f"{run}: from its result.json alone: gone/real: ")
    text = (out / "report.md").read_text()
    assert "run has a frame AUC of 0.750 on 2 test videos." in text
    pictures = sorted(path.name for path in (out / "report_plots").glob("*.svg"))
    assert pictures == ["training-0.svg", "training-1.svg", "training-2.svg"]
    assert all(f"](report_plots/{name})" in text for name in pictures)
    # Again, over its own files; but over nobody else's.
    assert command(f"--workdir={run}", f"--out={out}", "--markdown").returncode == 0
    (tmp_path / "mine.html").write_text("not a report")
    refused = command(f"--workdir={run}", f"--out={tmp_path / 'mine.html'}")
    assert refused.returncode == 2 and "found another kind of file" in refused.stderr
    assert (tmp_path / "mine.html").read_text() == "not a report"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--out=x.html"], "--workdir, --out: expected runs and a page to write"),
        (["--workdir=nothing", "--out=x.html"], "--workdir=nothing: expected the folder of a run"),
        (["--workdir=nothing", "--out=x.html", "--store=none"], "none: expected a feature store"),
    ],
)
def test_mistakes_are_one_line(tmp_path, flags, expected):
    done = subprocess.run(
        [sys.executable, "-m", "tools.report", *flags],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert expected in done.stderr and not (tmp_path / "x.html").exists()


def test_scores_are_those_that_the_run_was_measured_by(trained, real_store, tmp_path):
    config, result = trained("mil_rank")
    (run,) = report_runs.with_scores(report_runs.read([pathlib.Path(config.workdir)]), draws=20)
    assert run.reason == "" and run.scores.measures["auc"] == result.last["auc"]
    assert run.scores.measures["ece"] == result.last["ece"]
    assert sorted(run.scores.scored.abnormal) == sorted(
        f"test-{label}-{i}" for label in (0, 1) for i in range(3)
    )
    assert run.series("loss")[-1][0] == config.steps
    # Another content under the store's path isn't scored unless it is asked for.
    moved = shutil.copytree(config.workdir, tmp_path / "moved")
    begun = json.loads((moved / "begun.json").read_text())
    (moved / "begun.json").write_text(json.dumps(begun | {"stores": ["0" * 64]}))
    (other,) = report_runs.with_scores(report_runs.read([moved]), draws=20)
    assert other.scores is None and "expected the content that the run was begun" in other.reason
    (asked,) = report_runs.with_scores(report_runs.read([moved]), store=str(real_store), draws=20)
    assert asked.scores.measures["auc"] == result.last["auc"]
