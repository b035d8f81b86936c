"""The study of windows: a sliding window is a stream, and the table of docs is that of its CSV."""

import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("av", reason="needs the extra video")
pytest.importorskip("cv2", reason="needs the extra video")

from gvvad_jax import scoring, step
from gvvad_jax.config import TrainConfig
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.streaming import ScoreStream
from tests.support.stores import CROPS, DIM, make_manifest
from tools import study_windows
from tools.studies import windows

ROOT = pathlib.Path(__file__).parents[3]


def test_a_sliding_model_scores_each_video_as_a_stream_of_its_own():
    config = TrainConfig(detector="rtfm", mtn_channels=4, head_widths=(4,))
    model = windows.SlidingModel(
        config=config,
        manifest=make_manifest(text=None),
        standard=Standardisation(),
        variables=step.scoring_variables(step.init_state(config, DIM, 0)),
        score_step=step.make_score_step(config),
        window=3,
    )
    assert isinstance(model, scoring.Model)
    rng = np.random.default_rng(0)
    rows = {i: rng.normal(size=(7, CROPS, DIM)).astype(np.float32) for i in ("a", "b")}
    store = SimpleNamespace(visual=rows.get, text=lambda _: None)
    members = [SimpleNamespace(store=store, video=SimpleNamespace(id=i)) for i in rows]
    scores = model.score_members(members)
    for video_id, visual in rows.items():
        stream = ScoreStream(model, 3)
        expected = [stream.push(visual_NxD) for visual_NxD in visual]
        np.testing.assert_array_equal(scores[video_id], np.float32(expected))


def test_the_table_by_hand():
    rows = [
        dict(zip((*windows.KEYS, "auc"), values, strict=True))
        for values in (
            ("world", "rtfm", "whole", "0", "0", "0.9"),
            ("world", "rtfm", "whole", "0", "1", "0.8"),
            ("world", "rtfm", "sliding", "8", "0", "0.85"),
            ("world", "rtfm", "causal", "8", "0", "0.91"),
            ("world", "rtfm", "causal", "8", "1", "0.83"),
        )
    ]
    assert study_windows.table(rows, "auc").splitlines()[2:] == [
        "| world | rtfm | 0.850 ± 0.071 | sliding | 0.850 (-0.050; 1 of 2 seeds) |",
        "| world | rtfm | 0.850 ± 0.071 | causal | 0.870 (+0.020 ± 0.014) |",
    ]


@pytest.mark.parametrize("measure", windows.runs.MEASURES)
def test_the_tables_of_the_page_are_those_of_the_csv(measure):
    held = study_windows.read(ROOT / "docs" / "studies" / "windows.csv")
    page = (ROOT / "docs" / "streaming.md").read_text(encoding="utf-8")
    assert study_windows.table(held, measure) in page
