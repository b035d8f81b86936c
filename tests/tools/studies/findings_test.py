"""What the demo's numbers say."""

import pytest

from tools.studies import arms, findings


def result(real, published, here, **changes):
    """A demo's result from each arm's AUC by seed; FAR is a tenth of it."""
    runs = {
        arm.name: [{"auc": a, "auc_abnormal": a - 0.1, "ap": 0.5, "far": a / 10} for a in aucs]
        for arm, aucs in zip(arms.ARMS, (real, published, here), strict=True)
    }
    counted = {
        "detector": "rtfm",
        "arms": arms.compare(runs),
        "seeds": len(real),
        "trained": {"real": {"normal": 30, "abnormal": 6}},
        "rules": {"flow": {"auc": 0.7, "auc_abnormal": 0.65, "flipped": True}},
        "filter": {"kept": 5, "dropped": 3, "reasons": {"frozen": 3}},
        "caught": {"sound": [0, 5], "twin": [1, 2]},
        "rendered": True,
    } | changes
    return {"finding": findings.finding(counted)} | counted


def test_the_finding_answers_by_all_seeds():
    assert result([0.70, 0.72, 0.74], [0.73, 0.71, 0.75], [0.80, 0.82, 0.84])["finding"] == (
        "In this run they do: beside 6 abnormal and 30 normal real videos, generated ones take "
        "RTFM's frame AUC from 0.720 to 0.820 as GV-VAD trains on them here (+0.100, better in 3 "
        "of 3 seeds), and to 0.730 as published (+0.010, 2 of 3)."
    )


@pytest.mark.parametrize(
    ("here", "verdict"),
    [
        ([0.6, 0.6, 0.6], "In this run they don't:"),
        ([0.6, 0.9, 0.9], "This run can't tell:"),
        # As good isn't worse.
        ([0.6, 0.6, 0.7], "This run can't tell:"),
        ([0.71, 0.71, 0.71], "In this run they do:"),
        # Two seeds say too little, whatever they say.
        ([0.9, 0.9], "This run can't tell:"),
        ([0.1], "This run can't tell:"),
    ],
)
def test_it_says_so_where_they_do_not_help(here, verdict):
    before = [0.7] * len(here)
    assert result(before, before, here)["finding"].startswith(verdict)


def test_the_best_has_the_highest_auc_and_the_lowest_false_alarm_rate():
    compared = result([0.7, 0.7], [0.9, 0.9], [0.8, 0.8])["arms"]
    real, published, _ = compared
    assert findings.best(compared, "auc") == {published}
    assert findings.best(compared, "far") == {real}
    assert findings.best(compared, "ap") == set(compared)
    assert [findings.direction(m) for m in ("auc", "far")] == ["↑", "↓"]


def test_the_table_keeps_rules_apart_and_says_rendered_once():
    found = result([0.7, 0.7], [0.9, 0.9], [0.8, 0.8])
    text = findings.table(found)
    lines = text.splitlines()
    assert lines[0] == found["finding"]
    published = next(line for line in lines if line.startswith("+ generated, as published"))
    cells = ["0.900 +- 0.000 *", "0.800 +- 0.000 *", "0.500 +- 0.000 *", "0.090 +- 0.000"]
    assert [cell.strip() for cell in published[-88:].split("  ") if cell.strip()] == cells
    rules = lines.index("without training:")
    assert lines[rules + 1].split() == ["flow", "(flipped)", "0.700", "0.650"]
    assert rules > lines.index(published)
    assert text.count("RENDERED") == 1
    assert "RENDERED" not in findings.table(found | {"rendered": False, "caught": None})
