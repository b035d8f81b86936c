"""Temperatures and calibration errors by hand; runs that are calibrated, measured and scored."""

import dataclasses
import json
import subprocess
import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gvvad_jax import (
    calibration,
    evaluation,
    events,
    model_measures,
    scoring,
    training,
)
from gvvad_jax.command import UserError
from gvvad_jax.measures import NOT_CALIBRATED, MeasureOptions
from gvvad_jax.run import checkpoints
from gvvad_jax.splits import Member, members_of
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.store import annotations
from gvvad_jax.store.reader import Store
from tests.support.started import python
from tests.support.stores import write_store

LOW, HIGH = 1 / (1 + np.exp(2)), 1 / (1 + np.exp(-2))


def test_the_temperature_by_hand():
    # Logits -2 and 2, targets 1/5 and 4/5: 2 / T must be log 4.
    temperature, reason = calibration.fit_temperature([LOW] * 3 + [HIGH] * 3, [0, 0, 0, 1, 1, 1])
    assert reason is None and temperature == pytest.approx(2 / np.log(4))
    np.testing.assert_allclose(calibration.apply([LOW, 0.5, HIGH], temperature), [0.2, 0.5, 0.8])
    # One of five is wrong, targets 1/7 and 6/7: the share of the mean target.
    scores = [LOW] * 4 + [HIGH] + [HIGH] * 4 + [LOW]
    temperature, _ = calibration.fit_temperature(scores, [0] * 5 + [1] * 5)
    share = (4 * 6 / 7 + 1 / 7) / 5
    assert temperature == pytest.approx(2 / np.log(share / (1 - share)))
    np.testing.assert_allclose(calibration.apply([0.0, 1.0], 1.0), [1e-6, 1 - 1e-6])


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([], [], "no validation video"),
        ([0.2, 0.3], [0, 0], "all 2 validation videos have label 0"),
        ([0.2], [1], "all 1 validation videos have label 1"),
        ([0.9, 0.1], [0, 1], "say nothing about their labels, or the opposite"),
        ([0.5, 0.5], [0, 1], "say nothing about their labels"),
    ],
)
def test_no_temperature_has_a_reason(scores, labels, reason):
    temperature, found = calibration.fit_temperature(scores, labels)
    assert temperature is None and reason in found


@hypothesis.given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=30))
def test_a_temperature_is_the_best_and_keeps_the_order(videos):
    scores_V, labels_V = np.array(videos).T
    temperature, reason = calibration.fit_temperature(scores_V, labels_V)
    assert (temperature is None) == (reason is not None)
    if temperature is None:
        return
    abnormal, normal = labels_V.sum(), (1 - labels_V).sum()
    targets_V = np.where(labels_V, (abnormal + 1) / (abnormal + 2), 1 / (normal + 2))

    def loss(inverse):
        logits_V = calibration.logits(scores_V) * inverse
        return np.mean(np.logaddexp(0, logits_V) - targets_V * logits_V)

    best = loss(1 / temperature)
    assert all(best <= loss(factor / temperature) + 1e-9 for factor in (0, 0.5, 0.99, 1.01, 2))
    chances_V = calibration.apply(scores_V, temperature)
    assert (np.diff(chances_V[np.argsort(scores_V, kind="stable")]) >= 0).all()


def test_a_threshold_that_no_score_is_above_is_said():
    def found(threshold, hours=0.0):
        return events.Threshold(threshold=threshold, alarms_per_hour=1.0, asked=1.0, hours=hours)

    assert calibration.describe(found(None)) is calibration.describe(found(0.999999)) is None
    said = calibration.describe(found(1.0, hours=2.0))
    assert said.startswith("the threshold is 1, because normal footage scores that high too; no")
    assert calibration.describe(found(1.5)).startswith("the threshold is 1.5; no score is above 1")


def test_the_calibration_error_by_hand():
    # Bins [0.1, 0.2): |0.14 - 0.5|, two of four; [0.9, 1]: |0.96 - 1|, two of four.
    chances = [0.1, 0.18, 0.92, 1.0]
    assert calibration.expected_error(chances, [0, 1, 1, 1]) == pytest.approx(0.18 + 0.02)
    assert calibration.expected_error([0.0, 1.0], [0, 1]) == 0.0
    with pytest.raises(ValueError, match="chances_V: .* none"):
        calibration.expected_error([], [])


