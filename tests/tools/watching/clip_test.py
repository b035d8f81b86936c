"""Videos of one's own, scored by a run on features of an image encoder of transformers."""

import json

import numpy as np
import pytest

from generation.encode import encoding
from generation.encode.recipe import EncodeOptions
from gvvad_jax import scoring
from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store
from tests.support import tiny_clip, tiny_videos, watched_runs
from tools.watching import files, sources
from tools.watching.features import RunFeatures
from tools.watching.options import ModelOptions, WatchOptions


@pytest.mark.usefixtures("one_thread")
def test_a_run_on_clip_scores_a_file_by_the_rows_of_its_store(tmp_path):
    weights = tiny_clip.save(tmp_path / "tiny-clip")
    tiny_videos.write_videos(tmp_path)
    options = EncodeOptions(
        encoder="clip-l14", weights=weights, captioner="none", snippet_frames=8, snippet_stride=8
    )
    encoding.encode(tiny_videos.write_list(tmp_path, "a"), tmp_path / "s", options, progress=False)
    store = Store(tmp_path / "s")
    run = watched_runs.write_run(tmp_path / "run", threshold=0.05, manifest=store.manifest)
    watching = WatchOptions(workdir=str(run), out=str(tmp_path / "out"))
    videos, models = sources.find([str(tmp_path / "a.mp4")]), ModelOptions(weights=weights)
    files.score(videos, watching, models)
    model = scoring.load(run)
    rows_TxNxD, text, times_Tx2, _ = RunFeatures.open(run, model, models).of_file(videos[0].path)
    assert text is None
    np.testing.assert_array_equal(rows_TxNxD, store.visual("a"))
    np.testing.assert_array_equal(times_Tx2, store.times("a"))
    content = json.loads((tmp_path / "out" / "a.json").read_text())
    np.testing.assert_array_equal(content["scores"], model.score(store)["a"])
    assert content["encoder"] == store.manifest.encoder["id"]
    with pytest.raises(UserError, match=r"^--weights: expected the checkpoint 'tiny-clip'"):
        files.score(videos, watching)
