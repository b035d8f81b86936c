import dataclasses
import json
import os
import re
import signal
import threading
import time

import numpy as np
import pytest

from gvvad_jax import events
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.streaming import ScoreStream
from tests.support.receivers import Hook, wait_for
from tests.support.stream_servers import HttpCamera, RtspCamera, write_stream
from tests.support.watching import FPS, make_detector, shaken
from tools.watching import live, receiving, renewing
from tools.watching.live_options import LiveOptions
from tools.watching.options import WatchOptions


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    return write_stream(tmp_path_factory.mktemp("streams") / "shaken.ts", shaken(), FPS)


@pytest.fixture(scope="module")
def of_file(stream):
    """The scores and events of the stream as a file."""
    detector = make_detector()
    visual_TxNxD, _, times_Tx2, _ = detector.features.of_file(stream)
    scores = ScoreStream(detector.model, 64)
    scores_T = np.array([scores.push(row_NxD) for row_NxD in visual_TxNxD])
    return scores_T, events.find_events(scores_T, detector.rule, times_Tx2=times_Tx2, video="x")


@pytest.fixture
def watch(monkeypatch, tmp_path, capfd):
    """Watches sources; returns the summary, the events, and what was printed for people.

    A function `until` ends it once it returns something true.
    """
    monkeypatch.setattr(live, "open_detector", lambda options, models: make_detector())
    monkeypatch.setattr(receiving, "PAUSES", (1.0, 1.0))
    # Where others use the machine, a test's encoder may stand still for seconds.
    monkeypatch.setattr(receiving, "MOST_LATE", 60.0)

    def run(*arguments, until=None, status=None, **settings):
        options = WatchOptions(workdir="run", out=str(tmp_path / "out"))
        if until:

            def end():
                wait_for(until)
                os.kill(os.getpid(), signal.SIGTERM)

            threading.Thread(target=end, daemon=True).start()
        if status:
            with pytest.raises(status):
                live.watch(arguments, options, LiveOptions(**settings), None)
        else:
            live.watch(arguments, options, LiveOptions(**settings), None)
        printed = capfd.readouterr()
        summary = json.loads(printed.out)
        lines = (tmp_path / "out" / "events.jsonl").read_text().splitlines()
        return summary, [json.loads(line) for line in lines], printed.err

    return run


def test_a_pipe_gives_the_events_of_the_whole_file(watch, stream, of_file, tmp_path):
    scores_T, (event,) = of_file
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(stream.read_bytes()))
    writer.start()
    summary, lines, _ = watch(f"front={pipe}")
    writer.join()
    (line,) = lines
    expected = event.to_json() | {"video": "front", "thumbnail": line["thumbnail"]}
    assert {name: line[name] for name in expected} == expected
    assert line["start_time"] < line["end_time"]
    picture = tmp_path / "out" / line["thumbnail"]
    assert picture.read_bytes()[:2] == b"\xff\xd8" and picture.parent.name == "front.files"
    front = summary["sources"]["front"]
    assert front["snippets"] == len(scores_T) and front["score"] == scores_T[-1]
    assert front["seconds"] == 6.0 and front["dropped_snippets"] == 0 and front["fault"] is None
    assert json.loads((tmp_path / "out" / "status.json").read_text())["sources"] == {"front": front}


def test_at_another_rate_too_the_last_snippet_comes(watch, stream, tmp_path, monkeypatch):
    detector = make_detector(stride=5, fps_policy="10")
    monkeypatch.setattr(live, "open_detector", lambda options, models: detector)
    visual_TxNxD = detector.features.of_file(stream)[0]
    scores = ScoreStream(detector.model, 64)
    scores_T = [scores.push(row_NxD) for row_NxD in visual_TxNxD]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(stream.read_bytes()))
    writer.start()
    front = watch(f"front={pipe}")[0]["sources"]["front"]
    writer.join()
    # Ten snippets, of which the last one has 15 frames.
    assert (front["snippets"], front["score"]) == (len(scores_T), scores_T[-1]) == (10, scores_T[9])


