"""The bench of scores as snippets arrive, at tiny sizes."""

import pytest

pytest.importorskip("av", reason="needs the extra video")

from tools.bench import streaming


def test_work_for_each_snippet_is_counted_with_and_without_a_cache(monkeypatch):
    monkeypatch.setattr(streaming, "DIM", 8)
    monkeypatch.setattr(streaming, "TEXT_DIM", 4)
    figures = streaming._detector("tevad", (4,), 3)["4"]
    assert set(figures) == {"ms", "first_ms", "compile_s", "mflop", "mflop_cached"}
    assert 0 < figures["ms"] < 1e3 * figures["compile_s"]
    # A window computes all its snippets anew.
    assert 2 < figures["mflop"] / figures["mflop_cached"] < 5


def test_the_delay_is_of_every_snippet_of_the_video(tmp_path):
    figures = streaming._delay(tmp_path, "mil_rank", 4, (96, 128), 4.0)
    assert figures["snippets"] == (100 - streaming.FRAMES) // streaming.STRIDE + 1
    assert 0 < figures["delay_s"]["median"] <= figures["delay_s"]["largest"]
    assert figures["busy"] == pytest.approx(figures["frame_ms"] * streaming.FPS / 1e3)
