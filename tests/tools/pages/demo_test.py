"""The demo's page, from a small result with hostile names."""

import xml.etree.ElementTree

import numpy as np

from tools.pages import demo
from tools.studies import arms

HOSTILE = "\"><script>alert(1)</script>&'"


def _result(**changes):
    runs = {
        arm.name: [
            dict(zip(arms.MEASURES, (0.5 + 0.1 * seed, 0.6, 0.7, 0.2), strict=True))
            for seed in (0, 1)
        ]
        for arm in arms.ARMS
    }
    result = {
        "arms": arms.compare(runs),
        "rules": {HOSTILE: {"auc": 0.7, "auc_abnormal": 0.6, "flipped": True}},
        "filter": {"kept": 5, "dropped": 3, "reasons": {"frozen": 3}},
        "caught": {"sound": [0, 5], "twin": [1, 2]},
        "data": {"train": 4, "validation": 0, "test": 2, "generated": 8},
        "rendered": True,
        "seeds": 2,
        "flags": "--steps=3\n--store=here\n--seed=1\n",
        "plan": {"data_seed": 3, "videos": ""},
        "provenance": {"commit": "abc"},
    }
    return result | changes


def _curve(label):
    return {
        "id": HOSTILE,
        "label": label,
        "fps": 10.0,
        "intervals": [[20, 60]] if label else [],
        "scores": {"real only": np.linspace(0, 1, 100), "other": np.zeros(100)},
        "pictures": [(0, np.zeros((4, 6, 3), np.uint8)), (40, np.zeros((4, 6, 3), np.uint8))],
    }


def _body(page):
    inside = page.split("<body>")[1].split("</body>")[0]
    return xml.etree.ElementTree.fromstring(f"<body>{inside}</body>")


def test_the_page_is_well_formed_escapes_everything_and_draws_by_hand():
    page = demo.page(_result(), [_curve(1), _curve(0)])
    assert "<script" not in page and "http" not in page
    tree = _body(page)
    text = " ".join("".join(tree.itertext()).split())
    assert "RENDERED" in text and text.count(HOSTILE) == 3
    assert f"{HOSTILE}, sign flipped" in text and "0.550 ± 0.071" in text
    assert "--steps=3" in text and "--store=here" not in text and "Data seed 3" in text
    first, second = tree.iter("svg")
    # 100 frames are 610 units wide, from 30 on: frames 20 to 60.
    assert first.find("rect").attrib["x"] == "152.0"
    assert first.find("rect").attrib["width"] == "244.0"
    assert second.find("rect") is None
    # The first frame has score 0, at the bottom; its middle is at 0.5 frames.
    assert first.find("polyline").attrib["points"].startswith("33.0,120.0 ")
    assert len(list(tree.iter("img"))) == 4


def test_a_demo_on_given_videos_has_no_planted_defects():
    result = _result(rendered=False, caught=None, plan={"videos": "a.json"})  # The rest by default.
    text = "".join(_body(demo.page(result, [])).itertext())
    assert "Data seed 0;" in text
    assert "RENDERED" not in text and "planted" not in text and "No test video." in text
