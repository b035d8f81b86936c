"""The plot of AUC against the number of real abnormal videos."""

import pytest

from gvvad_jax.command import UserError
from tools.pages import rarity
from tools.studies import rows
from tools.studies.grid import Cell

ARMS = {"alone": "real only", "both": "SSLS 0.5"}


def row(abnormal, arm, auc, *, seed=0, normal=30, detector="lap", gap="1"):
    cell = Cell("world", 0, seed, normal, abnormal, gap, "world", arm, detector)
    return rows.Row(cell, "f", dict.fromkeys(rows.MEASURES) | {"auc": auc})


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "t.csv"
    rows.write(
        path,
        [
            *(row(n, "real only", 0.6 + n / 100, seed=seed) for n in (3, 6, 30) for seed in (0, 1)),
            row(6, "real only", 0.66, seed=2),
            *(row(n, "SSLS 0.5", 0.9, seed=seed) for n in (3, 6, 30) for seed in (0, 1)),
            row(6, "SSLS 0.5", 0.7, seed=2),
            # None of these is in the plot.
            row(6, "SSLS 0.5", 0.1, normal=6),
            row(6, "SSLS 0.5", 0.1, detector="rtfm"),
            row(6, "SSLS 0.5", 0.1, gap="2"),
            row(12, "lambda 1", 0.1),
            row(6, "SSLS 0.5", None, seed=3),
            row(6, "SSLS 0.5", 0.1, seed=4),  # Real only lacks it.
            row(12, "SSLS 0.5", 0.1),
        ],
    )
    return path


def test_it_reads_a_detectors_means_beside_most_normal_videos(table):
    normal, by_arm = rarity.read("lap", ARMS, table)
    assert normal == 30
    assert [(p.abnormal, p.runs) for p in by_arm["alone"]] == [(3, 2), (6, 3), (30, 2)]
    assert [p.mean for p in by_arm["alone"]] == pytest.approx([0.63, 0.66, 0.9])
    six = by_arm["both"][1]
    assert (six.mean, six.sd) == pytest.approx((2.5 / 3, (0.04 / 3) ** 0.5)) and six.runs == 3


def test_it_draws_by_hand(table):
    drawn = rarity.plot("lap", ARMS, table)
    assert drawn["reason"] == "" and drawn["runs"] == "2 to 3" and drawn["normal"] == 30
    # From 0.60 at the floor to 0.95, above the highest spread.
    assert drawn["levels"] == [
        ("0.60", "220.0"), ("0.70", "159.4"), ("0.80", "98.9"), ("0.90", "38.3"),
    ]  # fmt: skip
    # In equal steps, arms beside each other by 9.
    assert drawn["ticks"] == [(3, "70.0"), (6, "343.0"), (30, "616.0")]
    alone, both = drawn["lines"]
    assert alone["points"] == "65.5,201.8 338.5,183.7 611.5,38.3"
    assert both["points"].startswith("74.5,38.3 347.5,78.7 ")
    assert both["spreads"][1] == ["347.5", "8.7", "148.6", "78.7"]


def test_it_says_why_there_is_none(tmp_path, table):
    missing = rarity.plot("lap", ARMS, tmp_path / "none.csv")
    assert missing["reason"].startswith("docs/studies/helps_footage.csv isn't here")
    assert rarity.plot("tevad", ARMS, table)["reason"].endswith("no run of TEVAD in these arms")
    table.write_text("a,b\n1,2\n")
    assert "expected the columns" in rarity.plot("lap", ARMS, table)["reason"]
    with pytest.raises(UserError):
        rarity.read("lap", ARMS, table)