def _stub(snippets, temperature=None, threshold=None):
    """A detector that gives these snippet scores."""
    calibrated = threshold and calibration.Calibration(
        step=1, temperature=temperature, temperature_reason=None if temperature else "why",
        threshold=threshold,
    )  # fmt: skip
    config = types.SimpleNamespace(fidelity="paper", top_k=2, alarms_per_hour=1.0)
    model = scoring.Model(config, None, Standardisation(), None, None, calibrated or None)
    object.__setattr__(model, "score_members", lambda ms: {m.video.id: snippets[m.video.id]
                                                           for m in ms})  # fmt: skip
    return model


def _members(path, with_frames=True):
    """Two normal and two abnormal test videos of ten snippets, 0.4 seconds each."""
    store = Store(write_store(path, {"test": (2, 2)}, lengths=(10, 10)))
    members = members_of(store, None)
    if with_frames:
        return members
    return [Member(m.store, dataclasses.replace(m.video, abnormal_frames=None)) for m in members]


def _threshold(value):
    return events.Threshold(
        threshold=value, alarms_per_hour=1.0 if value else None, asked=1.0, hours=4.0, videos=2,
        reason=None if value else "no normal footage to set a threshold on",
    )  # fmt: skip


def _snippets():
    ids = ("test-0-0", "test-0-1", "test-1-0", "test-1-1")
    snippets = {video_id: np.full(10, 0.1, np.float32) for video_id in ids}
    snippets["test-0-0"][2:5] = 0.8  # An alarm, of 1.2 seconds.
    snippets["test-1-0"][4:6] = 0.875
    snippets["test-1-1"][4:6] = 0.7
    return snippets


def test_videos_and_events_are_measured_by_hand(tmp_path):
    members = _members(tmp_path / "s", with_frames=False)
    model = _stub(_snippets(), temperature=2 / np.log(4), threshold=_threshold(0.75))
    measures = model_measures.measure_members(model, members)
    # Video scores 0.8 and 0.1 of normal ones, 0.875 and 0.7 of abnormal ones.
    assert (measures["video_auc"], measures["video_ap"]) == (3 / 4, pytest.approx((1 + 2 / 3) / 2))
    bins = [[0.1], [0.7 - 1], [0.8 + 0.875 - 1]]
    assert measures["ece_uncalibrated"] == pytest.approx(sum(abs(sum(b)) for b in bins) / 4)
    # Calibrated 0.723, 0.179 and 0.643, 0.794: the first and the last share a bin.
    chances = calibration.apply([0.8, 0.1, 0.7, 0.875], 2 / np.log(4))
    bins = [chances[1], chances[2] - 1, chances[0] + chances[3] - 1]
    assert measures["ece"] == pytest.approx(np.abs(bins).sum() / 4)
    # One alarm in two videos of four seconds; the events of abnormal videos don't count.
    assert measures["normal_hours"] == pytest.approx(8 / 3600)
    assert measures["alarms_per_hour"] == pytest.approx(450.0)
    assert measures["threshold"]["threshold"] == 0.75 and measures["threshold"]["hours"] == 4.0
    assert (measures["auc"], measures["frames"], measures["videos"]) == (None, 0, 4)
    assert set(measures["reasons"]) == {
        name for name, value in measures.items() if value is None
    } == {"auc", "ap", "pr_auc", "auc_abnormal", "far", "eer", "eer_threshold", "alignment",
          "event_precision", "event_recall", "detection_delay", "event_ap",
          "event_map"}  # fmt: skip
    assert measures["reasons"]["auc"] == (
        "2 abnormal videos without abnormal_frames in videos.json, 'test-1-0' first"
    )
    json.dumps(measures, allow_nan=False)


