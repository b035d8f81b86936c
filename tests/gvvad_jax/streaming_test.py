"""Runs of --causal_window: scores that see the past only, whole and as snippets arrive."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gvvad_jax as gv
from gvvad_jax import detectors, scoring, splits, step, training, windows
from gvvad_jax.command import UserError
from gvvad_jax.config import DETECTORS, TrainConfig
from gvvad_jax.detectors import causal
from gvvad_jax.standardisation import Standardisation, Standards
from gvvad_jax.streaming import ScoreStream
from tests.support.stores import CROPS, DIM, TEXT_DIM, make_manifest

SMALL = {"head_widths": (16, 8), "mtn_channels": 4, "body_width": 8, "memory_rows": 20}
LENGTH = 41


def _model(name, window=12, **changes):
    """A detector whose weights and statistics are random, and not those that nothing shows with."""
    config = TrainConfig(detector=name, causal_window=window, **SMALL | changes)
    variables = step.scoring_variables(step.init_state(config, DIM, TEXT_DIM))
    rng = np.random.default_rng(1)
    # Of random signs, so that scores lie between 0 and 1; variances stay positive.
    signed = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape), variables["params"])
    shifted = jax.tree.map(lambda x: x + rng.uniform(size=x.shape), variables["batch_stats"])
    mean_D, std_D = np.full(DIM, 0.5, np.float32), np.full(DIM, 2, np.float32)
    return scoring.Model(
        config=config,
        manifest=make_manifest(),
        standard=Standardisation(mean_D, std_D),
        variables=step.cast({"params": signed, "batch_stats": shifted}, np.float32),
        score_step=step.make_score_step(config),
    )


def _video(length=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    visual = rng.normal(size=(length, CROPS, DIM)).astype(np.float32)
    return visual, rng.normal(size=(length, TEXT_DIM)).astype(np.float32)


def _streamed(model, visual, text, window=None):
    stream = ScoreStream(model, window)
    return np.array([stream.push(v, t) for v, t in zip(visual, text, strict=True)])


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.parametrize("window", [12, 5])
def test_a_stream_scores_as_the_whole_video(name, window):
    """From the first snippet on; windows below 11 leave a MTN's farthest taps out."""
    model, (visual, text) = _model(name, window), _video()
    whole = model.score({"v": (visual, text)})["v"]
    assert np.std(whole) > 1e-3
    before = model.score_step._cache_size()
    np.testing.assert_allclose(_streamed(model, visual, text), whole, atol=1e-5)
    assert model.score_step._cache_size() == before + 1
    # A shorter window would be another detector, unless each snippet is scored by itself.
    if name != "mil_rank":
        assert np.abs(_streamed(model, visual, text, window - 1) - whole).max() > 1e-5


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score_depends_on_the_last_snippets_alone(name):
    model, (visual, text) = _model(name), _video()
    whole = model.score({"v": (visual, text)})["v"]
    other_visual, other_text = visual.copy(), text.copy()
    other_visual[20] += 3.0
    other_text[20] += 3.0
    changed = np.abs(model.score({"v": (other_visual, other_text)})["v"] - whole)
    assert changed[:20].max() < 1e-6 and changed[32:].max() < 1e-6
    assert changed[20] > 1e-4
    if name != "mil_rank":
        assert changed[31] > 1e-7  # The window's oldest snippet counts.


@pytest.mark.parametrize("name", ["lap", "ur_dmu"])
def test_padding_and_batches_change_no_score_of_a_causal_run(name):
    model = _model(name)
    videos = {str(n): _video(length, seed=n) for n, length in enumerate((3, 17, 41, 60))}
    together = model.score(videos)
    for video_id, video in videos.items():
        alone = model.score({video_id: video})[video_id]
        np.testing.assert_allclose(together[video_id], alone, atol=1e-5)


def test_blocks_see_what_all_pairs_would():
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(2, 23, 3)), jnp.float32) for _ in range(3))
    mask = jnp.asarray(rng.uniform(size=(2, 23)) < 0.8, jnp.float32)

    def block(q, values, seen, ages):
        k, v = values
        return (q @ k.swapaxes(-1, -2) * seen / (2.0 + jnp.maximum(ages, 0))) @ v

    found = causal.attend(q, (k, v), mask, 4, block)
    ages = np.arange(23)[:, None] - np.arange(23)
    seen = ((ages >= 0) & (ages < 4)) * np.asarray(mask)[:, None]
    weights = np.einsum("mqc,mkc->mqk", q, k) * seen / np.where(ages >= 0, 2.0 + ages, 1.0)
    np.testing.assert_allclose(found, weights @ np.asarray(v), atol=1e-5)


