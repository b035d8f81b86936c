"""Scoring and evaluating trained runs, through files as users do."""

import dataclasses
import json
import pathlib
import subprocess
import types

import numpy as np
import pytest

from gvvad_jax import evaluation, model_measures, padding, score, scoring, step
from gvvad_jax.command import UserError
from gvvad_jax.splits import members_of
from gvvad_jax.store import alignment
from gvvad_jax.store.reader import Store
from tests.support.started import python
from tests.support.stores import DIM, TEXT_DIM, make_manifest, write_store

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def run(trained):
    config, result = trained("lap")
    return config.workdir, result


def _command(name, *arguments):
    done = subprocess.run(
        [*python(), "-m", f"gvvad_jax.{name}", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_scores_in_padded_batches_equal_one_by_one(run, real_store):
    model, opened = scoring.load(run[0]), Store(real_store)
    features = {i: (opened.visual(i), opened.text(i)) for i in opened.rows}
    together = model.score(features)
    assert list(together) == list(features)
    for video_id, (visual_TxNxD, text_TxE) in features.items():
        visual = visual_TxNxD.swapaxes(0, 1)[None]
        alone = model.score_step(model.variables, visual, text_TxE[None], None)
        np.testing.assert_allclose(together[video_id], alone[0], atol=1e-6)


def test_a_set_of_videos_is_compiled_once(run, real_store):
    step._compiled_score.cache_clear()  # Models of one detector share it.
    model, opened = scoring.load(str(run[0])), Store(real_store)
    features = {i: (opened.visual(i), opened.text(i)) for i in opened.rows}
    lengths = {i: row.num_snippets for i, row in opened.rows.items()}
    crops = opened.manifest.crops["count"]
    for _ in range(2):
        model.score(features)
        # No set is so large here that one length takes two batches.
        assert model.score_step._cache_size() == len(padding.buckets(lengths, crops))


def test_bucket_lengths():
    assert [padding.bucket_length(n) for n in (1, 8, 9, 12, 13, 17, 25, 33, 100, 1000)] == [
        8, 8, 10, 12, 14, 18, 26, 36, 104, 1024,
    ]  # fmt: skip


def test_few_buckets_hold_every_video_with_the_least_padding():
    rng = np.random.default_rng(0)
    lengths = {str(i): int(n) for i, n in enumerate(rng.integers(1, 200, 60))}
    fine = padding.buckets(lengths, 1, most=100)
    assert all(padding.bucket_length(lengths[i]) == n for n, ids in fine.items() for i in ids)
    before = sum(n * len(ids) for n, ids in fine.items())
    for most in (6, 3, 1):
        grouped = padding.buckets(lengths, 1, most)
        assert len(grouped) <= most
        assert sorted(i for ids in grouped.values() for i in ids) == sorted(lengths)
        assert all(lengths[i] <= n for n, ids in grouped.items() for i in ids)
        padded = sum(n * len(ids) for n, ids in grouped.items())
        assert padded >= before
        before = padded
    # By hand: 8, 8, 16, 20, 64 into two: 16 and 20 with 8s up to 20, or 64.
    few = {"a": 8, "b": 8, "c": 16, "d": 20, "e": 64}
    assert padding.buckets(few, 1, 2) == {20: ["a", "b", "c", "d"], 64: ["e"]}
    assert padding.buckets({}, 1) == {}


def test_a_short_video_takes_a_longer_ones_empty_place(monkeypatch):
    monkeypatch.setattr(padding, "ROWS_AT_ONCE", 64)
    assert [padding.batch_size(videos, 32, 1) for videos in (1, 2, 3, 5)] == [1, 2, 2, 2]
    assert padding.batch_size(5, 32, 10) == 1
    # Three of 32 are two batches of two, with a place for the one of 30: 128 snippets, not 158.
    lengths = {"a": 32, "b": 32, "c": 32, "d": 30}
    assert padding.buckets(lengths, 1, 2) == {32: ["d", "a", "b", "c"]}


def test_score_and_evaluate_agree_with_training(run, real_store, tmp_path):
    workdir, result = run
    evaluated = _command("evaluate", f"--workdir={workdir}", f"--store={real_store}")
    assert evaluated == result.last
    out = tmp_path / "scores.npz"
    _command("score", f"--workdir={workdir}", f"--store={real_store}", f"--out={out}")
    with np.load(out, allow_pickle=False) as scores:
        opened = Store(real_store)
        for video_id, row in opened.rows.items():
            assert scores[video_id].shape == (row.num_frames,)
            assert scores[f"snippets/{video_id}"].shape == (row.num_snippets,)
            assert scores[f"times/{video_id}"].shape == (row.num_snippets, 2)
    truth = real_store / "videos.json"
    of_files = evaluation.measure_files(str(out), str(truth))
    assert of_files["per_class"] == pytest.approx(result.last["per_class"])
    assert set(of_files) == set(result.last)
    for name in ("auc", "ap", "pr_auc", "auc_abnormal", "far", "videos", "frames"):
        assert of_files[name] == pytest.approx(result.last[name]), name


def test_one_videos_features_are_scored(run, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(5, 2, DIM)).astype(np.float32))
    np.save(tmp_path / "t.npy", rng.normal(size=(5, TEXT_DIM)).astype(np.float32))
    _command(
        "score",
        f"--workdir={run[0]}",
        f"--visual={tmp_path / 'x.npy'}",
        f"--text={tmp_path / 't.npy'}",
        "--fps=10",
        f"--out={tmp_path / 's.npz'}",
    )
    with np.load(tmp_path / "s.npz", allow_pickle=False) as scores:
        assert scores["x"].shape == (20,)
        np.testing.assert_allclose(scores["times/x"][-1], [1.6, 2.0])
        np.testing.assert_allclose(scores["x"][:4], scores["snippets/x"][0])


def _score(monkeypatch, **values):
    """What scoring one video's features answers, in this process."""
    given = {"text": "", "fps": 25.0, "out": "s.npz", "store": ""} | values
    monkeypatch.setattr(score.flags, "FLAGS", types.SimpleNamespace(**given))
    return score._score_files(scoring.load(given["workdir"]))


def test_times_come_of_the_runs_fps_policy(run, tmp_path, monkeypatch):
    model = scoring.load(run[0])
    manifest = dataclasses.replace(
        model.manifest, fps_policy=8.0, snippet={"frames": 16, "stride": 16, "pooling": "mean"}
    )
    resampled = dataclasses.replace(model, manifest=manifest)
    monkeypatch.setattr(scoring, "load", lambda *_: resampled)
    np.save(tmp_path / "x.npy", np.zeros((10, 2, DIM), np.float32))
    np.save(tmp_path / "t.npy", np.zeros((10, TEXT_DIM), np.float32))
    files = {"visual": str(tmp_path / "x.npy"), "text": str(tmp_path / "t.npy")}
    arrays = _score(monkeypatch, workdir=run[0], **files)
    assert arrays["times/x"][-1].tolist() == [18.0, 20.0]
    assert len(arrays["x"]) == 500 and arrays["fps/x"] == 25.0
    np.testing.assert_array_equal(arrays["x"][::50], arrays["snippets/x"])
    resampled = dataclasses.replace(
        model, manifest=dataclasses.replace(manifest, fps_policy="unknown")
    )
    with pytest.raises(UserError, match="x.npy: expected features whose snippets have a known"):
        _score(monkeypatch, workdir=run[0], **files)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((10, 50, DIM), r"expected \[T, 2, 12\], 2 crops .* found \[10, 50, 12\]; .* transpose"),
        ((50, DIM), r"expected \[T, 2, 12\]"),
        ((0, 2, DIM), r"expected an array \[T, 12\]"),
        ((50, 2, DIM + 1), r"expected an array \[T, 12\]"),
    ],
)
def test_features_of_other_shapes_are_refused(run, tmp_path, monkeypatch, shape, message):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.float32))
    with pytest.raises(UserError, match=message):
        _score(monkeypatch, workdir=run[0], visual=str(tmp_path / "x.npy"))


