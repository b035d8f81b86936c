import threading

import numpy as np
import pytest

from generation.encode.recipe import EncodeOptions, Recipe
from generation.encoders.motion import MotionEncoder
from generation.encoders.protocols import SnippetStream
from gvvad_jax.store import alignment
from tests.support.streaming import pictures, run
from tests.support.tiny_videos import moving
from tools.watching import renewing
from tools.watching.ticks import Jump, Ticks, whole_snippets

LENGTH = 150


class Brightness:
    """An encoder of single frames."""

    def begin(self, spans_Tx2, num_frames, rate):
        return SnippetStream(
            spans_Tx2,
            lambda start, end: range(start, end),
            lambda picture: picture.rgb().mean(),
            lambda snippets: [np.float32([[np.mean(snippet)]]) for snippet in snippets],
        )


@pytest.mark.parametrize(
    ("encoder", "frames", "stride", "rate"),
    [
        (MotionEncoder(), 16, 4, 25),
        (MotionEncoder(), 16, 16, 10),
        (MotionEncoder(), 8, 12, 30),
        (MotionEncoder(), 16, 4, 60),
        (Brightness(), 16, 16, 25),
        (Brightness(), 5, 7, 25),
    ],
)
def test_rows_are_those_of_the_whole_video(encoder, frames, stride, rate, monkeypatch):
    monkeypatch.setattr(renewing, "_STRETCH", 3)
    video = moving(LENGTH)
    spans_Tx2 = alignment.snippet_spans(LENGTH, frames, stride)
    expected = run(encoder, video, spans_Tx2, rate)
    recipe = Recipe(encoder=encoder, snippet_frames=frames, snippet_stride=stride)
    side, snippets = renewing.Frames(recipe, rate), renewing.Snippets(recipe, threading.Lock())
    rows, shown = [], pictures(video)
    most = 0
    for tick, picture in enumerate(shown):
        rows += snippets.take(side.take(tick, picture))
        most = max(most, len(side._relays[0]._stretches))
    rows += snippets.take(side.finish(LENGTH, shown[-1]), whole_snippets(LENGTH, frames, stride))
    np.testing.assert_array_equal([row.visual_NxD for row in rows], expected)
    assert most <= 3  # However long the video is.


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 8, 15])
def test_short_snippets_of_short_videos_are_those_of_the_whole_video(length):
    # At 60 frames per second the motion encoder looks at every seventh one.
    encoder, video = MotionEncoder(), moving(length)
    spans_Tx2 = alignment.snippet_spans(length, 2, 2)
    recipe = Recipe(encoder=encoder, snippet_frames=2, snippet_stride=2)
    side, snippets = renewing.Frames(recipe, 60), renewing.Snippets(recipe, threading.Lock())
    rows, shown = [], pictures(video)
    for tick, picture in enumerate(shown):
        rows += snippets.take(side.take(tick, picture))
    rows += snippets.take(side.finish(length, shown[-1]), whole_snippets(length, 2, 2))
    expected = run(encoder, video, spans_Tx2, 60)
    # Rows may be known of a snippet that the end doesn't leave room for.
    found = [row.visual_NxD for row in rows][: len(expected)]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("length", [116, 118])
def test_captions_of_rules_come_after_seconds_and_at_the_end(length):
    recipe = EncodeOptions(captioner="rules").recipe("unused")
    side, snippets = renewing.Frames(recipe, 10), renewing.Snippets(recipe, threading.Lock())
    found, waited, shown = [], 0, pictures(moving(length))
    for tick, picture in enumerate(shown):
        found += snippets.take(side.take(tick, picture))
        waited = max(waited, tick + 1 - 16 - 4 * len(found))
    whole = whole_snippets(length, 16, 4)
    found += snippets.take(side.finish(length, shown[-1]), whole)
    assert len(found) == len(alignment.snippet_spans(length, 16, 4))
    assert waited <= 60  # Six seconds of frames, at most.
    assert all("region" in snippet.caption for snippet in found)
    assert found[0].text_E.shape == (recipe.text_encoder.dim,)


def _shown(ticks, seconds):
    """Returns the frame that each tick shows; frames are their own numbers."""
    settled = [pair for k, s in enumerate(seconds) for pair in ticks.add(s, k)]
    settled += ticks.finish()
    assert [tick for tick, _ in settled] == list(range(len(settled)))
    return [frame for _, frame in settled]


def test_each_tick_shows_the_newest_frame():
    even = np.arange(6) / 25
    assert _shown(Ticks(25, 25), even) == [0, 1, 2, 3, 4, 5]
    assert _shown(Ticks(25, 25), even + np.array([0, 15, -15, 15, -15, 0]) / 1000) == [
        0,
        1,
        2,
        3,
        4,
        5,
    ]
    # A frame is missing, and the clock of a camera begins anywhere.
    assert _shown(Ticks(25, 25), 9000 + even[[0, 1, 3, 4]]) == [0, 1, 1, 2, 3]
    assert _shown(Ticks(10, 25), np.arange(10) / 25) == [1, 3, 6, 8]
    assert _shown(Ticks(25, 25), [None] * 4) == [0, 1, 2, 3]


def test_clocks_that_jump_begin_anew_and_other_rates_are_noticed():
    for seconds in (11.0, -2.0):
        ticks = Ticks(25, 25)
        list(ticks.add(100.0, 0))
        with pytest.raises(Jump):
            list(ticks.add(100.0 + seconds, 1))
    ticks = Ticks(25, 25)
    for k in range(12 * 31):
        list(ticks.add(k / 12, k))
    assert ticks.other_rate() == pytest.approx(12, rel=0.01)
    assert Ticks(25, 25).other_rate() is None
