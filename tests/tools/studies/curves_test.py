"""What the page shows of test videos: which part of them, and their events."""

import numpy as np

from tools.studies import curves

TIMES = np.stack([np.arange(6.0), np.arange(6.0) + 1], axis=1)
THRESHOLD = {"threshold": 0.5, "videos": 3, "alarms": 0, "reason": None}


def test_runs_of_labels_are_intervals():
    assert curves.runs_of(np.array([1, 0, 1, 1, 0, 1])) == [(0, 1), (2, 4), (5, 6)]
    assert curves.runs_of(np.zeros(3)) == []


def test_a_long_video_is_shown_around_its_first_event():
    assert curves.window(400, 10.0, [(350, 380)]) == (0, 400)
    assert curves.window(1000, 10.0, [(500, 520), (900, 950)]) == (310, 710)
    assert curves.window(1000, 10.0, [(980, 1000)]) == (600, 1000)
    assert curves.window(1000, 10.0, []) == (0, 400)


def test_an_alarm_is_the_event_above_the_runs_threshold():
    scores = np.array([0.1, 0.9, 0.8, 0.1, 0.1, 0.1])
    alarm = curves.alarm({"threshold": THRESHOLD, "reasons": {}}, scores, TIMES, "v")
    (event,) = alarm.events
    assert (event.start, event.end, event.peak) == (1.0, 3.0, 0.9) and alarm.reason is None
    assert curves.threshold_text({"threshold": THRESHOLD, "reasons": {}}) == (
        "events begin above 0.500, where 3 normal videos that it didn't train on give 0 alarms"
    )


def test_without_a_threshold_the_reason_is_the_results_own():
    none = {"threshold": None, "videos": 0, "alarms": 0, "reason": "no normal footage"}
    for last, why in (
        ({"threshold": none, "reasons": {}}, "no normal footage"),
        ({"threshold": None, "reasons": {"threshold": "not calibrated"}}, "not calibrated"),
    ):
        alarm = curves.alarm(last, np.ones(6), TIMES, "v")
        assert (alarm.threshold, alarm.reason, list(alarm.events)) == (None, why, [])
        assert curves.threshold_text(last) == f"no threshold: {why}"
    few = THRESHOLD | {"reason": "0.01 hours support 300 an hour"}
    text = curves.threshold_text({"threshold": few, "reasons": {}})
    assert text.endswith("alarms; 0.01 hours support 300 an hour")