def test_features_that_are_no_numbers_are_refused(run, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.full((5, 2, DIM), np.nan, np.float32))
    np.save(tmp_path / "v.npy", np.zeros((5, 2, DIM), np.float32))
    np.save(tmp_path / "t.npy", np.full((5, TEXT_DIM), np.inf, np.float32))
    for visual, text in (("x", "t"), ("v", "t")):
        with pytest.raises(UserError, match=rf"{'x' if visual == 'x' else 't'}.npy: .* finite"):
            _score(
                monkeypatch, workdir=run[0], visual=str(tmp_path / f"{visual}.npy"),
                text=str(tmp_path / f"{text}.npy"),
            )  # fmt: skip


def test_a_score_that_is_no_number_names_store_and_video(run, tmp_path):
    path = write_store(tmp_path / "s", {"test": (1, 1)})
    array = np.load(path / "shard-00000.visual.npy", mmap_mode="r+")
    array[0] = np.nan
    with pytest.raises(UserError, match="'test-0-0': expected rows of sha256"):
        scoring.load(run[0]).score(Store(path))
    opened, model = Store(path, verify_rows=False), scoring.load(run[0])
    with pytest.raises(UserError, match=r"s: video 'test-0-0': expected finite scores"):
        model_measures.measure_members(model, members_of(opened, None))
    with pytest.raises(UserError, match=r"s: video 'test-0-0': expected finite scores"):
        score._score_store(model, opened)


