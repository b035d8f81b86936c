"""Frame labels against rows: another rate, another length, rows that are missing, files of scores.

The detector of these tests is perfect or known: a row's feature is its score.
"""

import json
import types

import numpy as np
import pytest

from gvvad_jax import evaluation, model_measures, scoring
from gvvad_jax.command import UserError
from gvvad_jax.splits import members_of
from gvvad_jax.store import annotations
from gvvad_jax.store.format import Row
from gvvad_jax.store.reader import Store
from gvvad_jax.store.writer import StoreWriter
from tests.support.stores import make_manifest


def _detector(fidelity="paper"):
    def score_members(members):
        return {m.video.id: np.array(m.store.visual(m.video.id)[:, 0, 0]) for m in members}

    config = types.SimpleNamespace(fidelity=fidelity, top_k=3)
    model = scoring.Model(config, None, None, None, None)
    object.__setattr__(model, "score_members", score_members)
    return model


def _write(path, videos, snippet, fps_policy="native", fps=10.0):
    """A store of {id: (row scores, number of frames, abnormal frames)}."""
    manifest = make_manifest(
        dim=1, crops={"count": 1, "order": "whole"}, text=None, snippet=snippet,
        fps_policy=fps_policy,
    )  # fmt: skip
    entries = {
        i: {"file": i, "label": int(bool(events)), "split": "test", "abnormal_frames": events}
        for i, (_, _, events) in videos.items()
    }
    content = {"fps": fps, "videos": entries}
    writer = StoreWriter(path, manifest, annotations.from_json(content, "videos.json"))
    for video_id, (scores, frames, _) in videos.items():
        row = Row(
            id=video_id, num_snippets=len(scores), num_frames=frames, fps=fps, source="real",
            declared_frames=frames, decoded_frames=frames,
        )  # fmt: skip
        writer.add(row, np.reshape(scores, (-1, 1, 1)), None)
    assert writer.pack()
    return Store(path)


def _measure(store, override=None, fidelity="paper"):
    path = override.path if override else ""
    return model_measures.measure_members(
        _detector(fidelity), members_of(store, override), path=path
    )


SNIPPET = {"frames": 4, "stride": 4, "pooling": "mean"}
# Two videos of 40 frames at 10 fps; the detector is late by a snippet.
SCORES_A = [0.1, 0.1, 0.1, 0.1, 0.8, 0.9, 0.8, 0.2, 0.1, 0.1]
SCORES_B = [0.3, 0.2, 0.1, 0.2, 0.1, 0.3, 0.4, 0.3, 0.2, 0.1]


def _late(path):
    return _write(path, {"a": (SCORES_A, 40, [[12, 24]]), "b": (SCORES_B, 40, [])}, SNIPPET)


def _listed(tmp_path, fps=None, **changes):
    entries = {
        "a": {"file": "a", "label": 1, "split": "test"} | changes,
        "b": {"file": "b", "label": 0, "split": "test"},
    }
    if "num_frames" in changes:
        entries["b"]["num_frames"] = changes["num_frames"]
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"videos": entries} | ({"fps": fps} if fps else {})))
    return annotations.load(path)


