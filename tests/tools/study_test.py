"""The command: a study's table without running anything, and what it refuses."""

import subprocess
import sys

from tools.studies import rows
from tools.studies.grid import Cell

# Runs the command, then prints whether JAX was imported.
COMMAND = """
import runpy, sys
sys.argv = ["tools.study", *sys.argv[1:]]
try:
    runpy.run_module("tools.study", run_name="__main__", alter_sys=True)
finally:
    print("with JAX" if "jax" in sys.modules else "without JAX")
"""


def study(*arguments):
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=False
    )


def test_a_table_is_printed_from_the_csv_alone(tmp_path):
    rows.write(
        tmp_path / "t.csv",
        [
            rows.Row(
                Cell("ped2", draw, 0, 4, 6, gap, gap and "world", arm, "rtfm"), "",
                dict.fromkeys(rows.MEASURES) | {"auc": auc, "auc_abnormal": auc - 0.5},
            )
            for draw in (0, 1)
            for arm, gap, auc in (("real", "", 0.8), ("all", "1", 0.9), ("gone", "1", 0.7))
        ],
    )  # fmt: skip
    given = (f"--csv={tmp_path}/t.csv", "--footage=videos", "--arm=real: --keep=none", "--arm=all:")
    done = study(*given, "--table")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "| 4 normal + 6 abnormal real videos, n = 2 | rtfm |",
        "|---|---|",
        "| real | 0.800 +- 0.000 |",
        "| all | 0.900 +- 0.000, +0.100 (p = 0.500) |",
        "without JAX",
    ]
    # Of an arm that isn't there yet, there is no difference.
    done = study(given[0], "--arm=new:", *given[2:], "--table")
    assert "| real | 0.800 +- 0.000 |\n| all | 0.900 +- 0.000 |" in done.stdout
    done = study(given[0], "--arm=new:", "--table")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "t.csv: expected rows of the study's arms with auc, found none; run" in done.stderr
    assert "arms with far, found none" in study(*given, "--table", "--measure=far").stderr
    assert "| all | 0.400" in study(*given, "--table", "--measure=auc_abnormal").stdout
    done = study(*given)
    assert done.returncode == 2 and "--videos: expected a videos.json" in done.stderr
    assert done.stderr.count("\n") == 1


def test_rows_that_cannot_be_run_are_status_3(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "videos.json").write_text(
        '{"videos": {"a": {"file": "a.mp4", "label": 0, "split": "train"}}}'
    )
    done = study(
        "--footage=videos", f"--videos={tmp_path}/videos.json", f"--csv={tmp_path}/t.csv",
        f"--out={tmp_path}/out", "--draws=1", "--seeds=1", "--detectors=rtfm", "--arm=all:",
    )  # fmt: skip
    assert done.returncode == 3
    assert "draw 0: 1 rows not run: " in done.stderr and "a.mp4" in done.stderr
    assert "1 rows could not be run; the study went on with the others" in done.stderr