def test_an_id_that_looks_like_another_array_is_refused(run, tmp_path):
    path = write_store(tmp_path / "s", {"test": (1, 1)}, prefix="snippets/")
    with pytest.raises(UserError, match="'snippets/test-0-0': expected an id"):
        score._score_store(scoring.load(run[0]), Store(path))


@pytest.mark.parametrize(
    ("snippet", "published"),
    [
        ({"frames": 16, "stride": 16}, True),
        ({"frames": "unknown", "stride": "unknown"}, True),
        ({"frames": 4, "stride": 4}, False),
        ({"frames": 16, "stride": 16, "alignment": "even"}, False),
    ],
)
def test_reference_repeats_only_snippets_of_16_frames(run, tmp_path, snippet, published):
    manifest = make_manifest(snippet=snippet | {"pooling": "mean"})
    model, members = scoring.load(run[0]), _members(tmp_path / "s", manifest, 16)
    by_time = model_measures.measure_members(model, members)
    config = dataclasses.replace(model.config, fidelity="reference")
    model = dataclasses.replace(model, config=config)
    repeated = model_measures.measure_members(model, members)
    rows = sum(m.row.num_snippets for m in members)
    assert repeated["frames"] == 16 * rows if published else repeated == by_time
    # Segments of a longer video aren't repeated 16 times, whatever the manifest says.
    longer = _members(tmp_path / "longer", manifest, 16 * 40)
    assert model_measures.measure_members(model, longer)["frames"] == 40 * 16 * rows


def _members(path, manifest, frames_a_row):
    """Members of a store whose videos have a whole number of frames a row."""
    opened = Store(write_store(path, {"test": (2, 2)}, manifest=manifest))
    for video_id, row in opened.rows.items():
        num_frames = frames_a_row * row.num_snippets
        opened.rows[video_id] = dataclasses.replace(row, num_frames=num_frames)
    return [
        dataclasses.replace(m, video=dataclasses.replace(m.video, num_frames=None))
        for m in members_of(opened, None)
    ]


def test_what_cannot_be_measured_is_reported_before_scoring(real_store):
    member = members_of(Store(real_store), None)[3]
    video = dataclasses.replace(member.video, num_frames=member.row.num_frames * 2)
    with pytest.raises(UserError, match="g.json: video 'test-1-0': "):
        model_measures.measure_members(
            None, [dataclasses.replace(member, video=video)], path="g.json"
        )


def test_videos_in_quarantine_are_counted(run, real_store):
    members = members_of(Store(real_store), None)[:6]
    model = scoring.load(run[0])
    assert "missing" not in model_measures.measure_members(model, members)
    assert model_measures.measure_members(model, members, missing=2)["missing"] == 2


def test_another_encoders_store_is_refused(run, tmp_path):
    other = make_manifest(encoder={"id": "other"})
    write_store(tmp_path / "s", {"test": (1, 1)}, manifest=other)
    model = scoring.load(run[0])
    with pytest.raises(UserError, match=r"expected a store like .* encoder"):
        model.require(Store(tmp_path / "s").manifest, "s")


def test_a_checkpoint_that_is_not_there_is_reported(run):
    with pytest.raises(UserError, match="best_on_test"):
        scoring.load(run[0], "best_on_test")


