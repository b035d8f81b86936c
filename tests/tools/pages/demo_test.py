"""The demo's page, from a small result with hostile names, and a video that is really H.264."""

import base64
import re
import xml.etree.ElementTree

import av
import numpy as np
import pytest

from gvvad_jax.events import Event
from tools.pages import demo, player
from tools.studies import arms, findings
from tools.studies.curves import Alarm, Curve

HOSTILE = "\"><script>alert(1)</script>&'"
NAMES = [arm.name for arm in arms.ARMS]


def _result(**changes):
    runs = {
        name: [
            {"auc": auc + 0.02 * seed, "auc_abnormal": 0.6, "ap": 0.7, "far": auc / 10}
            for seed in (0, 1)
        ]
        for name, auc in zip(NAMES, (0.5, 0.6, 0.7), strict=True)
    }
    counts = {"normal": 31, "abnormal": 21}
    result = {
        "detector": "lap",
        "arms": arms.compare(runs),
        "trained": {"real": {"normal": 30, "abnormal": 6}, "held_out": 4, NAMES[2]: counts},
        "thresholds": {NAMES[0]: HOSTILE},
        "rules": {HOSTILE: {"auc": 0.7, "auc_abnormal": 0.6, "flipped": True}},
        "filter": {"kept": 5, "dropped": 3, "reasons": {"frozen": 3}},
        "caught": {"sound": [0, 5], "twin": [1, 2]},
        "data": {"train": 40, "validation": 0, "test": 2, "generated": 8},
        "rendered": True,
        "seeds": 2,
        "flags": "--steps=3\n--store=here\n--synthetic_store=there\n--seed=1\n",
        "plan": {"data_seed": 3, "videos": ""},
        "provenance": {"commit": "abc"},
    } | changes
    return {"finding": findings.finding(result)} | result


def _curve(label):
    event = Event(video="v", start=2.0, end=5.0, peak=0.9, peak_time=3.0, mean=0.8, threshold=0.5)
    alarms = {
        "real only": Alarm({"threshold": 0.5, "videos": 3, "alarms": 0}, None, [event]),
        "other": Alarm(None, "no normal footage", ()),
    }
    return Curve(
        id=HOSTILE,
        label=label,
        fps=10.0,
        start=0,
        intervals=[(20, 60)] if label else [],
        scores={"real only": np.linspace(0, 1, 100), "other": np.zeros(100)},
        alarms=alarms,
        played_PxHxWx3=np.full((50, 32, 48, 3), 90, np.uint8),
        played_fps=5.0,
    )


def _body(page):
    inside = page.split("<body>")[1].split("</body>")[0]
    return xml.etree.ElementTree.fromstring(f"<body>{inside}</body>")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    none = tmp_path_factory.mktemp("page") / "none.csv"
    return demo.page(_result(), [_curve(1), _curve(0)], none)


def test_the_page_is_well_formed_whole_and_escapes_everything(page):
    # One script, the page's own, and nothing from elsewhere.
    assert page.count("<script") == 1 and "http" not in page
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', page))
    text = " ".join("".join(_body(page).itertext()).split())
    assert text.count("RENDERED") == 1 and text.count(HOSTILE) == 4
    assert f"{HOSTILE}, sign flipped" in text
    assert "--steps=3" in text and "store=" not in text and "Data seed 3" in text


def test_it_opens_with_the_finding_and_marks_the_best(page):
    tree = _body(page)
    heading, finding = list(tree)[:2]
    assert heading.text == "Do generated videos help when real anomalies are rare?"
    assert finding.text.startswith("This run can't tell: beside 6 abnormal and 30 normal real ")
    table = next(tree.iter("table"))
    rows = [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table]
    assert rows[0] == ["", "AUC ↑", "abnormal-only AUC ↑", "AP ↑", "FAR ↓"]
    assert rows[1] == [NAMES[0], "0.510 ± 0.014", "0.600 ± 0.000", "0.700 ± 0.000", "0.050 ± 0.000"]
    assert rows[3][0] == f"{NAMES[2]}21 abnormal, 31 normal"
    differences = list(tree.iter("table"))[1]
    cells = ["".join(cell.itertext()) for cell in list(differences)[1]]
    assert cells[:2] == [NAMES[1], "+0.100 ± 0.000 (2)"]
    marks = [[cell.get("class") == "best" for cell in row[1:]] for row in list(table)[1:]]
    # Equal ones are all best; the lowest rate of false alarms is.
    assert marks == [[False, True, True, True], [False, True, True, False],
                     [True, True, True, False]]  # fmt: skip


def test_plots_are_drawn_by_hand_and_the_cursor_knows_their_scale(page):
    first, second = _body(page).iter("svg")
    assert (first.get("data-left"), first.get("data-seconds")) == ("44", "10.000")
    # 10 seconds are 596 units wide, from 44 on: frames 20 to 60; the event at 2 to 5 seconds.
    truth, event = first.iter("rect")
    assert (truth.get("x"), truth.get("width")) == ("163.2", "238.4")
    assert (event.get("x"), event.get("width"), event.get("y")) == ("163.2", "178.8", "204")
    assert [rect.get("class") for rect in second.iter("rect")] == ["event"]
    # The first frame has score 0, at the bottom; its middle is at 0.05 seconds.
    assert first.find("polyline").get("points").startswith("47.0,200.0 ")
    (dashed,) = (line for line in first.iter("line") if line.get("stroke-dasharray"))
    assert dashed.get("y1") == "102.0"
    captions = ["".join(c.itertext()) for c in _body(page).iter("figcaption")]
    assert captions[0] == (
        "Events. real only: 2.0 to 5.0 s (up to 0.90). "
        "other: no threshold, so no events: no normal footage. "
    )


def test_the_video_in_the_page_is_h264_of_the_curves_length(page, tmp_path):
    video = next(_body(page).iter("video"))
    assert video.get("autoplay") and video.get("muted")
    data = video.get("src").removeprefix("data:video/mp4;base64,")
    (tmp_path / "v.mp4").write_bytes(base64.b64decode(data))
    with av.open(tmp_path / "v.mp4") as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height, stream.average_rate) == (48, 32, 5)
        assert sum(1 for _ in container.decode(stream)) == 50


def test_without_the_study_the_page_says_why(page):
    text = " ".join("".join(_body(page).itertext()).split())
    assert "Left out: the plot of AUC against the number of real abnormal videos. docs/" in text


def test_a_demo_on_given_videos_has_no_planted_defects(tmp_path):
    result = _result(rendered=False, caught=None, plan={"videos": "a.json"})  # The rest by default.
    text = "".join(_body(demo.page(result, [], tmp_path / "none.csv")).itertext())
    assert "Data seed 0;" in text
    assert "RENDERED" not in text and "planted" not in text and "No test video." in text


def test_a_part_of_a_video_is_named():
    part = player.player(_curve(1).__class__(**{**vars(_curve(1)), "start": 120}))
    assert part["part"] == "from 12 s on"
