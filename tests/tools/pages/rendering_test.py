import sys

import pytest

from gvvad_jax.command import UserError
from tools.pages import rendering


def test_points_have_one_decimal():
    assert rendering.points([(0, 1.25), (2.04, 3)]) == "0.0,1.2 2.0,3.0"


def test_a_missing_jinja2_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    rendering._environment.cache_clear()
    with pytest.raises(UserError, match=r"found none; pip install '.\[pages\]'"):
        rendering.render("demo.html")
