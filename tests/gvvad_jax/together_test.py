"""Runs in one program: each is what it is alone, whatever is together with it."""

import contextlib
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gvvad_jax import choosing, step, together, training
from gvvad_jax.batches import Batch
from gvvad_jax.choosing import Choice
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.config import DETECTORS, TrainConfig
from gvvad_jax.run import log
from tests.support.steps import SMALL, make_data

CASES = {name: {"detector": name} for name in DETECTORS}
CASES["learned lambda"] = {"detector": "mil_rank", "lambda_mode": "learnable"}
CASES["by domain"] = {"detector": "rtfm", "batch_norm": "per_domain", "train_crops": 1}
QUICK = ("learned lambda",)


def _distance(left, right):
    """The largest difference of two trees' arrays, relative to each array's largest value.

    A bias in front of a BatchNorm has no gradient but rounding, and stays at 1e-11: no array that
    small counts.
    """
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    differences = [
        np.abs(np.subtract(a, b, dtype=np.float64)).max() / max(np.abs(a).max(), 1e-3)
        for a, b in pairs
        if max(np.abs(a).max(), np.abs(b).max()) > 1e-9
    ]
    return float(max(differences, default=0.0))


def _marks(name, precision):
    """LAP has what RTFM and TEVAD have; float32 rounds more and shows less than float64."""
    if name in QUICK:
        return ()
    in_suite = name == "by domain" or (name == "lap" and precision == "float64")
    return pytest.mark.slow if in_suite else pytest.mark.matrix


@pytest.mark.parametrize(
    ("precision", "tolerance", "name"),
    [
        pytest.param(precision, tolerance, name, marks=_marks(name, precision))
        for precision, tolerance in (("float64", 1e-12), ("float32", 1e-5))
        for name in CASES
    ],
)
def test_steps_together_are_the_steps_of_each(name, precision, tolerance):
    config = TrainConfig(precision=precision, **SMALL, **CASES[name])
    configs = [
        dataclasses.replace(config, seed=seed, lambda_value=value, learning_rate=rate)
        for seed, value, rate in ((0, 0.5, 1e-3), (1, 0.2, 5e-4))
    ]
    with jax.enable_x64(precision == "float64"):
        states = [step.init_state(each, 12, 8) for each in configs]
        data = step.cast(make_data(), precision)
        batches = [
            Batch(jnp.array(videos), jnp.arange(2))
            for videos in ([[0, 1], [2, 3]], [[4, 5], [6, 7]])
        ]
        alone = jax.jit(step.make_train_step(config.program))
        several = together.compiled_step(config.program, True)
        stack, numbers = together.stacked(states), [each.numbers for each in configs]
        for _ in range(2):
            stack, metrics = several(
                stack, data, together.stacked(batches), together.stacked(numbers)
            )
        for place, (state, batch) in enumerate(zip(states, batches, strict=True)):
            for _ in range(2):
                state, expected = alone(state, data, batch, numbers[place])
            own = together.unstacked(stack, place)
            assert [a.dtype for a in jax.tree.leaves(own)] == [
                a.dtype for a in jax.tree.leaves(state)
            ]
            assert _distance(expected, together.unstacked(metrics, place)) < tolerance
            # Adam makes a whole step of a gradient that is nothing but rounding: float32's
            # parameters are compared by what they compute, in the metrics of the second step.
            if precision == "float64":
                assert _distance(state.params, own.params) < tolerance
                assert _distance(state.batch_stats, own.batch_stats) < tolerance
        assert several._cache_size() == 1


@pytest.fixture
def configs(settings, tmp_path):
    """Runs of three seeds, whose lambdas differ, too."""
    base = dataclasses.replace(settings, detector="mil_rank")
    return [
        dataclasses.replace(
            base, seed=seed, lambda_value=0.2 * (seed + 1), workdir=str(tmp_path / f"run{seed}")
        )
        for seed in range(3)
    ]


