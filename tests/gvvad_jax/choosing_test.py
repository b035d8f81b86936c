"""The lambda that auto chooses: by folds, by validation, and where it can't know."""

import dataclasses

import numpy as np
import pytest

from gvvad_jax import choosing, probing, regression
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import Splits, members_of
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter

DIM = 8


def _write(path, labels_V, *, seed, signal=1.0, source="real", flipped=False):
    """A store of videos whose first feature is higher in abnormal ones."""
    rng = np.random.default_rng(seed)
    with StoreWriter.for_features(path, dim=DIM) as writer:
        for i, label in enumerate(labels_V):
            rows_TxD = rng.normal(size=(1, DIM)) + 0.1 * rng.normal(size=(3, DIM))
            rows_TxD[:, 0] += signal * (1 - label if flipped else label)
            writer.add_video(
                f"{path.name}{i}", rows_TxD, label=int(label), split="train", source=source
            )
    return members_of(Store(path), None)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("choosing")
    many_V, few_V = np.array([0, 1] * 12), np.array([0, 0, 0, 0, 1])
    return {
        "real": _write(root / "real", many_V, seed=0),
        "few": _write(root / "few", few_V, seed=1),
        "validation": _write(root / "validation", many_V, seed=2),
        "like": _write(root / "like", many_V, seed=3, source="synthetic"),
        "flipped": _write(root / "flipped", many_V, seed=4, source="synthetic", flipped=True),
    }


def _choose(videos, real, *sets, validation=(), **changes):
    train = [m for name in (real, *sets) for m in videos[name]]
    splits = Splits(train, [], list(validation), [])
    config = TrainConfig(detector="mil_rank", lambda_mode="auto", **changes)
    return choosing.choose(splits, config), splits, config


def _path(videos, name):
    return str(videos[name][0].store.path)


def test_a_set_that_loses_is_left_out_and_the_others_are_trained_on(videos):
    choice, splits, config = _choose(videos, "real", "like", "flipped", synthetic_share=0.5)
    like, flipped = (_path(videos, name) for name in ("like", "flipped"))
    assert choice.value in (0.25, 0.5, 1.0)
    assert choice.by_set == {like: choice.value, flipped: 0.0}
    assert choice.why.startswith(f"with {like} the probe's AUC changes by +0.")
    assert f"; with {flipped} the probe's AUC changes by -0." in choice.why
    assert "over 24 groups of real videos; " in choice.why
    assert choice.describe() == (
        f"--lambda_mode=auto: lambda {choice.value:g}; {flipped} left out, lambda 0: {choice.why}"
    )
    kept, fixed = choice.apply(splits, config)
    assert {str(m.store.path) for m in kept.train} == {_path(videos, "real"), like}
    assert (fixed.lambda_mode, fixed.lambda_value) == ("fixed", choice.value)
    assert fixed.synthetic_share == 0.5
    # Its interval is the probe's.
    low, high = probing.probe(splits, config).sets[1].interval
    assert f"[{low:+.3f}, {high:+.3f}] in 50 folds" in choice.why and high < 0
    assert _choose(videos, "real", "like", "flipped", synthetic_share=0.5)[0] == choice


def test_without_a_set_left_no_share_is_drawn(videos):
    choice, splits, config = _choose(videos, "real", "flipped", synthetic_share=0.5)
    assert (choice.value, list(choice.by_set.values())) == (0.0, [0.0])
    kept, fixed = choice.apply(splits, config)
    assert kept.train == videos["real"]
    assert (fixed.lambda_value, fixed.synthetic_share) == (0.0, None)


def test_where_it_cant_know_it_stays_with_the_flags(videos):
    choice, _, _ = _choose(videos, "few", "flipped", validation=videos["validation"][:18])
    assert choice.value == 0.5 and set(choice.by_set.values()) == {0.5}
    assert choice.why == (
        "--lambda_value, because fewer than 10 validation videos of a label are held out, and the "
        "abnormal real training videos form 1 groups, and a verdict needs 4 of each label"
    )


def test_validation_videos_of_one_group_cannot_choose(videos):
    of_one_camera = [
        dataclasses.replace(m, video=dataclasses.replace(m.video, group=f"camera{m.video.label}"))
        for m in videos["validation"]
    ]
    choice, _, _ = _choose(videos, "few", "like", validation=of_one_camera)
    assert choice.why.startswith(
        "--lambda_value, because all validation videos of a label are of one group, and the "
        "abnormal real training videos form 1 groups"
    )


def test_ten_validation_videos_of_each_label_choose(videos):
    for sets, expected in ((["like"], (0.25, 0.5, 1.0)), (["flipped"], (0.0,))):
        choice, _, _ = _choose(videos, "few", *sets, validation=videos["validation"][4:])
        assert choice.value in expected
        assert "on 20 validation videos" in choice.why


def test_a_validations_standard_error_is_the_jackknifes_over_groups(videos):
    _, splits, config = _choose(videos, "real", "flipped", validation=videos["validation"])
    pools = regression.read(splits, config)
    sets = list(pools.sets.values())
    trial = choosing._Trial(pools, config)
    found = trial.on_validation(([], 1.0), (sets, 1.0))
    fit = regression.Regression(config, pools.standardise)

    def difference(held_out):
        alone, with_set = (fit.auc(pools.real, each, held_out) for each in ([], sets))
        return with_set - alone

    every, count = np.arange(len(pools.validation)), len(pools.validation)
    left_out = [difference(pools.validation[every != i]) for i in every]
    error = np.sqrt((count - 1) / count * np.square(left_out - np.mean(left_out)).sum())
    assert found.mean == pytest.approx(difference(pools.validation))
    assert found.error == pytest.approx(error)
    half = found.interval[1] - found.mean
    assert half == pytest.approx(2.06866 * error, rel=1e-4)  # t(23).


def test_another_lambda_needs_a_standard_error(videos):
    class Trial:
        def __init__(self, **means):
            self.means = means

        def on_validation(self, first, second):
            assert first[1] == 0.5
            mean = self.means["low" if second[1] == 0.25 else "high"]
            return choosing._Difference(mean, 0.02, (mean - 0.04, mean + 0.04), "here")

    assert choosing._best(Trial(low=0.01, high=0.019), [], None, 0.5)[0] == 0.5
    value, why = choosing._best(Trial(low=0.03, high=0.021), [], None, 0.5)
    assert (value, why) == (
        0.25, "better in the probe than --lambda_value's 0.5, +0.030 +- 0.020 AUC here"
    )  # fmt: skip


def test_weights_of_generated_videos_are_as_if_there_were_more_real_ones(videos):
    """A weight of one half is every real video twice."""
    train, sets = videos["real"], videos["like"]
    config = TrainConfig(detector="mil_rank")
    pools = regression.read(Splits([*train, *sets], [], videos["validation"], []), config)
    fit = regression.Regression(config, pools.standardise)
    twice_V = np.repeat(np.arange(len(pools.real)), 2)
    generated = list(pools.sets.values())
    half_V = fit.scores(pools.real, generated, pools.validation, 0.5)
    twice = dataclasses.replace(pools, real=pools.real[twice_V]).real
    np.testing.assert_allclose(half_V, fit.scores(twice, generated, pools.validation), rtol=1e-5)
    alone_V = fit.scores(pools.real, [], pools.validation)
    assert np.abs(half_V - alone_V).max() > 0.01
