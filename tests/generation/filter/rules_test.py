"""Rules: distances and bounds."""

import math

import numpy as np
import pytest

from generation.filter import rules


def test_distances_by_hand():
    """Doublings beyond the bound, for each kind of score; the nearest of several bounds."""
    Rule = rules.Rule
    motion = Rule("motion", "pixels", {"motion": (-math.inf, 10.0)})
    for value, distance in ((20, 1.0), (40, 2.0), (5, -1.0), (10, 0.0), (0, -10.0)):
        assert motion.distance({"motion": value}) == pytest.approx(distance)
    blur = Rule("blur", "pixels", {"detail": (0.2, math.inf)})
    assert blur.distance({"detail": 0.05}) == pytest.approx(2.0)
    assert blur.distance({"detail": 0.8}) == pytest.approx(-2.0)
    steady = Rule("inconsistent", "features", {"consistency": (0.9, math.inf)})
    assert steady.distance({"consistency": 0.8}) == pytest.approx(1.0)
    assert steady.distance({"consistency": 0.95}) == pytest.approx(-1.0)
    margin = Rule("twin's text", "features", {"pair_margin": (0.0, math.inf)}, unit=0.02)
    assert margin.distance({"pair_margin": -0.03}) == pytest.approx(1.5)
    cut = Rule("cut", "pixels", {"cut_ratio": (-math.inf, 2), "cut_change": (-math.inf, 0.5)})
    assert cut.distance({"cut_ratio": 8, "cut_change": 0.25}) == pytest.approx(-1.0)
    assert cut.distance({"cut_ratio": 8, "cut_change": 0.75}) == pytest.approx(math.log2(1.5))
    assert cut.distance({"cut_ratio": 8}) == pytest.approx(2.0)
    assert margin.distance({}) == -10.0


def test_bounds_come_from_quantiles_of_real_videos_and_floors():
    names = {relative.score for relative in rules._RELATIVE}
    real = {name: np.linspace(1, 101, 101) for name in names}
    bounds = {}
    for rule in rules.preset_rules("strict", real, {}):
        for name, pair in rule.bounds.items():
            bounds.setdefault(rule.reason, {})[name] = pair
    # 5 % and 95 % quantiles are 6 and 96.
    assert bounds["static"]["motion"] == (1.0, math.inf)
    assert bounds["motion"]["motion"] == (-math.inf, 288.0)
    assert bounds["ghost"]["carried"] == (1.5, math.inf)
    calm = {rule.reason: rule for rule in rules.preset_rules("strict", {n: [0] for n in names}, {})}
    assert calm["camera"].bounds == {"drift": (-math.inf, 7.0)}
    assert calm["static"].bounds == {"motion": (0.3, math.inf)}


def test_text_is_judged_by_the_generated_videos_own_median():
    rng = np.random.default_rng(0)
    generated = {
        "text_similarity": [*rng.normal(0.3, 0.01, 99), 0.1],
        "pair_margin": rng.normal(0.05, 0.02, 100),
        "realism": [*rng.normal(0.4, 0.02, 99), 0.1],
        "consistency": [0.9] * 100,
        "twin_similarity": [0.5] * 100,
    }
    names = {relative.score for relative in rules._RELATIVE}
    real = {name: [1.0] for name in names} | {"realism": [0.8] * 9, "consistency": [0.97] * 9}
    bounds = {rule.reason: rule.bounds for rule in rules.preset_rules("strict", real, generated)}
    # Only videos far from the real ones and from each other are dropped.
    assert bounds["unreal"]["realism"][0] == pytest.approx(0.32, abs=0.03)
    assert bounds["inconsistent"]["consistency"][0] == pytest.approx(0.94)
    assert bounds["off text"]["text_similarity"][0] == pytest.approx(0.27, abs=0.01)
    # As far below 0 as the spread, so that half of the videos are not dropped.
    assert bounds["twin's text"]["pair_margin"][0] == pytest.approx(-0.02, abs=0.003)
    assert bounds["as its twin"]["twin_similarity"][1] == rules.ALIKE
    assert not {r.reason for r in rules.preset_rules("light", real, generated)} & set(bounds) - {
        "integrity", "black", "blank", "frozen", "cut",
    }  # fmt: skip
