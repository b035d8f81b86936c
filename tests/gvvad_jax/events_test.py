"""Events by hand, streams against whole arrays, and thresholds for a rate of alarms."""

import csv
import io
import json
import tracemalloc

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from gvvad_jax import events
from gvvad_jax.events import Event, EventStream, Rule, find_events, threshold_for

SECONDS = {"min_seconds": 0.0, "cool_down": 0.0}


def _times(count, seconds=1.0):
    starts_T = np.arange(count) * seconds
    return np.stack([starts_T, starts_T + seconds], axis=1)


def _spans(scores, rule, **times):
    times = times or {"times_Tx2": _times(len(scores))}
    return [(event.start, event.end) for event in find_events(scores, rule, **times)]


def _streamed(scores, times_Tx2, rule, video=""):
    stream = EventStream(rule, video)
    found = [stream.push(score, *time) for score, time in zip(scores, times_Tx2, strict=True)]
    return [event for event in [*found, stream.finish()] if event]


def test_an_event_begins_above_the_threshold_and_ends_below_the_lower_one():
    rule = Rule(threshold=0.5, hysteresis=0.2, **SECONDS)
    assert rule.leave == 0.4
    # 0.5 isn't above 0.5, 0.4 isn't below 0.4.
    scores = [0.45, 0.5, 0.75, 0.4, 0.45, 0.25, 0.45, 1.0]
    assert find_events(scores, rule, times_Tx2=_times(8), video="a") == [
        Event(video="a", start=2.0, end=5.0, peak=0.75, peak_time=2.5,
              mean=pytest.approx(1.6 / 3), threshold=0.5),
        Event(video="a", start=7.0, end=8.0, peak=1.0, peak_time=7.5, mean=1.0, threshold=0.5),
    ]  # fmt: skip
    assert _spans(scores, Rule(threshold=0.5, hysteresis=0.0, **SECONDS)) == [(2, 3), (7, 8)]
    assert _spans(scores, Rule(threshold=1.0, **SECONDS)) == []
    assert Rule(threshold=-1.0).leave == -1.2


def test_close_events_are_one_and_short_ones_are_dropped_after_that():
    scores = [0, 1, 0, 0.5, 1, 0, 0, 0, 1]
    close = Rule(threshold=0.6, hysteresis=0.0, min_seconds=2.0, cool_down=2.0)
    assert _spans(scores, close) == [(1, 5)]
    # The pause counts into the mean: (1 + 0 + 0.5 + 1) / 4.
    assert find_events(scores, close, times_Tx2=_times(9))[0].mean == 0.625
    apart = Rule(threshold=0.6, hysteresis=0.0, min_seconds=1.0, cool_down=1.9)
    assert _spans(scores, apart) == [(1, 2), (4, 5), (8, 9)]
    # 0.3 - 0.1 is a little less than 0.2 in floating point.
    assert _spans([0, 1, 1, 0], Rule(threshold=0.5, min_seconds=0.2), fps=10) == [(0.1, 0.3)]


def test_missing_footage_ends_an_event():
    times_Tx2 = np.array([[0, 1], [1, 2], [9, 10], [10, 11]])
    rule = Rule(threshold=0.5, hysteresis=0.5, min_seconds=0.0, cool_down=6.9)
    # After it a score between the thresholds doesn't begin another one.
    assert _spans([1, 1, 0.3, 1], rule, times_Tx2=times_Tx2) == [(0, 2), (10, 11)]
    longer = Rule(threshold=0.5, hysteresis=0.5, min_seconds=0.0, cool_down=7.0)
    assert _spans([1, 1, 0.3, 1], longer, times_Tx2=times_Tx2) == [(0, 11)]


def test_snippets_may_overlap():
    times_Tx2 = np.array([[0, 2], [1, 3], [2, 4], [3, 5]])
    rule = Rule(threshold=0.5, hysteresis=0.0, min_seconds=0.0, cool_down=0.0)
    assert _spans([1, 0, 1, 0], rule, times_Tx2=times_Tx2) == [(0, 4)]


