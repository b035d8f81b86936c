"""Tables of a grid, made of its rows alone."""

from tools.studies import rows, tables
from tools.studies.grid import Cell


def table_rows(values):
    """Rows of {(abnormal, gap, arm, detector): AUC by seed}."""
    return [
        rows.Row(
            Cell("world", 0, seed, 30, abnormal, gap, gap and "world", arm, detector), "",
            dict.fromkeys(rows.MEASURES) | {"auc": auc, "far": 0.5},
        )
        for (abnormal, gap, arm, detector), aucs in values.items()
        for seed, auc in enumerate(aucs)
    ]  # fmt: skip


BASE = [0.5, 0.6, 0.7, 0.5, 0.6, 0.7]


def test_cells_hold_means_and_paired_differences_by_hand():
    better, mixed = [auc + 0.1 for auc in BASE], [0.6, 0.5, 0.8, 0.4, 0.7, 0.6]
    text = tables.study_table(
        table_rows(
            {
                (3, "", "real only", "rtfm"): BASE, (3, "", "real only", "lap"): BASE,
                (3, "1", "all", "rtfm"): better, (3, "1", "all", "lap"): mixed,
            }
        )
    )  # fmt: skip
    # All of six signs: 2 / 64, of two detectors. Differences of +-0.1 with mean 0: p = 1.
    assert text.splitlines() == [
        "| 30 normal + 3 abnormal real videos, n = 6 | rtfm | lap |",
        "|---|---|---|",
        "| real only | 0.600 +- 0.089 | 0.600 +- 0.089 |",
        "| all | 0.700 +- 0.089, +0.100 (p = 0.062) | 0.600 +- 0.141, +0.000 (p = 1.000) |",
    ]


def test_gaps_are_columns_of_each_number_and_detector_and_real_videos_stand_in_all():
    values = {
        (abnormal, gap, arm, detector): BASE
        for abnormal in (3, 6)
        for detector in ("rtfm", "lap")
        for gap, arm in (("", "real"), ("0", "all"), ("2", "all"), ("2", "half"))
    }
    del values[6, "0", "all", "lap"]
    parts = tables.study_table(table_rows(values)).split("\n\n")
    assert [part.splitlines()[0] for part in parts] == [
        f"| {detector}, 30 normal + {abnormal} abnormal real videos, n = 6 | gap 0 | gap 2 |"
        for abnormal in (3, 6)
        for detector in ("rtfm", "lap")
    ]
    for part in parts:
        real, everything, half = (line.split(" | ") for line in part.splitlines()[2:])
        assert real[0] == "| real" and real[1] == real[2].removesuffix(" |")
        assert (everything[0], half[0], half[1]) == ("| all", "| half", "-")
    assert "| all | - | " in parts[3]
    # Of the second number there is no row of the first gap yet.
    begun = {
        (3, "0", "all", "lap"): BASE,
        (3, "2", "all", "lap"): BASE,
        (6, "2", "all", "lap"): BASE,
    }
    assert "abnormal real videos, n = 6 | gap 2 |" in tables.study_table(table_rows(begun))


def test_an_unfinished_table_pairs_what_both_have_and_says_how_many():
    values = {(3, "", "a", "lap"): BASE, (3, "1", "b", "lap"): [0.6], (3, "1", "b", "rtfm"): [1]}
    text = tables.study_table(table_rows(values))
    assert ", n = 1 to 6 |" in text
    assert "| b | 0.600 +- 0.000, +0.100 (p = 1.000, n = 1) | 1.000 +- 0.000 |" in text
    assert text.splitlines()[2].endswith("| - |")


def test_an_arm_may_be_compared_with_another_than_the_first():
    values = {(3, "1", arm, "lap"): [auc + n / 10 for auc in BASE] for n, arm in enumerate("abc")}
    text = tables.study_table(table_rows(values), bases={"c": "b"})
    assert [line.rpartition(", ")[2] for line in text.splitlines()[3:]] == [
        "+0.100 (p = 0.031) |", "+0.100 (p = 0.031) |",
    ]  # fmt: skip
    greater = tables.study_table(table_rows(values), alternative="greater")
    assert greater.splitlines()[4].endswith("+0.200 (p = 0.016) |")
    assert "0.500 +- 0.000, +0.000 (p = 1.000)" in tables.study_table(
        table_rows(values), measure="far"
    )
