"""The page of one's own video, made from a real file and opened in headless Chromium."""

import base64
import json

import numpy as np
import pytest

from gvvad_jax import events
from tests.support import browser, watched_runs
from tools.pages import video as video_page
from tools.pages.rendering import _environment
from tools.watching import footage
from tools.watching.features import Ending, Facts
from tools.watching.scoring import Scores
from tools.watching.sources import VideoFile
from tools.watching.thumbnails import Thumbnail

HOSTILE = "\"><script>alert(1)</script>&'"
PIXEL = base64.b64decode(
    "/9j/4AAQSkZJRgABAQEASABIAAD/2wBDAAMCAgICAgMCAgIDAwMDBAYEBAQEBAgGBgUGCQgKCgkICQkKDA8MCgsOCwkJDRE"
    "NDg8QEBEQCgwSExIQEw8QEBD/yQALCAABAAEBAREA/8wABgAQEAX/2gAIAQEAAD8A0s8g/9k="
)


def _page(folder, *, embedded=True, threshold=0.5, name="a b"):
    """Writes the page of a real 12 second video with two bumps of scores, and returns its name."""
    path = watched_runs.write_scene(folder / "source.mp4")
    times_Tx2 = np.stack([np.arange(30) * 0.4, np.arange(30) * 0.4 + 0.4], axis=1)
    scores_T = np.full(30, 0.125, np.float32)
    scores_T[5:10], scores_T[24:] = 0.875, 0.375
    classes = ["Riot" if t >= 24 else HOSTILE for t in range(30)]
    facts = Facts(120, 10.0, times_Tx2)
    scores = Scores(facts, scores_T, classes, [HOSTILE] * 30, None, Ending([]))
    rule = events.Rule(threshold=threshold)
    found = events.find_events(scores_T, rule, times_Tx2=times_Tx2, video=name)
    picture = Thumbnail(PIXEL, [(1, 2, 7.5)], (4, 6))
    content = {
        "video": name, "file": HOSTILE, "detector": "lap", "encoder": "motion-v2", "fps": 10.0,
        "seconds": 12.0, "truth": [[2.0, 4.0]], "chance": 0.25, "part_snippets": None,
        "faults": [HOSTILE], "captions": [HOSTILE] * len(found),
        "events": [event.to_json() | {"class": HOSTILE} for event in found],
        "rule": {"threshold": threshold, "hysteresis": 0.2, "min_seconds": 1.0, "cool_down": 5.0},
        "threshold": {"threshold": threshold, "alarms_per_hour": 2.0, "asked": 1.0, "alarms": 0,
                      "hours": 1.5, "videos": 3, "reason": None},
    }  # fmt: skip
    files = folder / f"{name}.files"
    files.mkdir()
    reader = footage.opened(VideoFile(path=path, given="x"))
    played = footage.for_page(reader, scores, files)
    limit = video_page.EMBEDDED_BYTES
    video_page.EMBEDDED_BYTES = limit if embedded else 0
    try:
        page, inside = video_page.page(content, scores, [picture] * len(found), played)
    finally:
        video_page.EMBEDDED_BYTES = limit
    assert inside is embedded
    (folder / f"{name}.html").write_text(page, encoding="utf-8")
    return f"{name}.html"


PLAY = """async (page, doc, until) => {
  const video = doc.querySelector("video"), svg = doc.querySelector("svg");
  const place = (selector, name) => [...doc.querySelectorAll(selector)].map(
    (each) => Number(/[\\d.]+/.exec(each.getAttribute(name))));
  const cursor = () => place(".cursor", "transform")[0], bars = () => place(".lane rect", "x");
  const rows = () => [...doc.querySelectorAll("#events tbody tr")].map((row) => [
    row.querySelector(".start .say").textContent, row.querySelector(".end .say").textContent,
    row.querySelector(".peak .say").textContent, row.querySelector(".class .say").textContent,
    Boolean(row.querySelector("img"))]);
  const found = {};
  found.loaded = await until(() => video.readyState >= 2);
  found.seconds = video.duration;
  found.first = [rows(), bars()];
  await video.play();
  found.played = await until(() => video.currentTime > 0.4);
  video.pause();
  await until(() => Math.abs(cursor() - (44 + video.currentTime / 12 * 596)) < 1);
  found.followed = Math.abs(cursor() - (44 + video.currentTime / 12 * 596)) < 1;
  const box = svg.getBoundingClientRect();
  svg.dispatchEvent(new page.MouseEvent("click",
    {clientX: box.left + (44 + 596 / 2) / 640 * box.width, clientY: box.top + 20, bubbles: true}));
  found.sought = await until(() => Math.abs(video.currentTime - 6) < 0.05 && !video.seeking);
  const press = (target, key) => target.dispatchEvent(
    new page.KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
  press(svg, "ArrowRight");
  found.arrow = await until(() => Math.abs(video.currentTime - 7) < 0.05);
  press(doc, "p");
  found.previous = await until(() => Math.abs(video.currentTime - 2) < 0.05);
  const slider = doc.querySelector("#threshold");
  slider.value = 0.25;
  slider.dispatchEvent(new page.Event("input"));
  found.lower = [rows(), bars(), doc.querySelector("#count").textContent];
  press(doc, "n");
  found.next = await until(() => Math.abs(video.currentTime - 9.6) < 0.05);
  slider.value = 0.875;
  slider.dispatchEvent(new page.Event("input"));
  found.highest = [rows(), doc.querySelector("#none").hidden];
  doc.querySelector("#reset").click();
  found.back = [rows(), bars()];
  doc.querySelector("#events button").click();
  found.button = await until(() => Math.abs(video.currentTime - 2) < 0.05);
  found.overflow = doc.documentElement.scrollWidth - doc.documentElement.clientWidth;
  return found;
}"""