@pytest.mark.parametrize("fidelity", ["paper", "reference"])
@pytest.mark.parametrize("missing", [0, 1])
@pytest.mark.parametrize("frames", [159, 160, 161, 176])
def test_a_perfect_detector_of_published_features_is_perfect(tmp_path, frames, missing, fidelity):
    count = -(-frames // 16) - missing
    scores_T = np.zeros(count, np.float32)
    scores_T[3:6] = 1
    with StoreWriter.for_features(tmp_path, dim=1) as writer:
        for video_id, label in (("a", 1), ("n", 0)):
            writer.add_video(
                video_id, scores_T[:, None] * label, label=label, split="test", num_frames=frames,
                abnormal_frames=[[48, 96]] if label else [],
            )  # fmt: skip
    measures = _measure(Store(tmp_path), fidelity=fidelity)
    assert (measures["auc"], measures["ap"], measures["auc_abnormal"]) == (1.0, 1.0, 1.0)
    assert measures["frames"] == 2 * (frames if fidelity == "paper" else 16 * count)


def test_frames_without_a_row_take_the_last_rows_score_and_it_is_said(tmp_path, capsys):
    with StoreWriter.for_features(tmp_path, dim=1) as writer:
        writer.add_video(
            "a", np.ones((9, 1)), label=1, split="test", num_frames=161, abnormal_frames=[[0, 9]]
        )
    store = Store(tmp_path)
    np.testing.assert_allclose(store.times("a")[-1], [128 / 25, 144 / 25])
    _measure(store)
    assert "'a' first: the last 17 frames have no row, and take the last row's score" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("rows", [8, 32])
def test_rows_that_do_not_fit_their_frames_are_refused_unless_even(tmp_path, rows):
    features, entry = np.ones((rows, 1)), {"label": 0, "split": "test", "num_frames": 161}
    with (
        pytest.raises(UserError, match=f"of its 161 frames, found {rows} rows; .*alignment="),
        StoreWriter.for_features(tmp_path / "exact", dim=1) as writer,
    ):
        writer.add_video("a", features, **entry)
    with StoreWriter.for_features(tmp_path / "even", dim=1, alignment="even") as writer:
        writer.add_video("a", features, **entry)
    times_Tx2 = Store(tmp_path / "even").times("a")
    np.testing.assert_allclose(times_Tx2[:, 0], np.arange(rows) * 161 / 25 / rows)


@pytest.mark.parametrize(
    ("changes", "fps_policy", "named"),
    [
        ({"frames": "unknown", "stride": "unknown"}, "native", "frames and stride"),
        ({}, "unknown", "fps_policy"),
        ({"stride": "unknown"}, 5.0, "stride"),
    ],
)
def test_unknown_snippets_share_the_time_evenly_and_it_is_said(
    tmp_path, capsys, changes, fps_policy, named
):
    videos = {"a": (SCORES_A, 37, [[15, 26]]), "b": (SCORES_B, 40, [])}
    store = _write(tmp_path, videos, SNIPPET | changes, fps_policy)
    np.testing.assert_allclose(store.times("a")[:, 1], np.arange(1, 11) * 0.37)
    # Rows 4 to 6 cover [14.8, 25.9) of 37 frames.
    assert _measure(store)["auc"] == 1.0
    errors = capsys.readouterr().err
    assert f"the manifest doesn't know {named}: rows share the video's time evenly" in errors
    assert errors.count("\n") == 1
    _measure(store)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("fps", "changes"),
    [
        (25, {"abnormal_frames": [[30, 60]], "num_frames": 100}),
        (25, {"abnormal_frames": [[30, 60]]}),
        (5, {"abnormal_frames": [[6, 12]], "num_frames": 20}),
        (None, {"abnormal_frames": [[12, 24]], "num_frames": 40}),
        # The same frames, whatever is said of their rate.
        (25, {"abnormal_frames": [[12, 24]], "num_frames": 40}),
    ],
)
def test_annotations_of_another_rate_are_rescaled_by_time(tmp_path, capsys, fps, changes):
    store = _late(tmp_path / "s")
    expected = _measure(store)
    # Rows of 0.9, 0.8 and 0.1 against 17: 17, 16 and a tie, eight ties.
    assert expected["auc"] == pytest.approx(37.5 / 51)
    capsys.readouterr()
    assert _measure(store, _listed(tmp_path, fps, **changes)) == expected
    errors = capsys.readouterr().err
    rescaled = changes["abnormal_frames"] != [[12, 24]]
    assert ("2 videos annotated at another frame rate, abnormal_frames" in errors) == rescaled
    assert ("'a' first" in errors and f"says {fps} fps, the file 10" in errors) == bool(fps)


@pytest.mark.parametrize(
    ("fps", "changes", "found"),
    [
        (None, {"abnormal_frames": [[30, 60]], "num_frames": 100}, "100 frames at an unknown rate"),
        (10, {"abnormal_frames": [[30, 38]], "num_frames": 100}, "100 frames at 10 fps"),
        (25, {"abnormal_frames": [[30, 60]], "num_frames": 80}, "80 frames at 25 fps"),
        (None, {"abnormal_frames": [[30, 60]]}, "an event that ends at 60 at an unknown rate"),
    ],
)
def test_annotations_of_another_length_are_refused(tmp_path, fps, changes, found):
    store, listed = _late(tmp_path / "s"), _listed(tmp_path, fps, **changes)
    with pytest.raises(UserError, match=f"other.json: video 'a': .* 40 frames at 10 fps.* {found}"):
        _measure(store, listed)


def test_an_event_at_another_rate_keeps_at_least_a_frame():
    entry = {"file": "a", "label": 1, "split": "test", "abnormal_frames": [[299, 300], [31, 32]]}
    video = annotations.from_json({"fps": 30, "videos": {"a": entry}}, "v.json").videos["a"]
    scale = annotations.frame_scale(video, 100, 10.0)
    assert scale == pytest.approx(1 / 3)
    np.testing.assert_array_equal(
        np.flatnonzero(annotations.frame_labels(video, 100, scale=scale)), [10, 99]
    )


