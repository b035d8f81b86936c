"""Steps are compared side by side; what isn't ready in time is named. No real process, no time."""

import pathlib

import pytest

from tools.bench.gpu import parts


class Worker:
    """A side whose step takes `step` seconds; None where it fails."""

    def __init__(self, step):
        self._step = step

    def first_seconds(self, timeout=None):
        if self._step is None:
            raise RuntimeError("ended with status 1: no room")
        return self._step

    def seconds(self, turn, timeout=None):
        return self.first_seconds()

    def device_bytes(self, timeout=None):
        return 7

    def close(self):
        return 0


def test_ratios_and_shares_of_a_precision(monkeypatch):
    monkeypatch.setattr(parts.hardware, "rated_operations", lambda precision: 400.0)
    workers = {"ours": 2.0, "torch": 5.0, "torch_compiled": 3.0, "ceiling": 0.01}
    sides = {name: Worker(step) for name, step in workers.items()}
    row = parts._compared(sides, 120.0, "cuda", "tf32", float("inf"))
    assert (row["ratio"], row["ratio_compiled"], row["steps_a_second"]) == (2.5, 1.5, 0.5)
    # 60 operations a second, of 100 measured and 400 by the data sheet.
    assert row["share_of_matmul_peak"] == pytest.approx(0.6)
    assert row["share_of_rated_peak"] == pytest.approx(0.15)
    assert row["device_bytes"]["ours"] == 7 and row["skipped"] == {}


def test_a_side_that_fails_is_named_and_the_others_are_compared(monkeypatch):
    monkeypatch.setattr(parts.hardware, "rated_operations", lambda precision: None)
    sides = {"ours": Worker(2.0), "torch": Worker(5.0), "torch_compiled": Worker(None)}
    row = parts._compared(sides, 120.0, "cuda", "tf32", float("inf"))
    assert row["ratio"] == 2.5 and row["share_of_matmul_peak"] is None
    assert row["skipped"] == {"torch_compiled": "ended with status 1: no room"}
    failed = {"ours": Worker(None), "torch": Worker(5.0)}
    assert "ratio" not in parts._compared(failed, 1.0, "cuda", "tf32", float("inf"))


def test_seeds_are_compared_with_one_seed(monkeypatch):
    seconds = {1: 1.0, 2: 1.25}
    monkeypatch.setattr(parts, "Worker", lambda arguments, *_: Worker(seconds[arguments["count"]]))
    kept = {}
    parts.seeds("cpu", float("inf"), kept.update)
    assert kept["2"]["times_one_seed"] == 1.6
    assert kept["2"]["runs_of_1000_steps_an_hour"] == pytest.approx(2 * 3600 / 1250)


def test_steps_keep_each_precision(monkeypatch):
    monkeypatch.setattr(parts, "Worker", lambda arguments, *_: Worker(2.0))
    kept = []
    parts.steps("rtfm", "cpu", float("inf"), lambda figures: kept.append(dict(figures)))
    assert len(kept) == 2 and kept[1]["8"]["ratio"] == 1.0
    assert kept[1]["8"]["precisions"].keys() == {"float32", "bfloat16"}


def test_parity_says_which_goldens_are_within_bounds(tmp_path, monkeypatch):
    for name in ("lap", "rtfm"):
        (tmp_path / f"{name}.npz").touch()
    found = {"lap": {"outputs": 1e-6, "gradients": 1e-3}, "rtfm": {"outputs": 1e-6}}
    monkeypatch.setattr(
        "tools.published.comparison.compare", lambda path: found[pathlib.Path(path).stem]
    )
    kept = []
    parts.parity(lambda figures: kept.append(dict(figures["within"])), tmp_path)
    assert kept == [{"lap": False}, {"lap": False, "rtfm": True}]