@pytest.mark.parametrize(("embedded", "width"), [(True, 1280), (False, 390)])
def test_the_video_plays_the_curve_follows_and_the_slider_finds_events(tmp_path, embedded, width):
    name = _page(tmp_path, embedded=embedded)
    found, requests, console = browser.act(tmp_path, name, PLAY, width)
    assert console == []
    # Nothing is asked for but the page, and the video where it lies beside it.
    assert set(requests) == ({name} if embedded else {name, "a b.files/video.mp4"})
    one = ["0:02.0", "0:04.0", "0.875", HOSTILE, True]
    assert found == {
        "loaded": True, "seconds": 12, "played": True, "followed": True, "sought": True,
        "arrow": True, "previous": True, "next": True, "button": True, "overflow": 0,
        "first": [[one], [pytest.approx(44 + 596 / 6)]],
        "lower": [
            [one, ["0:09.6", "0:12.0", "0.375", "Riot", False]],
            [pytest.approx(44 + 596 / 6), pytest.approx(44 + 596 * 0.8)], "2 events",
        ],
        "highest": [[], False],
        "back": [[one], [pytest.approx(44 + 596 / 6)]],
    }  # fmt: skip


AGREE = """async (page, doc, until) => JSON.parse(doc.querySelector("#cases").textContent).map(
  (each) => page.findEvents(new Float32Array(each.scores), each.starts, each.ends, each.rule))"""


def test_the_pages_events_are_those_of_python_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(3)
    cases, expected = [], []
    for number in range(60):
        count = int(rng.integers(1, 200))
        scores_T = rng.random(count).astype(np.float32)
        if number % 3:  # Runs of high and low scores.
            scores_T = np.repeat(rng.random(count // 6 + 1), 6)[:count].astype(np.float32)
        # Snippets that overlap, follow each other, or leave gaps in the footage.
        starts_T = np.cumsum(rng.choice([0.1, 0.4, 0.4, 7.0], count))
        times_Tx2 = np.stack([starts_T, np.maximum.accumulate(starts_T + rng.random(count))], 1)
        rule = events.Rule(
            threshold=float(rng.choice(scores_T)) if number % 2 else float(rng.random()),
            hysteresis=float(rng.choice([0.0, 0.2, 0.7])),
            min_seconds=float(rng.choice([0.0, 1.0, 3.0])),
            cool_down=float(rng.choice([0.0, 0.3, 5.0])),
        )
        found = events.find_events(scores_T, rule, times_Tx2=times_Tx2)
        expected.append([[e.start, e.end, e.peak, e.peak_time, e.mean] for e in found])
        starts, ends = times_Tx2.T.tolist()
        cases.append({"scores": scores_T.tolist(), "starts": starts, "ends": ends}
                     | {"rule": vars(rule)})  # fmt: skip
    script = _environment().get_template("events.js").render()
    (tmp_path / "cases.html").write_text(
        f"<script>{script}</script><script type='application/json' id='cases'>"
        f"{json.dumps(cases)}</script>"
    )
    found, _, console = browser.act(tmp_path, "cases.html", AGREE)
    assert console == [] and sum(map(len, expected)) > 200
    names = ("start", "end", "peak", "peak_time", "mean")
    assert [[[event[name] for name in names] for event in each] for each in found] == expected


def test_the_page_escapes_names_and_tells_what_the_scores_rest_on(tmp_path):
    text = (tmp_path / _page(tmp_path, threshold=0.9)).read_text(encoding="utf-8")
    assert "<script>alert" not in text and text.count("<script") == 1 and "http" not in text
    assert "0.900, for 2 alarms an hour on 1.5 hours of normal footage (3 videos)" in text
    assert "0:12.0, 10 frames a second" in text and "lap on motion-v2" in text
    assert '<p id="none">No event at this threshold.</p>' in text


def test_clocks_carry_what_they_round():
    assert [video_page.clock(s) for s in (0, 59.96, 3599.99, 3661.25)] == [
        "0:00.0", "1:00.0", "1:00:00.0", "1:01:01.3",
    ]  # fmt: skip
