"""The filter's page: well formed, escaped, and its counts right."""

import json
import subprocess
import xml.etree.ElementTree

import numpy as np
import pytest

from generation.filter import deciding, rules
from generation.filter.decisions import Decision, save_decisions, thresholds_path
from generation.filter.evidence import Evidence
from generation.media.writing import write_video
from generation.prompts.descriptions import Description, save_descriptions
from tests.support.started import python
from tools.pages import filter as filter_page

HOSTILE = "\"><script>alert(1)</script>&'"


def body(page):
    inside = page.split("<body>")[1].split("</body>")[0]
    return xml.etree.ElementTree.fromstring(f"<body>{inside}</body>")


def evidence(count=30):
    rng = np.random.default_rng(0)
    real = {
        rule: sorted(rng.lognormal(1, 0.3, 40).tolist())
        for rule in {r.score for r in rules._RELATIVE}
    }
    scores = {
        f"clip-{i:02d}": {name: float(rng.lognormal(1, 0.3)) for name in real}
        | {"decoded_share": 1.0, "cut_ratio": 1.0, "cut_change": 0.1, "black_share": 0.0,
           "blank_share": 0.0, "frozen_share": 0.5 if i % 3 == 0 else 0.0}
        for i in range(count)
    }  # fmt: skip
    labels = {video_id: i % 2 for i, video_id in enumerate(scores)}
    return Evidence(scores, labels, real=real, not_judged={HOSTILE: HOSTILE})


@pytest.fixture
def files(tmp_path):
    """Files of decisions whose names, reasons and descriptions are hostile."""
    judged = evidence()
    scores = dict(judged.scores) | {HOSTILE: judged.scores["clip-01"], "lost": {}}
    judged = Evidence(
        scores, dict(judged.labels) | {HOSTILE: 1, "lost": 0}, real=judged.real,
        not_judged=judged.not_judged,
    )  # fmt: skip
    options = deciding.FilterOptions()
    decisions = deciding.decide(judged, options)
    path = tmp_path / "decisions.jsonl"
    save_decisions(path, decisions, judged, options)
    return path, decisions


def test_the_page_is_well_formed_and_escapes_everything(files):
    path, decisions = files
    thresholds = json.loads(thresholds_path(path).read_text())
    thresholds["rules"][0]["reason"] = HOSTILE
    picture = np.full((40, 60, 3), 90, np.uint8)
    shown = {d.id: [(0.5, picture), (3.0, picture)] for d in decisions[1:5]}
    shown[HOSTILE] = [(0.0, picture)]
    page = filter_page.page(decisions, thresholds, shown, {HOSTILE: HOSTILE})
    assert "<script" not in page and "http" not in page
    tree = body(page)
    text = " ".join("".join(tree.itertext()).split())
    assert text.count(HOSTILE) >= 4
    names = {name for d in decisions for name in d.scores}
    plots = list(tree.iter("svg"))
    assert len(plots) == len(names)
    assert len(list(tree.iter("img"))) == 9
    assert all(i.get("src").startswith("data:image/jpeg;base64,") for i in tree.iter("img"))
    # Counts by reason and label are those of the decisions.
    rows = [[cell.text for cell in row] for row in next(tree.iter("table"))]
    assert rows[0] == ["generated videos", "normal", "abnormal", "all"]
    for name, *counts in rows[1:]:
        chosen = [
            d
            for d in decisions
            if (name == "kept" and d.keep)
            or (name == "dropped" and not d.keep)
            or name.removeprefix("dropped: ") in d.reasons
        ]
        by_label = [sum(d.label == label for d in chosen) for label in (0, 1)]
        assert counts == [str(n) for n in (*by_label, len(chosen))]
    assert "frozen" in {row[0].removeprefix("dropped: ") for row in rows}