def test_an_event_in_json_and_csv():
    (event,) = find_events(
        np.float32([0, 0.75, 0.75]), Rule(threshold=0.5, min_seconds=0.0), fps=1.0, video="a,b"
    )
    assert json.loads(json.dumps(event.to_json())) == {
        "video": "a,b",
        "start": 1.0,
        "end": 3.0,
        "peak": 0.75,
        "peak_time": 1.5,
        "mean": 0.75,
        "threshold": 0.5,
        "class": None,
        "thumbnail": None,
    }
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([events.COLUMNS, event.to_row()])
    assert text.getvalue() == (
        "video,start,end,peak,peak_time,mean,threshold,class,thumbnail\n"
        '"a,b",1.0,3.0,0.75,1.5,0.75,0.5,,\n'
    )


def test_a_stream_says_what_is_open_and_completes_it_after_the_cool_down():
    stream = EventStream(Rule(threshold=0.5, min_seconds=2.0, cool_down=2.0), "door")
    seen = []
    for second, score in enumerate([0, 1, 1, 0, 0, 0, 0]):
        done = stream.push(score, second, second + 1)
        seen.append((stream.open_since, done and (done.video, done.start, done.end)))
    assert seen == [
        (None, None), (1, None), (1, None), (1, None), (1, None), (1, None),
        (None, ("door", 1, 3)),
    ]  # fmt: skip
    stream.push(1, 7, 8)
    assert stream.open_since == 7 and stream.finish() is None and stream.open_since is None


@st.composite
def _footage(draw):
    count = draw(st.integers(0, 40))
    step = st.sampled_from([0.0, 0.5, 1.0, 1.5, 4.0])
    starts = np.cumsum(draw(st.lists(step, min_size=count, max_size=count)))
    length = draw(st.sampled_from([0.5, 1.0, 1.7]))
    # Few values, so that scores equal thresholds; float32, as scores are.
    values = st.sampled_from([0.0, 0.1, 0.3, 0.4, 0.5, 0.55, 0.7, 1.0])
    scores_T = np.float32(draw(st.lists(values, min_size=count, max_size=count)))
    return scores_T, np.stack([starts, starts + length], axis=1).reshape(count, 2)


_RULES = st.builds(
    Rule,
    threshold=st.sampled_from([0.0, 0.3, 0.5, float(np.float32(0.55)), 0.7]),
    hysteresis=st.sampled_from([0.0, 0.2, 0.5]),
    min_seconds=st.sampled_from([0.0, 1.0, 2.5]),
    cool_down=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
)


def _slowly(scores, times, rule):
    """Spans of the events, from the definition and snippet by snippet."""
    inside, raw = False, []
    for i, score in enumerate(map(float, scores)):
        missing = i > 0 and times[i][0] - times[i - 1][1] > rule.cool_down + 1e-9
        was = inside and not missing
        inside = bool(score > rule.threshold or (was and score >= rule.leave))
        if inside and was:
            raw[-1][1] = times[i][1]
        elif inside:
            raw.append([times[i][0], times[i][1]])
    merged = []
    for start, end in raw:
        if merged and start - merged[-1][1] <= rule.cool_down + 1e-9:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    return [(s, e) for s, e in merged if e - s >= rule.min_seconds - 1e-9]


@hypothesis.given(_footage(), _RULES)
@hypothesis.settings(max_examples=400, deadline=None)
def test_a_stream_finds_exactly_the_events_of_the_whole(footage, rule):
    scores_T, times_Tx2 = footage
    found = find_events(scores_T, rule, times_Tx2=times_Tx2, video="a")
    assert _streamed(scores_T, times_Tx2, rule, "a") == found
    assert [(event.start, event.end) for event in found] == _slowly(scores_T, times_Tx2, rule)
    for event in found:
        assert event.peak > rule.threshold and event.start < event.peak_time < event.end
        assert event.mean <= event.peak + 1e-12


def test_means_of_many_scores_are_equal_to_the_last_bit():
    scores_T = np.random.default_rng(0).uniform(0.4, 1.0, 5000).astype(np.float32)
    rule = Rule(threshold=0.98, hysteresis=0.5, min_seconds=0.0, cool_down=0.2)
    found = find_events(scores_T, rule, fps=25.0)
    assert len(found) > 3
    assert _streamed(scores_T, events.frame_times(5000, 25.0), rule) == found


