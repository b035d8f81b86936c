"""A whole run from measured parts: counts and sums by hand; never a time."""

import pytest

from tools.bench import evaluation, runs
from tools.bench.step import Case


def test_evaluations_are_those_of_the_published_schedule_and_of_our_defaults():
    counts = runs.evaluations()
    assert counts["published"] == 200
    # 20 validations of 161 videos of 490 snippets; of two checkpoints 1.5 more and the test set.
    assert counts["ours"] == pytest.approx((20 + 3) * 161 * 490 / 69_634 + 2)


def test_a_run_is_the_sum_of_its_parts(monkeypatch):
    started = []

    class Worker:
        def __init__(self, arguments, environment):
            started.append((arguments["side"], arguments["case"]["train_crops"]))
            # A step takes this long, and 5 s more where it is compiled.
            self._step = {"torch": 10.0, "ours": 2.0}[arguments["side"]]
            self._step /= 1 + arguments["case"]["train_crops"]

        def first_seconds(self):
            return self._step + 5.0

        def seconds(self, turn):
            return self._step

        def close(self):
            return 0

    rounds = {"torch": [20.0, 22.0, 21.0], "ours": [10.0, 10.0, 10.0], "mean": [2.0, 2.0, 2.0]}
    whole = {"snippets": 69_634 // 2, "first_seconds": 14.0, "seconds": 10.0, "rounds": rounds}
    whole |= {"videos": 145, "ratio": 2.1, "ratios": [2.0, 2.2, 2.1], "mean_crop_ratio": 10.5}
    monkeypatch.setattr(runs, "Worker", Worker)
    monkeypatch.setattr(evaluation, "measure", lambda *_, **__: whole)
    figures = runs.measure(Case("lap", 64, 32), 0.5, 3, turn=0.0, device="cpu")
    assert started == [("torch", 0), ("ours", 0), ("ours", 1)]
    # Half of the test set was evaluated.
    count = runs.evaluations()["ours"]
    assert figures["published"]["seconds"] == 1000 * 10 + 200 * 42
    assert figures["default"]["seconds"] == pytest.approx(1000 * 2 + count * 20 + 5 + 4)
    assert figures["fast"]["seconds"] == pytest.approx(1000 * 1 + count * 4 + 5 + 4)
    assert figures["fast"]["ratio"] == pytest.approx(
        figures["published"]["seconds"] / figures["fast"]["seconds"]
    )
    assert figures["default"]["ratios"][1] == pytest.approx(
        (1000 * 10 + 200 * 44) / figures["default"]["seconds"]
    )
