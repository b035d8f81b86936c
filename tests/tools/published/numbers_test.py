"""The table of published numbers, and measures beside it."""

import json
import pathlib
import subprocess

import pytest

from gvvad_jax.command import UserError
from tests.support.started import python
from tools.published import numbers

ROOT = pathlib.Path(__file__).parents[3]


def test_every_number_has_a_source_and_says_where_it_was_read():
    rows = numbers.read()
    assert len(rows) > 20
    for row in rows:
        if row.method:
            assert row.source and row.read_in in ("paper", "list"), row
            assert row.auc or row.ap, row


def test_the_page_has_the_table_as_it_is():
    page = (ROOT / "docs" / "published.md").read_text()
    assert numbers.tables() in page


@pytest.mark.parametrize("name", ["ucf-crime", "UCF_Crime", "ped2", "UCSD Ped2", "msad"])
def test_a_benchmark_has_many_spellings(name):
    assert numbers.data_set_named(name) in ("UCF-Crime", "UCSD Ped2", "MSAD")


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(UserError, match="--data_set=avenue: expected one of UCF-Crime, "):
        numbers.data_set_named("avenue")


MEASURES = {"auc": 0.85, "ap": 0.25, "far": None, "per_class": {"Abuse": 0.7, "Arson": None}}


def test_a_run_stands_beside_published_numbers(tmp_path):
    result = {"last": MEASURES, "best_on_validation": None, "best_on_test": MEASURES | {"auc": 0.9}}
    (tmp_path / "result.json").write_text(json.dumps(result))
    command = [*python(), "-m", "tools.compare_published", "--data_set=ucf-crime"]
    command.append(f"--workdir={tmp_path}")
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.split("\n")
    assert lines[2:4] == [
        f"| **{tmp_path}** |  | 0.8500 | 0.2500 |  | nothing (the last) | measured here |",
        f"| **{tmp_path}** |  | 0.9000 | 0.2500 |  | test | measured here |",
    ]
    assert any(line.startswith("| UR-DMU | I3D | 0.8697 |  |  | test | Zhou") for line in lines)
    assert "| Abuse | 0.7000 | 0.7000 |" in lines and "| Arson |  |  |" in lines


def test_printed_measures_do_too(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps(MEASURES))
    measured = numbers.measures_of(str(tmp_path / "m.json"))
    assert "| **m** |  | 0.8500 | 0.2500 |" in numbers.table("MSAD", measured, "m")
    (tmp_path / "m.json").write_text("{}")
    with pytest.raises(UserError, match="expected measures of test videos, found none"):
        numbers.measures_of(str(tmp_path / "m.json"))