def test_a_stream_takes_constant_memory():
    stream = EventStream(Rule(threshold=0.5, cool_down=3.0))
    rng = np.random.default_rng(0)

    def feed(first, last):
        for second in range(first, last):
            stream.push(rng.random(), second, second + 1)

    feed(0, 1000)
    tracemalloc.start()
    feed(1000, 2000)
    before = tracemalloc.get_traced_memory()[0]
    feed(2000, 20_000)
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert after - before < 1000


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("threshold: .* nan", lambda: Rule(threshold=np.nan)),
        ("hysteresis: .* 1", lambda: Rule(threshold=0.5, hysteresis=1.0)),
        ("cool_down: .* -1", lambda: Rule(threshold=0.5, cool_down=-1)),
        ("times_Tx2, fps: .* neither", lambda: find_events([1], Rule(threshold=0.5))),
        ("fps: .* 0", lambda: find_events([1], Rule(threshold=0.5), fps=0)),
        (
            "scores_T: video 'a': .* NaN",
            lambda: find_events([np.nan], Rule(threshold=0.5), fps=1, video="a"),
        ),
        (
            r"times_Tx2: .*\[2, 2\]",
            lambda: find_events([0, 1], Rule(threshold=0.5), times_Tx2=[[1, 2], [0, 3]]),
        ),
        ("score: .* inf", lambda: EventStream(Rule(threshold=0.5)).push(np.inf, 0, 1)),
        ("start, end: ", lambda: EventStream(Rule(threshold=0.5)).push(1, 1, 1)),
        ("alarms_per_hour: .* 60", lambda: threshold_for(60, {}, {})),
        ("times: video 'a': .* none", lambda: threshold_for(1, {"a": [1.0]}, {})),
    ],
)
def test_wrong_values_are_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_stream_refuses_to_go_back_in_time():
    stream = EventStream(Rule(threshold=0.5))
    stream.push(0, 1, 2)
    with pytest.raises(ValueError, match=r"not before the last snippet's \(1.0, 2.0\)"):
        stream.push(0, 0.5, 2)


def _peaks(hours, *peaks):
    """Footage by the minute: quiet, with single minutes of the given scores, ten minutes apart."""
    scores_T = np.full(round(hours * 60), 0.125)
    scores_T[5 : 5 + 10 * len(peaks) : 10] = peaks
    return {"a": scores_T}, {"a": _times(len(scores_T), 60.0)}


def test_the_lowest_threshold_for_a_rate():
    # Four hours at one an hour: four alarms are allowed, so above the fifth highest.
    footage = _peaks(4, 0.5, 0.9, 0.6, 0.8, 0.7, 0.4)
    assert threshold_for(1.0, *footage) == events.Threshold(
        threshold=0.5, alarms_per_hour=1.0, asked=1.0, alarms=4, hours=4.0, videos=1
    )
    assert threshold_for(0.75, *footage).threshold == 0.6
    assert threshold_for(1.25, *footage).threshold == 0.4
    # Half an alarm more isn't one.
    assert threshold_for(1.125, *footage).threshold == 0.5
    # At 0.125 the quiet minutes aren't below the lower threshold: an alarm would never end.
    assert threshold_for(1.5, *footage).threshold == 0.4


def test_an_alarm_that_never_ends_counts_for_each_minute():
    scores, times = _peaks(4, 0.9, 0.8)
    # Below 0.125 there is a single event, and it takes all four hours.
    scores = {"a": np.where(scores["a"] > 0.125, scores["a"], [0.125, 0.25] * 120)}
    assert threshold_for(1.0, scores, times).threshold == 0.25
    assert events.count_alarms(scores, times, Rule(threshold=0.1)) == (240, 4.0)
    assert len(find_events(scores["a"], Rule(threshold=0.1), times_Tx2=times["a"])) == 1
    half = {"a": times["a"] / 4}
    assert events.count_alarms(scores, half, Rule(threshold=0.1)) == (60, 1.0)
    assert events.count_alarms(scores, half, Rule(threshold=0.5)) == (2, 1.0)