def _truth(tmp_path, **changes):
    entry = {"file": "a.mp4", "label": 1, "split": "test", "abnormal_frames": [[1, 3]]} | changes
    normal = {"file": "b.mp4", "label": 0, "split": "test"}
    path = tmp_path / "videos.json"
    path.write_text(json.dumps({"fps": 10, "videos": {"a": entry, "b": normal}}))
    return str(path)


def test_files_are_measured_by_hand(tmp_path):
    scores = {"a": np.array([0.1, 0.9, 0.8, 0.2]), "b": np.array([0.3, 0.85])}
    np.savez(tmp_path / "s.npz", **scores)
    measures = evaluation.measure_files(str(tmp_path / "s.npz"), _truth(tmp_path))
    # Positives 0.9, 0.8 against 0.1, 0.2, 0.3, 0.85: 4 + 3 of 8.
    assert measures["auc"] == pytest.approx(7 / 8)
    assert measures["auc_abnormal"] == 1.0 and measures["frames"] == 6
    labels = {"a": np.array([0, 1, 1, 0]), "b": np.zeros(2, int)}
    np.savez(tmp_path / "g.npz", **labels)
    assert (
        evaluation.measure_files(str(tmp_path / "s.npz"), str(tmp_path / "g.npz"))["auc"] == 7 / 8
    )


def test_lengths_that_differ_and_missing_videos_are_named(tmp_path):
    np.savez(tmp_path / "s.npz", a=np.zeros(4), b=np.zeros(2))
    with pytest.raises(UserError, match=r"s.npz: video 'a': expected 5 frames .* found \[4\]"):
        evaluation.measure_files(str(tmp_path / "s.npz"), _truth(tmp_path, num_frames=5))
    np.savez(tmp_path / "s.npz", a=np.zeros(4))
    with pytest.raises(UserError, match="video 'b'"):
        evaluation.measure_files(str(tmp_path / "s.npz"), _truth(tmp_path))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.1, np.nan, 0.8, 0.2], "expected finite scores"),
        ([0.1, np.inf, 0.8, 0.2], "expected finite scores"),
        (["a", "b", "c", "d"], "expected finite scores"),
        ([[0.1], [0.9], [0.8], [0.2]], "expected 4 frames"),
    ],
)
def test_scores_that_cannot_be_ranked_are_named(tmp_path, scores, expected):
    np.savez(tmp_path / "s.npz", a=np.array(scores), b=np.zeros(2))
    with pytest.raises(UserError, match=f"s.npz: video 'a': {expected}"):
        evaluation.measure_files(str(tmp_path / "s.npz"), _truth(tmp_path, num_frames=4))


def test_ground_truth_is_0_and_1_of_some_test_video(tmp_path):
    scores = str(tmp_path / "s.npz")
    np.savez(scores, a=np.array([0.1, 0.9]), b=np.zeros(2))
    for labels in ([0, 255], [0, 0.5], [[0], [1]], []):
        np.savez(tmp_path / "g.npz", a=np.array(labels))
        with pytest.raises(UserError, match="g.npz: video 'a': expected labels 0 and 1"):
            evaluation.measure_files(scores, str(tmp_path / "g.npz"))
    np.savez(tmp_path / "g.npz", a=np.array([False, True]), b=np.array([False, False]))
    assert evaluation.measure_files(scores, str(tmp_path / "g.npz"))["auc"] == 1.0
    np.savez(tmp_path / "g.npz")
    with pytest.raises(UserError, match="g.npz: expected test videos, found none"):
        evaluation.measure_files(scores, str(tmp_path / "g.npz"))
    truth = _truth(tmp_path, split="train", num_frames=2, abnormal_frames=None)
    assert evaluation.measure_files(scores, truth)["videos"] == 1
    truth = _truth(tmp_path, num_frames=2, abnormal_frames=None)
    with pytest.raises(UserError, match="videos.json: video 'a': expected abnormal_frames"):
        evaluation.measure_files(scores, truth)


def test_reference_alignment_pads_to_whole_snippets():
    labels = np.array([0] * 10 + [1] * 10)
    scores, aligned = alignment.reference_align(
        alignment.reference_frame_scores(np.array([0.1, 0.9])), labels
    )
    assert len(scores) == len(aligned) == 32 and aligned[20:].all()