def test_sources_that_drop_are_watched_again_and_their_events_end(watch, stream, of_file):
    content = stream.read_bytes()
    # In the middle of the event.
    cut = len(content) * 85 // 150 // 188 * 188
    password = "user:se/cret"
    with (
        HttpCamera(content, cut_after=[cut], viewers=2, password=password) as http,
        RtspCamera(content, cut_after=[cut], viewers=2, password=password) as rtsp,
        Hook() as hook,
    ):

        def ends():
            return [content for _, content in hook.requests if content["state"] == "end"]

        summary, lines, errors = watch(
            http.url.replace("//", "//user:se%2Fcret@") + "/live?key=hidden",
            "back=" + rtsp.url.replace("//", "//user:se%2Fcret@"),
            until=lambda: len(ends()) == 4,
            webhook=hook.url,
        )
        assert len(lines) == 4
        for name in (f"127.0.0.1_{http.port}_live", "back"):
            first, second = (line for line in lines if line["video"] == name)
            assert first["start"] == of_file[1][0].start
            assert (
                first["end"] == pytest.approx(85 / FPS, abs=0.3) and first["end"] < second["start"]
            )
            whole = of_file[1][0].end - of_file[1][0].start
            assert second["end"] - second["start"] == pytest.approx(whole)
            states = [c["state"] for _, c in hook.requests if c["video"] == name]
            assert states == ["begin", "end"] * 2
            assert summary["sources"][name]["reconnects"] == 1
            assert re.search(rf"{name}: .*; connects again in 1 s", errors)
        secrets = ("se/cret", "se%2Fcret", "hidden")
        everything = errors + json.dumps([summary, lines, [c for _, c in hook.requests]])
        assert not any(secret in everything for secret in secrets)


def test_a_line_that_was_cut_short_is_ended(tmp_path):
    path = tmp_path / "events.jsonl"
    for before, after in (("", ""), ("{}\n", "{}\n"), ("{}\n{", "{}\n{\n")):
        path.write_text(before)
        live._end_line(path)
        assert path.read_text() == after


def test_a_threshold_of_whole_videos_is_said_to_be_another_windows():
    threshold = events.Threshold(threshold=0.5, alarms_per_hour=1.5, asked=1.0, hours=2.0)
    detector = dataclasses.replace(make_detector(), threshold=threshold)
    said = live.of_threshold(detector, 64)
    assert said.startswith("the threshold was set on scores of whole videos, not of the last 64: ")
    assert "the 1.5 an hour" in said
    config = dataclasses.replace(detector.model.config, causal_window=32)
    model = dataclasses.replace(detector.model, config=config)
    causal = dataclasses.replace(detector, model=model)
    assert live.of_threshold(causal, None) is live.of_threshold(causal, 32) is None
    assert "of the last 32 snippets, not of the last 8" in live.of_threshold(causal, 8)
    assert live.of_threshold(make_detector(), 64) is None  # It was given.


def test_a_window_that_no_memory_holds_is_one_line():
    with pytest.raises(UserError, match="--window: expected .* found 2000000000"):
        LiveOptions(window=2_000_000_000)


def test_what_encoding_is_too_slow_for_is_left_out_by_whole_snippets(watch, stream, monkeypatch):
    results = renewing.Snippets._results

    def slowly(self, work):
        time.sleep(0.3)
        return results(self, work)

    monkeypatch.setattr(renewing.Snippets, "_results", slowly)
    monkeypatch.setattr(receiving, "MOST_LATE", 0.6)
    content = stream.read_bytes()
    with HttpCamera(content, real_time=True, viewers=1) as camera:
        summary, _, errors = watch(f"slow={camera.url}/live", until=lambda: camera.served)
    slow = summary["sources"]["slow"]
    assert slow["dropped_snippets"] > 0
    # None is missing: 150 frames have 34 whole snippets, and three begin later.
    assert slow["snippets"] > 0
    assert 34 <= slow["snippets"] + slow["dropped_snippets"] <= 37
    reported = re.findall(r"slow: encoding can't keep up: (\d+) snippets left out", errors)
    assert sum(map(int, reported)) == slow["dropped_snippets"]
    # Before: two seconds in which the rate is measured. At most 32 frames wait, of which every
    # third is encoded.
    assert slow["longest_delay"] < 2 + 32 / 3 * 0.3 + 1


def test_a_source_that_never_works_is_named_and_the_others_go_on(watch, stream, tmp_path):
    with HttpCamera(stream.read_bytes(), password="a:b") as camera:
        summary, _, errors = watch(f"x={camera.url}/live", status=Interrupted)
    assert "a user and password that are accepted" in summary["sources"]["x"]["fault"]
    assert "x: not watched any more" in errors