def test_histograms_draw_three_series_and_the_bounds():
    judged = evidence()
    thresholds = {"rules": [rule.to_json() for rule in judged.rules("strict")], "real": judged.real}
    decisions = deciding.decide(judged)
    page = filter_page.page(decisions, thresholds | {"not_judged": {}}, {}, {})
    tree = body(page)
    plots = {p.find("figcaption").text: p.find("svg") for p in tree.iter("figure")}
    assert len(list(plots["motion"].iter("polyline"))) == 3
    # A largest and a smallest motion; a reason at each bound.
    lines = [line for line in plots["motion"].iter("line") if line.get("stroke-dasharray")]
    assert len(lines) == 2
    assert {"motion", "static"} <= {label.text for label in plots["motion"].iter("text")}
    # Real videos have no decoded share here.
    assert len(list(plots["decoded_share"].iter("polyline"))) == 2
    # One value, values that aren't numbers, and none at all.
    for scores in ([3.0], [float("nan"), 1.0], []):
        drawn = filter_page.histogram("x", {"real": [], "kept": scores, "dropped": []}, ())
        assert len(drawn["curves"]) == min(1, len(scores))
        assert "nan" not in str(drawn)


def test_what_is_shown_is_bounded_and_has_every_reason():
    decisions = [
        Decision(f"{i:02d}", i % 2 == 0, () if i % 2 == 0 else (("cut", "blur", "noise")[i % 3],),
                 badness=i / 10 if i % 2 else -i / 10)
        for i in range(40)
    ]  # fmt: skip
    shown = filter_page.choose(decisions, 10)
    by_id = {d.id: d for d in decisions}
    assert len(shown) == len(set(shown)) == 10
    assert {r for i in shown for r in by_id[i].reasons} == {"cut", "blur", "noise"}
    assert [i for i in shown if by_id[i].keep] == ["00", "02", "04", "06", "08"]
    assert filter_page.choose(decisions, 0) == []
    assert len(filter_page.choose(decisions, 99)) == 40
    assert len(filter_page.choose(decisions[1::2], 10)) == 10


def test_the_command_shows_three_pictures_of_each_video(tmp_path):
    judged = evidence(count=4)
    options = deciding.FilterOptions()
    path = tmp_path / "decisions.jsonl"
    save_decisions(path, deciding.decide(judged, options), judged, options)
    frames = np.repeat(np.uint8([40, 120, 200, 90]), 32 * 64 * 3).reshape(4, 32, 64, 3)
    write_video(tmp_path / "0.mp4", np.repeat(frames, 4, axis=0), fps=8.0)
    (tmp_path / "1.mp4").write_bytes(b"no video")
    files = {"clip-00": "0.mp4", "clip-01": "1.mp4", "clip-02": "../outside.mp4"}
    videos = {i: {"file": f, "label": 0, "split": "train"} for i, f in files.items()}
    (tmp_path / "videos.json").write_text(json.dumps({"videos": videos}))
    texts = {"description": "A yard <b>at night</b>.", "phrase": "a yard"}
    record = Description(
        id="clip-00", twin="x", cls="Arson", label=0, seed=0, viewpoint="v", location="l",
        subject="s", event="e", **texts,
    )  # fmt: skip
    save_descriptions(tmp_path / "prompts.jsonl", [record])
    out = tmp_path / "pages" / "filter.html"
    done = subprocess.run(
        [*python(), "-m", "tools.filter_report", f"--decisions={path}", f"--out={out}",
         f"--videos={tmp_path / 'videos.json'}", f"--prompts={tmp_path / 'prompts.jsonl'}"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["shown"] == 1
    assert "clip-01" in done.stderr and "clip-02" in done.stderr
    tree = body(out.read_text())
    assert len(list(tree.iter("img"))) == 3
    assert "A yard <b>at night</b>." in "".join(tree.itertext())
    failed = subprocess.run(
        [*python(), "-m", "tools.filter_report", f"--decisions={tmp_path / 'n'}", "--out=x"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
