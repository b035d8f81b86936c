import numpy as np
import pytest

from tools.studies import world_fairness


def sample(label, labels_F, scores_F, feat_TxD=((0.0,), (1.0,))):
    return world_fairness.Sample(
        label,
        {"rule": np.array(scores_F, float)},
        np.array(feat_TxD),
        np.array([[0.0, 0.2], [0.2, 0.4]]),
        np.array(labels_F, np.uint8),
        10.0,
    )


def test_auc_over_all_and_over_abnormal_videos():
    samples = [sample(1, [0, 0, 1, 1], [1, 4, 3, 5]), sample(0, [0, 0, 0, 0], [0, 0, 6, 0])]
    # Positives 3 and 5; in the abnormal video negatives 1 and 4: 3 of 4 pairs are in order. The
    # normal video adds 0, 0, 0 below both and 6 above both: 3 + 6 of 12.
    measured = world_fairness.auc_pair(samples, lambda s: s.rules["rule"])
    assert measured == {"auc": pytest.approx(9 / 12), "auc_abnormal": pytest.approx(3 / 4)}


def test_the_oracle_knows_nothing_within_abnormal_videos():
    samples = [sample(1, [0, 0, 1, 1], [0] * 4), sample(0, [0] * 4, [0] * 4)]
    measured = world_fairness.auc_pair(samples, lambda s: np.full(4, s.label))
    # Positives tie with the 2 negatives of their video and win over the other 4: 5 of 6.
    assert measured == {"auc": pytest.approx(5 / 6), "auc_abnormal": 0.5}


def test_snippet_labels_go_by_the_majority_of_frames():
    one = sample(1, [0, 1, 1, 1], [0] * 4)  # half of the first snippet, all of the second
    assert one.snippet_labels().tolist() == [0, 1]


def test_classifier_finds_what_separates_snippets():
    samples = [sample(1, [0, 0, 1, 1], [0] * 4) for _ in range(3)]
    model = world_fairness.fit(samples, world_fairness.Sample.snippet_labels, 1.0)
    scores_F = world_fairness.classifier_scores(model, samples[0])
    assert scores_F[:2].max() < 0 < scores_F[2:].min()


def test_faults_name_what_is_unfair():
    def table(rule, supervised):
        return {"flow": {"auc": rule}, "supervised": {"auc": supervised}}

    assert world_fairness.faults(table(0.80, 0.95), ["flow"]) == []
    assert "flow reaches 0.810" in world_fairness.faults(table(0.81, 0.95), ["flow"])[0]
    # A rule that is wrong throughout is right with its sign flipped.
    assert "flow reaches 0.850" in world_fairness.faults(table(0.15, 0.95), ["flow"])[0]
    assert "reaches 0.940, not 0.95" in world_fairness.faults(table(0.5, 0.94), ["flow"])[0]
    smooth = table(0.5, 0.95) | {"flow, smoothed": {"auc": 0.83}}
    assert "flow, smoothed reaches 0.830" in world_fairness.faults(smooth, ["flow"])[0]