def _elsewhere(config, folder, **changes):
    name = pathlib.Path(config.workdir).name
    return dataclasses.replace(config, workdir=str(folder / name), **changes)


def _assert_same_runs(left, right, tolerance=1e-5):
    for name in ("last", "best_on_validation"):
        a, b = (
            json.loads((pathlib.Path(each) / "result.json").read_text())[name]
            for each in (left, right)
        )
        assert a.keys() == b.keys()
        for key, value in a.items():
            if isinstance(value, float):
                assert value == pytest.approx(b[key], abs=1e-3), key
    logs = [log.read(pathlib.Path(each) / "metrics.jsonl") for each in (left, right)]
    assert [s for s, _ in logs[0]] == [s for s, _ in logs[1]]
    for (_, a), (_, b) in zip(*logs, strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance)


def test_runs_together_are_the_runs_of_each(configs, tmp_path):
    outcomes = together.fit(configs)
    for config, outcome in zip(configs, outcomes, strict=True):
        alone = _elsewhere(config, tmp_path / "alone")
        training.fit(alone)
        assert outcome.steps == 12 and outcome.workdir == pathlib.Path(config.workdir)
        _assert_same_runs(alone.workdir, config.workdir)


def test_runs_that_stopped_at_different_steps_go_on_together(configs, tmp_path):
    # Their videos don't fit on the device, so each gathers its own batches.
    apart = [_elsewhere(each, tmp_path / "apart", device_gigabytes=0.0) for each in configs]
    together.fit(configs)
    training.fit(dataclasses.replace(apart[1], steps=4))
    training.fit(dataclasses.replace(apart[2], steps=8))
    together.fit(apart)
    for whole, resumed in zip(configs, apart, strict=True):
        _assert_same_runs(whole.workdir, resumed.workdir)


def test_a_run_that_ends_early_leaves_the_others(configs, monkeypatch, capsys):
    monkeypatch.setattr(training, "LONG_SECONDS", 0)
    configs[1] = dataclasses.replace(configs[1], learning_rate=1e38)
    outcomes = together.fit(configs)
    assert isinstance(outcomes[1], Interrupted) and "expected a finite loss" in str(outcomes[1])
    assert [outcome.steps for outcome in outcomes[::2]] == [12, 12]
    assert capsys.readouterr().err.count("this run will take another 0.0 hours") == 1


@pytest.mark.parametrize("device_gigabytes", [8.0, 0.0])
def test_a_run_without_generated_videos_has_its_text_as_it_is(
    settings, tmp_path, monkeypatch, device_gigabytes
):
    """As where auto leaves every store out for one seed alone."""
    by_lambda = {
        value: Choice(value=value, by_set={settings.synthetic_store: value}, why="told")
        for value in (0.5, 0.0)
    }
    monkeypatch.setattr(choosing, "choose", lambda _, config: by_lambda[config.seed / 2])
    with contextlib.ExitStack() as stack:
        runs = []
        for seed in (1, 0):
            config = dataclasses.replace(
                settings, lambda_mode="auto", standardise_by="domain", seed=seed,
                device_gigabytes=device_gigabytes, workdir=str(tmp_path / f"{seed}"),
            )  # fmt: skip
            run = training.Run(config, training.prepared(config), stack)
            runs.append(together._Member(run))
        data, batch = together._Data(runs, stack).at(runs, 0)
        text, stream = (
            np.asarray(array_2xVx)[1][batch.videos_Bx2[1]]
            for array_2xVx in (data.text_VxTxE, data.stream_VxTxE)
        )
        np.testing.assert_array_equal(stream, text)


def test_runs_of_other_programs_are_refused(configs):
    configs[1] = dataclasses.replace(configs[1], mtn_channels=0, detector="rtfm")
    with pytest.raises(
        UserError, match=f"{configs[1].workdir}: expected a run of the same program"
    ):
        together.fit(configs)