def test_a_damaged_file_is_measured_as_far_as_it_goes(tmp_path, capsys):
    video = _listed(tmp_path, 10, abnormal_frames=[[30, 90]], num_frames=100).videos["a"]
    assert annotations.frame_scale(video, 40, 10.0, declared_frames=100) == 1.0
    assert annotations.contradictions(video, 40, 10.0) == [
        "videos.json says 100 frames, the file has 40",
        "abnormal_frames end at 90, the file has 40 frames",
    ]


def test_an_abnormal_video_without_an_event_is_not_a_normal_one(tmp_path):
    """Neither with an empty list of events nor where the only event is past the scored frames."""
    store = _late(tmp_path / "s")
    measures = _measure(store, _listed(tmp_path, abnormal_frames=[]))
    assert measures["auc"] is None and measures["frames"] == 0
    assert measures["reasons"]["auc"] == (
        "1 abnormal videos without abnormal_frames in videos.json, 'a' first"
    )
    scores_T = np.linspace(0, 1, 9, dtype=np.float32)[:, None]
    with StoreWriter.for_features(tmp_path / "f", dim=1) as writer:
        for video_id, label, events in (("a", 1, [[144, 160]]), ("c", 1, [[0, 16]]), ("n", 0, [])):
            writer.add_video(
                video_id, scores_T, label=label, split="test", num_frames=160,
                abnormal_frames=events, class_name="Arson" if label else None,
            )  # fmt: skip
    measures = _measure(Store(tmp_path / "f"), fidelity="reference")
    # The event of c has the lowest score of 9 in each of two abnormal videos.
    assert measures["auc_abnormal"] == pytest.approx((1 / 2) / 17)
    assert measures["per_class"]["Arson"] == pytest.approx((2 / 2) / 26)


def _files(tmp_path, scores, truth, **arrays):
    np.savez(tmp_path / "s.npz", **scores, **{k.replace("_", "/"): v for k, v in arrays.items()})
    return evaluation.measure_files(str(tmp_path / "s.npz"), truth.path)


def test_scores_of_unknown_length_are_reported(tmp_path, capsys):
    truth = _listed(tmp_path, abnormal_frames=[[12, 24]])
    scores = {"a": np.repeat(SCORES_A, 4), "b": np.repeat(SCORES_B, 4)}
    exact = _files(tmp_path, scores, truth)
    assert "2 videos without num_frames, so that" in (errors := capsys.readouterr().err)
    assert "'a' first: 40 scores, one for each frame" in errors and errors.count("\n") == 1
    with pytest.raises(UserError, match="its 10 frames .* an event that ends at 24"):
        _files(tmp_path, scores | {"a": np.array(SCORES_A)}, truth)
    known = _listed(tmp_path, abnormal_frames=[[12, 24]], num_frames=40)
    assert _files(tmp_path, scores, known) == exact
    with pytest.raises(UserError, match=r"expected 40 frames as in .*, found \[400\]"):
        _files(tmp_path, scores | {"a": np.repeat(SCORES_A, 40)}, known)


def test_scores_are_as_many_as_their_times_and_rate_say(tmp_path, capsys):
    times = np.stack([np.arange(10), np.arange(1, 11)], axis=1) * 0.4
    scores = {"a": np.repeat(SCORES_A, 4), "b": np.repeat(SCORES_B, 4)}
    said = {"times_a": times, "times_b": times, "fps_a": np.array(10.0), "fps_b": np.array(10.0)}
    exact = _files(tmp_path, scores, _listed(tmp_path, abnormal_frames=[[12, 24]]), **said)
    listed = _listed(tmp_path, 25, abnormal_frames=[[30, 60]])
    assert not capsys.readouterr().err
    assert _files(tmp_path, scores, listed, **said) == exact
    assert "2 videos annotated at another frame rate" in capsys.readouterr().err
    longer = scores | {"a": np.repeat(SCORES_A, 40)}
    with pytest.raises(UserError, match=r"'a': expected a score for each frame, 40 in 4 s .* 400"):
        _files(tmp_path, longer, _listed(tmp_path, abnormal_frames=[[12, 24]]), **said)
    truth = _listed(tmp_path, 10, abnormal_frames=[[12, 24]])
    with pytest.raises(UserError, match=r"'a': expected a score for each frame, 40 in 4 s .* 400"):
        _files(tmp_path, longer, truth, times_a=times)
    with pytest.raises(UserError, match="fps/a: expected one positive number, found 0.0"):
        _files(tmp_path, scores, truth, fps_a=np.array(0.0))
    for wrong in (times.astype(str), times[0], times[:0], times[:, :1], times * np.nan):
        with pytest.raises(UserError, match="times/a: expected a start and an end in seconds"):
            _files(tmp_path, scores, truth, times_a=wrong)