@pytest.mark.parametrize("name", ["tevad", "ur_dmu"])
def test_training_windows_do_not_see_each_other(name):
    """A bag of three windows has the outputs of three bags of one window."""
    config = TrainConfig(detector=name, causal_window=6, dropout=0.0, **SMALL)
    detector = detectors.by_name(name).Detector(config)
    visual, text = (jnp.asarray(x[:18]) for x in _video())
    visual = jnp.stack([visual.swapaxes(0, 1)] * 2)
    text = jnp.stack([text] * 2)
    variables = detector.init(jax.random.key(0), visual, text)

    @jax.jit
    def outputs(visual, text):
        return detector.apply(variables, visual, text, train=True, mutable=["batch_stats"])[0]

    # In another order they have the same BatchNorm statistics, and so the same outputs.
    whole = outputs(visual, text).features_VxNxTxD
    turned = outputs(jnp.roll(visual, 6, axis=2), jnp.roll(text, 6, axis=1)).features_VxNxTxD
    np.testing.assert_allclose(jnp.roll(turned, -6, axis=2), whole, atol=1e-5)
    with pytest.raises(ValueError, match="expected a multiple of 6 snippets, found 17"):
        outputs(visual[:, :, :17], text[:, :17])


def test_places_of_windows_by_hand():
    draws = np.array([0.0, 0.99])
    # Starts 0 ... 6, the first half 0-3 and the second 3-6.
    np.testing.assert_array_equal(windows.places(9, 3, draws), [[0, 1, 2], [6, 7, 8]])
    # A short video keeps its last snippet.
    np.testing.assert_array_equal(windows.places(2, 4, draws), [[0, 1, 1, 1]] * 2)
    np.testing.assert_array_equal(scoring.held(np.arange(2), 4), [0, 1, 1, 1])


def test_windows_are_a_function_of_seed_and_step(real_store):
    config = TrainConfig(store=str(real_store), causal_window=4, segments=9)
    members = splits.open_splits(config)[0].train
    mean_D, std_D = np.full(DIM, 0.5, np.float32), np.full(DIM, 2, np.float32)
    taken = windows.Windows(members, Standards(Standardisation(mean_D, std_D)), config)
    assert taken.shapes == {"visual": (CROPS, 8, DIM), "text": (8, TEXT_DIM)}
    videos = np.array([3, 0, 3, 5])
    read = taken.at(11, videos)
    rows, text = read("visual", 0, 4), read("text", 0, 4)
    # Each part alone, as each device asks for it; the same at another time, others at another step.
    np.testing.assert_array_equal(read("visual", 2, 4), rows[2:])
    np.testing.assert_array_equal(taken.at(11, videos)("visual", 0, 4), rows)
    assert (taken.at(12, videos)("visual", 0, 4) != rows).any()
    # The windows of a video are consecutive rows of it, the same of its features and its text.
    for place, video in enumerate(videos):
        store, video_id = members[video].store, members[video].video.id
        stored = ((np.asarray(store.visual(video_id), np.float32) - 0.5) / 2).swapaxes(0, 1)
        stored_text = np.asarray(store.text(video_id), np.float32)
        for window in (slice(0, 4), slice(4, 8)):
            length = stored.shape[1]
            chosen = [
                np.minimum(start + np.arange(4), length - 1) for start in range(max(1, length - 3))
            ]
            found = [c for c in chosen if np.allclose(stored[:, c], rows[place][:, window])]
            assert len(found) == 1
            np.testing.assert_array_equal(stored_text[found[0]], text[place][window])


def test_a_causal_run_trains_and_scores_as_it_streams(settings, tmp_path):
    changes = {"detector": "lap", "causal_window": 4, "segments": 9, "standardise": "yes"}
    config = dataclasses.replace(settings, **changes, workdir=str(tmp_path), steps=2)
    result = training.fit(config)
    assert result.last is not None and result.last["auc"] is not None
    visual, text = _video(15)
    model = gv.load(tmp_path)
    whole = model.score({"v": (visual, text)})["v"]
    np.testing.assert_allclose(_streamed(model, visual, text), whole, atol=1e-5)


def test_what_a_stream_refuses():
    model, (visual, text) = _model("lap", window=0), _video()
    with pytest.raises(UserError, match="window: expected at least 1 snippet, found 0"):
        ScoreStream(model)
    stream = ScoreStream(model, window=4)
    with pytest.raises(UserError, match="snippet 0: expected text"):
        stream.push(visual[0])
    with pytest.raises(UserError, match=r"snippet 0: expected \[T, 2, 12\]"):
        stream.push(visual[0, :1], text[0])
    with pytest.raises(UserError, match="snippet 0: expected finite features"):
        stream.push(visual[0] * np.nan, text[0])
    with pytest.raises(UserError, match="--causal_window: expected 0 with --fidelity=reference"):
        TrainConfig(fidelity="reference", causal_window=8)


def test_an_ordinary_run_streams_its_last_snippets_as_a_video():
    model, (visual, text) = _model("rtfm", window=0), _video(9)
    stream = ScoreStream(model, window=4)
    found = [stream.push(v, t) for v, t in zip(visual, text, strict=True)]
    for n in (0, 2, 3, 8):
        part = slice(max(0, n - 3), n + 1)
        expected = model.score({"v": (visual[part], text[part])})["v"][-1]
        np.testing.assert_allclose(found[n], expected, atol=1e-6)
    stream.reset()
    np.testing.assert_allclose(stream.push(visual[0], text[0]), found[0], atol=1e-6)
