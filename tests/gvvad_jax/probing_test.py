"""The probe: its regression, folds, interval and verdicts, and what mustn't leak."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from gvvad_jax import probing, regression
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import Splits, members_of, open_splits
from gvvad_jax.standardisation import standards
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter

DIM, SNIPPETS = 16, 3


def _rows(labels_V, *, signal=2.0, seed=0):
    """Rows [V, T, D] of which the first feature is higher in abnormal videos."""
    rng = np.random.default_rng(seed)
    rows_VxTxD = rng.normal(size=(len(labels_V), 1, DIM)) + 0.1 * rng.normal(
        size=(len(labels_V), SNIPPETS, DIM)
    )
    rows_VxTxD[:, :, 0] += signal * np.asarray(labels_V)[:, None]
    return rows_VxTxD


def _write(path, rows_VxTxD, labels_V, *, source="real", split="train", prefix="v", groups=None):
    with StoreWriter.for_features(path, dim=DIM) as writer:
        for i, (rows_TxD, label) in enumerate(zip(rows_VxTxD, labels_V, strict=True)):
            writer.add_video(
                f"{prefix}{i}", rows_TxD, label=int(label), split=split, source=source,
                group=groups[i] if groups else None,
            )  # fmt: skip
    return members_of(Store(path), None)


def _probe(real, *sets, test=(), **changes):
    train = [*real, *(member for members in sets for member in members)]
    config = TrainConfig(detector="rtfm", **changes)
    return probing.probe(Splits(train, [], [], list(test)), config)


def test_the_regression_is_scikit_learns():
    labels_V = np.array([0] * 20 + [1] * 6)
    rows_VxD = _rows(labels_V).mean(axis=1) / 3
    weights_D, intercept = regression.fit_logistic(rows_VxD, labels_V, strength=50.0)
    share_V = np.where(labels_V == 1, 0.5 / 6, 0.5 / 20)
    model = LogisticRegression(C=50.0, tol=1e-10, max_iter=10_000)
    model.fit(rows_VxD, labels_V, sample_weight=share_V)
    np.testing.assert_allclose(weights_D, model.coef_[0], atol=1e-4)
    assert intercept == pytest.approx(model.intercept_[0], abs=1e-4)


@pytest.mark.parametrize("by", ["real", "domain"])
def test_test_aucs_are_those_of_scikit_learn_on_features_standardised_as_the_runs(tmp_path, by):
    labels_V = np.array([0] * 9 + [1] * 5)
    real = _write(tmp_path / "r", _rows(labels_V, signal=0.6) * 5, labels_V)
    generated = _write(
        tmp_path / "g", 40 + _rows(labels_V, seed=1), labels_V, source="synthetic", prefix="g"
    )
    test_labels_V = np.array([0, 1] * 10)
    test_rows = _rows(test_labels_V, signal=0.6, seed=2) * 5
    test = _write(tmp_path / "t", test_rows, test_labels_V, split="test", prefix="t")
    result = _probe(real, generated, test=test, standardise="yes", standardise_by=by)
    config = TrainConfig(detector="rtfm", standardise="yes", standardise_by=by)
    # Without the set, too: the two differ by the set alone.
    standard = standards([*real, *generated], config)
    for train, found in (
        (real, result.test_auc),
        ([*real, *generated], result.sets[0].test_auc),
    ):
        train_VxD, test_VxD = (
            np.stack(
                [s.apply(m.store.visual(m.video.id)).mean(axis=(0, 1)) for m, s in pairs]
            ).astype(np.float64)
            for pairs in ([(m, standard.of(m)) for m in train], [(m, standard.real) for m in test])
        )
        centre_D = train_VxD[: len(real)].mean(axis=0)
        size = np.sqrt(np.square(train_VxD[: len(real)] - centre_D).sum(axis=1).mean())
        y = np.array([m.video.label for m in train])
        model = LogisticRegression(C=regression.STRENGTH, tol=1e-10, max_iter=100_000)
        model.fit((train_VxD - centre_D) / size, y, sample_weight=0.5 / np.bincount(y)[y])
        scores_V = model.decision_function((test_VxD - centre_D) / size)
        assert found == pytest.approx(roc_auc_score([m.video.label for m in test], scores_V))


@pytest.mark.parametrize("how", ["the same group", "the same rows"])
def test_a_copy_of_the_held_out_videos_adds_nothing(tmp_path, how):
    # Labels at random: whatever is above chance was seen.
    labels_V = np.random.default_rng(0).permutation([0, 1] * 15)
    rows_VxTxD = _rows(labels_V, signal=0.0)
    real = _write(tmp_path / "r", rows_VxTxD, labels_V)
    same = how == "the same rows"
    copies = _write(
        tmp_path / "g", rows_VxTxD + (0.0 if same else 1e-4), labels_V, source="synthetic",
        prefix="g", groups=None if same else [f"v{i}" for i in range(30)],
    )  # fmt: skip
    result = _probe(real, copies)
    assert result.sets[0].difference == pytest.approx(0, abs=5e-3)
    assert result.sets[0].verdict == "can't tell" and result.sets[0].auc < 0.7


def test_a_copy_that_nothing_says_is_one_is_what_the_leak_would_be(tmp_path):
    labels_V = np.random.default_rng(0).permutation([0, 1] * 5)
    rows_VxTxD = _rows(labels_V, signal=0.0)
    real = _write(tmp_path / "r", rows_VxTxD, labels_V)
    copies = _write(
        tmp_path / "g", rows_VxTxD + 1e-4, labels_V, source="synthetic", prefix="g"
    )  # fmt: skip
    assert _probe(real, copies).sets[0].auc > _probe(real).auc + 0.2


def test_real_videos_of_a_group_are_held_out_together(tmp_path):
    # Each camera has five videos that are the same but for noise, and one label at random.
    cameras = np.random.default_rng(4).permutation([0, 1] * 6)
    labels_V = np.repeat(cameras, 5)
    rows_VxTxD = np.repeat(_rows(cameras, signal=0.0), 5, axis=0)
    rows_VxTxD = rows_VxTxD + 1e-3 * np.random.default_rng(2).normal(size=rows_VxTxD.shape)
    grouped = _write(
        tmp_path / "a", rows_VxTxD, labels_V, groups=[f"camera {i // 5}" for i in range(60)]
    )
    alone = _probe(_write(tmp_path / "b", rows_VxTxD, labels_V))
    result = _probe(grouped)
    assert (alone.groups, result.groups) == (60, 12)
    assert alone.auc > 0.95 and result.auc < 0.75


def test_helping_and_losing_sets_are_told_apart(tmp_path):
    few_V, many_V = np.array([0] * 30 + [1] * 30), np.array([0, 1] * 100)
    real = _write(tmp_path / "r", _rows(few_V, signal=1.0), few_V)
    rows_VxTxD = _rows(many_V, signal=1.0, seed=1)
    helping = _write(tmp_path / "h", rows_VxTxD, many_V, source="synthetic", prefix="h")
    shuffled = _write(tmp_path / "s", rows_VxTxD, 1 - many_V, source="synthetic", prefix="s")
    result = _probe(real, helping, shuffled)
    helps, hurts = result.sets
    assert (helps.verdict, hurts.verdict) == ("helps", "hurts")
    assert helps.interval[0] > 0 > hurts.interval[1]
    assert result.losing == (str(tmp_path / "s"),)
    assert (result.normal, result.abnormal, result.folds, hurts.abnormal) == (30, 30, 50, 100)
    other_folds = _probe(real, seed=2)
    assert other_folds.auc != result.auc and other_folds.test_auc == result.test_auc
    # Each set is measured by itself, and again with the same numbers.
    assert _probe(real, shuffled).sets[0] == hurts
    assert result.to_json()["sets"][1]["interval"] == [round(edge, 4) for edge in hurts.interval]


def test_the_unit_of_the_features_doesnt_matter(tmp_path):
    labels_V = np.array([0, 1] * 10)
    rows_VxTxD = _rows(labels_V, signal=1.0)
    small = _probe(_write(tmp_path / "a", rows_VxTxD, labels_V), standardise="no")
    large = _probe(_write(tmp_path / "b", 1024 * rows_VxTxD, labels_V), standardise="no")
    assert small.auc == pytest.approx(large.auc, abs=1e-3)


def test_a_runs_baseline_is_the_regression_on_all_of_its_training_videos(tmp_path):
    labels_V, few_V = np.array([0, 1] * 6), np.array([0, 1, 1])
    real = _write(tmp_path / "r", _rows(labels_V, signal=0.4), labels_V)
    rows = _rows(few_V, signal=0.4, seed=1), _rows(few_V, signal=0.4, seed=2)
    sets = [
        _write(tmp_path / name, each, few_V, source="synthetic", prefix=name)
        for name, each in zip("ab", rows, strict=True)
    ]
    both = _write(
        tmp_path / "both", np.concatenate(rows), [*few_V, *few_V], source="synthetic", prefix="c"
    )
    test = _write(
        tmp_path / "t", _rows(labels_V, signal=0.4, seed=3), labels_V, split="test", prefix="t"
    )
    probed = _probe(real, sets[0], both, test=test)

    def baseline(*sets, test=test):
        train = [*real, *(member for members in sets for member in members)]
        return probing.baseline(Splits(train, [], [], list(test)), TrainConfig(detector="rtfm"))

    assert baseline() == probing.Baseline(auc=probed.test_auc, real_auc=probed.test_auc)
    one, two = baseline(sets[0]), baseline(*sets)
    assert (one.auc, one.real_auc) == (probed.sets[0].test_auc, probed.test_auc)
    # Two stores, standardised by the real videos, are as good as one.
    assert two.auc == pytest.approx(probed.sets[1].test_auc) and two.auc != one.auc
    none = baseline(test=[])
    assert none == probing.Baseline(auc=None, real_auc=None) and none.describe(0.5) is None


def test_what_training_gains_is_one_line():
    baseline = probing.Baseline(auc=0.875, real_auc=0.8125)
    assert baseline.describe(0.9) == (
        "video AUC 0.900: training gains 0.025 over a logistic regression on mean features (0.875; "
        "on real videos alone 0.812)"
    )
    assert baseline.describe(0.5) == (
        "video AUC 0.500: training loses 0.375 to a logistic regression on mean features (0.875; "
        "on real videos alone 0.812)"
    )
    assert baseline.describe(None) is None
    assert baseline.to_json() == {"auc": 0.875, "real_auc": 0.8125}


def test_too_few_videos_have_no_verdict_and_say_why(tmp_path):
    labels_V = np.array([0, 1] * 10)
    generated = _write(
        tmp_path / "g", _rows(labels_V), labels_V, source="synthetic", prefix="g"
    )  # fmt: skip
    test = _write(tmp_path / "t", _rows(labels_V, seed=3), labels_V, split="test", prefix="t")
    two = _write(tmp_path / "two", _rows([0, 1]), [0, 1])
    result = _probe(two, generated, test=test)
    assert (result.auc, result.folds, result.sets[0].verdict) == (None, 0, "can't tell")
    assert result.reason == (
        "the abnormal real training videos form 1 groups, and a verdict needs 4 of each label"
    )
    assert result.test_auc is not None and result.sets[0].test_auc > 0.7
    one_label = _probe(_write(tmp_path / "one", _rows([0] * 6), [0] * 6), generated, test=test)
    assert (one_label.test_auc, one_label.auc) == (None, None)
    assert (
        one_label.sets[0].test_auc > 0.7
        and "abnormal real training videos form 0 groups" in one_label.reason
    )
    no_real = _probe([], generated, test=test, standardise="yes", standardise_by="domain")
    assert (no_real.normal, no_real.auc, no_real.folds) == (0, None, 0)
    assert no_real.sets[0].test_auc > 0.7
    three = _probe(_write(tmp_path / "3", _rows([0, 1] * 3, signal=9.0), [0, 1] * 3), generated)
    assert three.auc == 1.0 and three.sets[0].interval is not None
    assert three.sets[0].verdict == "can't tell" and three.test_auc is None


def test_videos_without_any_difference_are_at_chance(tmp_path):
    rows_VxTxD = np.ones((12, SNIPPETS, DIM))
    real = _write(tmp_path / "r", rows_VxTxD, [0, 1] * 6)
    # They share their rows, and so are one group, which can't be divided.
    assert (_probe(real).groups, _probe(real).auc) == (1, None)


def test_a_runs_splits_are_probed_by_store(real_store, synthetic_store, decisions, tmp_path):
    config = TrainConfig(
        store=str(real_store), synthetic_store=str(synthetic_store),
        synthetic_keep=str(decisions), validation_share=0.0,
    )  # fmt: skip
    splits, _ = open_splits(config)
    result = probing.probe(splits, config, repeats=2)
    assert (result.normal, result.abnormal, result.folds) == (8, 7, 10)
    assert [each.store for each in result.sets] == [str(synthetic_store)]
    assert result.sets[0].normal + result.sets[0].abnormal == 8
