"""Measures of the gap between real and generated features, against numbers by hand."""

import csv

import numpy as np
import pytest

from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store
from tests.support.stores import write_store
from tools.studies import draws, gaps, grid, rows


def test_the_frechet_distance_by_hand():
    rows_MxD = np.random.default_rng(0).normal(size=(500, 3))
    assert gaps.frechet(rows_MxD, rows_MxD) == pytest.approx(0.0, abs=1e-9)
    # A shift of (3, 4, 0) has 25; twice the deviation has sum (2 s - s)^2 = tr C.
    assert gaps.frechet(rows_MxD, rows_MxD + np.array([3.0, 4.0, 0.0])) == pytest.approx(25.0)
    trace = np.var(rows_MxD, axis=0, ddof=1).sum()
    doubled = 2 * (rows_MxD - rows_MxD.mean(axis=0)) + rows_MxD.mean(axis=0)
    assert gaps.frechet(rows_MxD, doubled) == pytest.approx(trace)


def test_a_classifier_tells_far_domains_and_not_equal_ones():
    rng = np.random.default_rng(0)
    left_VxD, right_VxD = rng.normal(size=(2, 60, 4))
    names = [f"v{i}" for i in range(60)], [f"w{i}" for i in range(60)]
    assert gaps.two_sample_auc(left_VxD, right_VxD + 5, *names) == 1.0
    assert abs(gaps.two_sample_auc(left_VxD, right_VxD, *names) - 0.5) < 0.15


def test_a_table_of_draws_and_gaps(tmp_path, monkeypatch):
    write_store(tmp_path / "real", {"train": (5, 5), "test": (1, 1)}, prefix="r")
    write_store(tmp_path / "far", {"train": (6, 6)}, source="synthetic", seed=1, prefix="f")
    clips = {"2": draws.Clips(str(tmp_path / "far"), "", ())}
    draw = draws.Draw(str(tmp_path / "real"), Store(tmp_path / "real").videos, clips)
    monkeypatch.setattr(draws, "prepare", lambda *_: draw)
    study = grid.GridStudy(csv=str(tmp_path / "gap.csv"), gaps="2", draws=2, first_draw=4)
    measured = gaps.measure(study)
    lines = list(csv.DictReader((tmp_path / "gap_features.csv").read_text().splitlines()))
    assert [(line["draw"], line["gap"], line["standardised_by"]) for line in lines] == [
        ("4", "2", "real"), ("4", "2", "domain"), ("5", "2", "real"), ("5", "2", "domain"),
    ]  # fmt: skip
    assert {(line["real"], line["generated"]) for line in lines} == {("10", "12")}
    assert measured[1].frechet < measured[0].frechet
    again = rows.read_records(gaps.path_of(study), gaps.Gap)
    assert again[0].auc == pytest.approx(measured[0].auc, rel=1e-4)
    (row,) = gaps.table_text(again).splitlines()[2:]
    frechet = round(float(lines[0]["frechet"]))  # Both draws are the same.
    assert row.startswith(f"| 2, n = 2 | {frechet} +- 0 | {again[0].auc:.3f} +- 0.000 | ")
    text = gaps.path_of(study).read_text()
    gaps.path_of(study).write_text(text.replace("12\n", "many\n"))
    with pytest.raises(UserError, match="gap_features.csv: expected a table with the columns"):
        rows.read_records(gaps.path_of(study), gaps.Gap)