def test_footage_too_short_for_a_rate_says_which_it_supports():
    footage = _peaks(2, 0.9, 0.6)
    found = threshold_for(0.5, *footage)
    assert (found.threshold, found.alarms_per_hour, found.asked) == (0.9, 1.5, 0.5)
    assert (found.alarms, found.hours, found.videos) == (0, 2.0, 1)
    assert found.reason == (
        "2 hours of normal footage support 1.5 alarms an hour, not 0.5, which takes 6 hours"
    )
    # 3 / 1.5 hours are enough.
    assert threshold_for(1.5, *footage).reason is None
    # Four seconds: no exponents.
    scores, times = footage
    seconds = {name: times_Tx2 / 1800 for name, times_Tx2 in times.items()}
    assert threshold_for(0.5, scores, seconds).reason == (
        "0.00111 hours of normal footage support 2700 alarms an hour, not 0.5, which takes 6 hours"
    )
    nothing = threshold_for(1.0, {}, {})
    assert (nothing.threshold, nothing.alarms_per_hour, nothing.hours) == (None, None, 0.0)
    assert nothing.reason == "no normal footage to set a threshold on"


def test_videos_too_short_for_an_event_are_no_footage():
    scores, times = _peaks(4, 0.9, 0.8, 0.7)
    short = {f"short{i}": [1.0] for i in range(100)}
    both = {**short, **scores}, {**dict.fromkeys(short, _times(1, 0.5)), **times}
    assert threshold_for(1.0, *both) == threshold_for(1.0, scores, times)
    assert threshold_for(1.0, short, dict.fromkeys(short, _times(1, 0.5))).threshold is None


@hypothesis.given(
    st.lists(_footage(), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.sampled_from([0.0, 2.5]),
    st.sampled_from([0.0, 3.0]),
    st.floats(1.0, 50.0),
)
@hypothesis.settings(max_examples=200, deadline=None)
def test_the_threshold_is_the_lowest_of_those_tried_one_by_one(
    videos, hysteresis, min_seconds, cool_down, rate
):
    names = "abcd"[: len(videos)]
    scores = {name: scores_T for name, (scores_T, _) in zip(names, videos, strict=True)}
    # Minutes, so that there are hours of footage.
    times = {name: times_Tx2 * 60 for name, (_, times_Tx2) in zip(names, videos, strict=True)}
    rule = {"hysteresis": hysteresis, "min_seconds": min_seconds * 60, "cool_down": cool_down * 60}
    found = threshold_for(rate, scores, times, **rule)
    if found.threshold is None:
        return
    assert found.alarms <= found.alarms_per_hour * found.hours + 1e-6
    if found.reason:
        assert found.alarms == 0 and found.alarms_per_hour == 3 / found.hours > rate
        return

    def alarms(threshold):
        by_video = [
            find_events(scores[n], Rule(threshold=threshold, **rule), times_Tx2=times[n])
            for n in names
        ]
        lengths = [event.end - event.start for found in by_video for event in found]
        return sum(max(1, int(np.ceil((length - 1e-9) / 60))) for length in lengths)

    usable = [n for n in names if events.count_alarms({n: scores[n]}, times, Rule(threshold=0))[1]
              * 3600 >= rule["min_seconds"]]  # fmt: skip
    values = sorted({float(s) for n in usable for s in scores[n]}, reverse=True)
    lowest = values[0]
    for value in values:
        if alarms(value) > rate * found.hours + 1e-9:
            break
        lowest = value
    assert found.threshold == lowest


def test_a_hundred_hours_take_seconds():
    rng = np.random.default_rng(0)
    scores_T = rng.beta(1, 8, 100 * 3600)
    found = threshold_for(1.0, {"a": scores_T}, {"a": _times(len(scores_T))})
    assert 90 <= found.alarms <= 100 and found.reason is None


def test_an_open_event_is_known_once_it_is_long_enough():
    stream = EventStream(Rule(threshold=0.5, min_seconds=1.0, cool_down=1.0), "front")
    seen = []
    for second, score in enumerate([0.9, 0.7, 0.1, 0.1, 0.1, 0.1]):
        complete = stream.push(score, second / 2, second / 2 + 0.5)
        seen.append((stream.open and stream.open.end, stream.open_since, complete))
    assert seen[:2] == [(None, 0.0, None), (1.0, 0.0, None)]
    assert stream.open is None
    (event,) = [complete for _, _, complete in seen if complete]
    assert (event.start, event.end, event.peak, event.mean) == (0.0, 1.0, 0.9, 0.8)