def test_every_null_has_a_reason(tmp_path):
    members = _members(tmp_path / "s")
    measures = model_measures.measure_members(_stub(_snippets()), members)
    assert measures["auc"] is not None and measures["video_auc"] == 3 / 4
    events_too = ("event_precision", "event_recall", "detection_delay")
    assert measures["reasons"] == dict.fromkeys(
        ("ece", "threshold", "alarms_per_hour", *events_too), NOT_CALIBRATED
    )
    normal = model_measures.measure_members(_stub(_snippets(), None, _threshold(None)), members[:2])
    assert normal["reasons"] == {
        "auc": "no abnormal frame in the test videos",
        "ap": "no abnormal frame in the test videos",
        "pr_auc": "no abnormal frame in the test videos",
        "auc_abnormal": "no abnormal frame in the test videos",
        "eer": "no abnormal frame in the test videos",
        "eer_threshold": "no abnormal frame in the test videos",
        "video_auc": "all 2 test videos have label 0",
        "video_ap": "all 2 test videos have label 0",
        "ece": "why",
        "alarms_per_hour": "no normal footage to set a threshold on",
    } | dict.fromkeys((*events_too, "event_ap", "event_map"), "no abnormal interval")
    assert normal["far"] == pytest.approx(3 / 20)
    abnormal = model_measures.measure_members(_stub(_snippets(), 1.0, _threshold(0.5)), members[2:])
    assert abnormal["reasons"]["alarms_per_hour"] == "no normal test video"


def test_a_run_is_compared_and_its_rule_is_stated(tmp_path, monkeypatch):
    _members(tmp_path / "s")
    monkeypatch.setattr(scoring.Model, "require", lambda *_: None)
    model = _stub(_snippets(), 1.0, _threshold(0.75))
    louder = _stub({i: scores_T + 0.1 for i, scores_T in _snippets().items()}, 1.0, _threshold(0.5))
    options = MeasureOptions(bootstrap=20, wanted_far=0.1, per_video=True)
    measures = model.evaluate(tmp_path / "s", alarms_per_hour=1.0, options=options, other=louder)
    assert measures["alignment"] == model_measures.BY_TIME and measures["frames"] == 160
    assert measures["event_precision"]["events"] == 1  # The false alarm; others are too short.
    # Adding a constant changes no rank, and more frames are above 0.5 only where they were.
    assert measures["comparison"]["auc"]["difference"] == 0.0
    assert measures["intervals"]["units"] == 4 and len(measures["per_video"]) == 4
    assert measures["wanted_far"]["far"] <= 0.1
    with pytest.raises(
        UserError, match="expected snippets of 16 frames, every 16.*--alignment=time"
    ):
        model.evaluate(
            tmp_path / "s", alarms_per_hour=1.0, options=MeasureOptions(alignment="published")
        )


def test_frame_scores_alone_say_what_they_do_not_tell():
    measures = evaluation.measure({"a": np.array([0.1, 0.9])}, {"a": np.array([0, 1])})
    assert measures["auc"] == 1.0
    assert set(measures["reasons"]) == {
        name for name, value in measures.items() if value is None
    } == {"video_auc", "video_ap", "ece", "ece_uncalibrated", "threshold", "alarms_per_hour",
          "normal_hours", "event_precision", "event_recall", "detection_delay", "event_ap",
          "event_map"}  # fmt: skip


def test_calibrated_video_scores_of_a_file_are_measured(tmp_path):
    arrays = {"a": np.array([0.1, 0.9]), "video/b": np.array([0.3, 0.4])}
    scores = {"video/a": np.array(0.95), "video/video/b": np.array(0.1)}
    np.savez(tmp_path / "s.npz", **arrays, **scores)
    truth = {"a": np.array([0, 1]), "video/b": np.array([0, 0])}
    np.savez(tmp_path / "g.npz", **truth)
    # The array of two scores is a video's, the single numbers are the calibrated ones.
    measures = evaluation.measure_files(str(tmp_path / "s.npz"), str(tmp_path / "g.npz"))
    assert (measures["video_auc"], measures["videos"]) == (1.0, 2)
    assert measures["ece"] == pytest.approx((0.05 + 0.1) / 2)
    assert measures["ece_uncalibrated"] is None and "ece_uncalibrated" in measures["reasons"]


