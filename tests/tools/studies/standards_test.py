"""The table of statistics: three choices, by hand and on stores."""

import csv
import dataclasses

import numpy as np
import pytest

from gvvad_jax.config import TrainConfig
from gvvad_jax.regression import Videos
from gvvad_jax.store.reader import Store
from tools.studies import draws, rows, standards
from tools.studies.grid import GridStudy


def _videos(labels, values):
    """Videos of two rows each, both of the same value."""
    labels, values = np.array(labels), np.array(values, float)[:, None]
    names = np.array([str(i) for i in range(len(labels))], object)
    return Videos(labels, names, np.full(len(labels), 2.0), 2 * values, 2 * values**2)


@pytest.mark.parametrize(
    ("choice", "mean", "std"),
    [
        ("all", 3.0, np.sqrt(17.0)),  # Of 0, 2, 0 and 10.
        ("by label", (2 / 3 + 10) / 2, np.sqrt((4 / 3 + 100) / 2 - (16 / 3) ** 2)),
        ("normal", 2 / 3, np.sqrt(8 / 9)),
    ],
)
def test_choices_by_hand(choice, mean, std):
    videos = _videos([0, 0, 0, 1], [0, 2, 0, 10])
    fit = standards._Regression(TrainConfig(), True, standards.CHOICES[choice])
    (found,) = fit._standards([videos])
    np.testing.assert_allclose([found.mean_D[0], found.std_D[0]], [mean, std], rtol=1e-6)


def test_a_domain_without_normal_videos_takes_all_of_them():
    (part,) = standards.CHOICES["normal"](_videos([1, 1], [2, 4]))
    assert len(part) == 2


def test_each_number_of_real_videos_and_no_abnormal_one(
    real_store, synthetic_store, decisions, tmp_path, monkeypatch
):
    clips = draws.Clips(str(synthetic_store), str(decisions), ())
    draw = draws.Draw(str(real_store), Store(real_store).videos, {"1": clips})
    monkeypatch.setattr(draws, "prepare", lambda study, number, with_clips: draw)
    (tmp_path / "splits").mkdir()
    study = GridStudy(csv=f"{tmp_path}/s.csv", out=str(tmp_path), draws=1, seeds=1, counts="5+3")
    measured = standards.measure(study)
    with open(standards.path_of(study)) as file:
        lines = list(csv.DictReader(file))
    assert [(r["abnormal"], r["statistics"]) for r in lines] == [
        (abnormal, choice) for abnormal in ("3", "0") for choice in standards.CHOICES
    ]
    again = rows.read_records(standards.path_of(study), standards.Standard)
    assert [(r.draw, r.abnormal, r.statistics) for r in again] == [
        (r.draw, r.abnormal, r.statistics) for r in measured
    ]
    assert again[0].auc == pytest.approx(measured[0].auc, abs=1e-5) and again[3].real_auc is None
    # Without abnormal real videos there is nothing to train on but generated ones.
    assert [row.real_auc is None for row in measured] == [False] * 3 + [True] * 3
    assert all(0 <= row.auc <= 1 for row in measured)


def test_a_table_by_hand():
    row = standards.Standard("world", 0, 0, 30, 6, "1", "world", "all", 0.5, 0.6)
    table = [
        dataclasses.replace(row, draw=draw, statistics=name, auc=0.6 + draw / 10)
        for draw in (0, 1)
        for name in standards.CHOICES
    ]
    table += [
        dataclasses.replace(row, abnormal=0, statistics=name, auc=0.7, real_auc=None)
        for name in standards.CHOICES
    ]
    assert standards.table_text(table).splitlines()[2:] == [
        "| 30 normal + 6 abnormal, n = 2 | 0.650 +- 0.071 | 0.650 +- 0.071 | 0.650 +- 0.071 "
        "| 0.500 +- 0.000 |",
        "| 30 normal + 0 abnormal, n = 1 | 0.700 +- 0.000 | 0.700 +- 0.000 | 0.700 +- 0.000 | - |",
    ]