def _config(settings, store, workdir, **changes):
    return dataclasses.replace(
        settings, detector="mil_rank", store=str(store), synthetic_store="", synthetic_keep="",
        workdir=str(workdir), steps=4, validate_every=2, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def labels_only(settings, tmp_path_factory):
    """A run on video labels alone, and its store."""
    folder = tmp_path_factory.mktemp("labels")
    splits = {"train": (6, 6), "validation": (4, 4), "test": (3, 3)}
    store = write_store(folder / "s", splits)
    listed = json.loads((store / "videos.json").read_text())
    for entry in listed["videos"].values():
        entry.pop("abnormal_frames", None)
    (folder / "videos.json").write_text(json.dumps(listed))
    config = _config(
        settings, store, folder / "run", annotations=str(folder / "videos.json"), learning_rate=0.05
    )
    return config, training.fit(config)


def _command(name, *arguments):
    command = [*python(), "-m", f"gvvad_jax.{name}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_run_on_video_labels_alone_gives_a_result(labels_only):
    _, result = labels_only
    assert result.last["auc"] is None and 0 <= result.last["video_auc"] <= 1
    assert 0 <= result.best_on_validation["video_ap"] <= 1 and result.reasons == {}
    assert "without abnormal_frames" in result.last["reasons"]["auc"]
    written = json.loads((result.workdir / "result.json").read_text())
    threshold = written["calibration"]["last"]["threshold"]
    assert threshold == written["last"]["threshold"] and threshold["videos"] == 4
    # Seconds of footage support hundreds of alarms an hour, and the threshold gives none there.
    assert threshold["alarms_per_hour"] == pytest.approx(3 / threshold["hours"])
    assert (threshold["asked"], threshold["alarms"]) == (1.0, 0)
    assert "support" in threshold["reason"]
    assert written["calibration"]["last"]["step"] == 4


def test_a_runs_calibration_is_in_its_model_and_applied_by_score(labels_only, tmp_path):
    config, result = labels_only
    calibrated = result.calibration["last"]
    assert calibrated["temperature"] is not None, calibrated["temperature_reason"]
    model = scoring.load(config.workdir)
    assert model.calibration.to_json() == calibrated
    assert set(model.normal_videos) == {f"validation-0-{i}" for i in range(4)}
    status, output, _ = _command(
        "score", f"--workdir={config.workdir}", f"--store={config.store}",
        f"--out={tmp_path / 's.npz'}",
    )  # fmt: skip
    answer = json.loads(output)
    assert status == 0 and answer["videos"] == 26
    assert answer["temperature"] == calibrated["temperature"] and "reason" not in answer
    with np.load(tmp_path / "s.npz") as scores:
        raw = np.sort(scores["snippets/test-1-0"])[-config.top_k :].mean()
        expected = calibration.apply([raw], calibrated["temperature"])[0]
        assert scores["video/test-1-0"].shape == ()
        assert float(scores["video/test-1-0"]) == pytest.approx(expected, abs=1e-6)
        # Frame scores stay as they are.
        assert scores["test-1-0"].max() == scores["snippets/test-1-0"].max()


def test_evaluate_takes_the_runs_threshold_or_sets_another(labels_only, tmp_path):
    config, result = labels_only
    given = f"--workdir={config.workdir}", f"--store={config.store}"
    listed = f"--annotations={config.annotations}"
    status, output, errors = _command("evaluate", *given, listed)
    assert status == 0 and json.loads(output) == result.last
    assert "no measures of frames: 3 abnormal videos without abnormal_frames" in errors
    rated = json.loads(_command("evaluate", *given, listed, "--alarms_per_hour=59")[1])
    same = result.last["threshold"]
    assert rated["threshold"]["asked"] == 59 and rated["threshold"]["videos"] == 4
    assert rated["threshold"]["threshold"] == same["threshold"]  # As short as before.
    # Hours of footage of its own.
    normal = write_store(tmp_path / "n", {"test": (2, 0)}, seed=3, lengths=(14000, 14000))
    own = json.loads(
        _command("evaluate", *given, listed, "--alarms_per_hour=2", f"--normal_store={normal}")[1]
    )
    assert own["threshold"]["reason"] is None and own["threshold"]["videos"] == 2
    assert own["threshold"]["hours"] == pytest.approx(2 * 14000 * 0.4 / 3600)
    assert 0 < own["threshold"]["alarms"] <= 2 * own["threshold"]["hours"]
    # A store without the run's normal videos can't set another threshold.
    other = write_store(tmp_path / "o", {"test": (2, 2)}, seed=4)
    lacking = scoring.load(config.workdir).evaluate(str(other), alarms_per_hour=3.0)
    assert lacking["threshold"]["threshold"] is None and lacking["alarms_per_hour"] is None
    assert lacking["reasons"]["alarms_per_hour"] == (
        "the store has 0 of the run's 4 normal validation videos; give --normal_store"
    )
    assert _command("evaluate", *given, "--alarms_per_hour=0")[0] == 2


def test_the_threshold_may_rest_on_a_store_of_its_own(settings, labels_only, tmp_path):
    store = labels_only[0].store
    normal = write_store(tmp_path / "n", {"train": (2, 1)}, seed=5, prefix="n-")
    config = _config(settings, store, tmp_path / "run", normal_store=str(normal))
    result = training.fit(config)
    assert result.calibration["last"]["threshold"]["videos"] == 2
    # It may change when the run goes on: training doesn't depend on it.
    again = training.fit(dataclasses.replace(config, normal_store="", alarms_per_hour=2.0))
    assert again.calibration["last"]["threshold"]["videos"] == 4
    assert again.calibration["last"]["threshold"]["asked"] == 2.0
    assert again.last["auc"] == result.last["auc"]
    for path, message in (
        (write_store(tmp_path / "a", {"train": (0, 1)}, seed=6), "expected normal videos"),
        (store, "found the rows of 'train-0-0' in the training video 'train-0-0'"),
    ):
        refused = _config(settings, store, tmp_path / "refused", normal_store=str(path))
        with pytest.raises(UserError, match=f"--normal_store=.*{message}"):
            training.fit(refused)


def test_without_validation_or_test_the_result_says_why(settings, tmp_path):
    store = write_store(tmp_path / "s", {"train": (3, 3)})
    result = training.fit(_config(settings, store, tmp_path / "run"))
    assert result.last is None and result.best_on_validation is None
    assert result.reasons == {
        "last": "no test video: videos.json lists none",
        "best_on_validation": "no validation video: 3 real training videos of a label, fewer than "
        "the 5 that are split",
    }
    calibrated = result.calibration["last"]
    assert calibrated["temperature_reason"] == "no validation video"
    assert calibrated["threshold"]["reason"] == "no normal footage to set a threshold on"
    assert result.to_json()["reasons"] == result.reasons


def test_a_model_without_calibration_or_with_an_older_one_scores(labels_only, tmp_path):
    config, _ = labels_only
    saved = checkpoints.read_model(config.workdir)
    for calibrations in (None, _at_another_step(saved.calibrations)):
        copy = tmp_path / ("none" if calibrations is None else "older")
        copy.mkdir()
        (copy / "checkpoints").symlink_to(f"{config.workdir}/checkpoints")
        checkpoints.write_model(
            copy, saved.config, saved.manifest, saved.standardisation, calibrations
        )
        content = json.loads((copy / "model.json").read_text())
        assert ("calibration" in content) == bool(calibrations)
        model = scoring.load(copy)
        assert model.calibration is None
        measures = model.evaluate(config.store)
        assert measures["ece"] is None and measures["reasons"]["ece"] == NOT_CALIBRATED
        assert measures["video_auc"] is not None
    content["calibration"]["checkpoints"]["last"]["temperature"] = 9.0
    (copy / "model.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"model.json: expected the values that it was written"):
        scoring.load(copy)


def _at_another_step(calibrations):
    changed = {
        kind: dataclasses.replace(c, step=c.step + 1)
        for kind, c in calibrations.checkpoints.items()
    }
    return calibration.Calibrations(changed, calibrations.normal_videos)


def test_an_id_that_would_be_anothers_video_score_is_refused(labels_only, tmp_path):
    config, _ = labels_only
    entries = {i: {"file": "a.mp4", "label": 0, "split": "test"} for i in ("a", "video/a")}
    listed = annotations.from_json({"fps": 10, "videos": entries}, "videos.json")
    assert listed  # Such ids are allowed otherwise.
    store = Store(config.store)
    store.rows = {"a": None, "video/a": None}
    from gvvad_jax import score

    with pytest.raises(UserError, match="video 'video/a': .* the video score of 'a' there"):
        score._score_store(scoring.load(config.workdir), store)
