"""The detectors study: arms that pair up, resuming, its table."""

import dataclasses
import json
import pathlib

from generation import pipeline
from generation.encode import encoding
from generation.encoders.options import VisualOptions
from generation.encoders.visual import make_encoder
from gvvad_jax import config
from gvvad_jax.store.reader import Store
from tests.support.textures import write_videos
from tools.studies import detectors, runs, tables
from tools.studies.detectors import DetectorStudy


def _data(folder):
    """What the pipeline returns, for a few small videos instead of the world's."""
    recipe = encoding.Recipe(
        encoder=make_encoder(VisualOptions()), snippet_frames=16, snippet_stride=4,
        captioner=None, text_encoder=None,
    )  # fmt: skip
    videos = {}
    for kind in ("real", "synthetic"):
        (folder / kind).mkdir()
        videos[kind] = str(write_videos(folder / kind, prefix=f"{kind}-"))
        sourced = dataclasses.replace(recipe, source=kind)
        encoding.encode(videos[kind], folder / f"{kind}_store", sourced)
    ids = sorted(Store(folder / "synthetic_store").rows)
    decisions = folder / "decisions.jsonl"
    decisions.write_text("".join(json.dumps({"id": i, "keep": True}) + "\n" for i in ids))
    return {
        "real_videos": videos["real"],
        "real_store": str(folder / "real_store"),
        "synthetic_store": str(folder / "synthetic_store"),
        "decisions": str(decisions),
    }


def test_runs_on_both_footages_and_resumes(tmp_path, monkeypatch):
    data = _data(tmp_path)
    monkeypatch.setattr(pipeline, "run", lambda settings: data)
    monkeypatch.setattr(detectors, "_encode", lambda study, name: data["real_store"])
    monkeypatch.setattr(config, "DETECTORS", {"mil_rank": ("visual",)})
    train = config.TrainConfig(
        detector="mil_rank", steps=2, segments=4, batch_size=2, validation_share=0.0,
        validate_every=2, checkpoint_every=2, allow_shared_rows=True,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    study = DetectorStudy(out=str(tmp_path / "out"), videos=data["real_videos"], seeds=2)
    result = detectors.run(study, train)
    assert set(result["footage"]) == {"world", "real"}
    entry = result["footage"]["real"]["detectors"]["mil_rank"]
    assert set(entry) == {"real only", "+ generated", "difference"}
    assert "oracle" in result["footage"]["world"]["rules"]
    runs = tmp_path / "out" / "runs"
    names = sorted(path.name for path in runs.iterdir() if path.is_dir())
    assert len(names) == 8 and "real-mil_rank-generated-01" in names

    from gvvad_jax import training

    again, real = [], training.fit
    monkeypatch.setattr(training, "fit", lambda c: again.append(c.workdir) or real(c))
    (tmp_path / "out" / "runs" / names[3] / "result.json").unlink()
    assert detectors.run(study, train) == result
    assert [pathlib.Path(workdir).name for workdir in again] == [names[3]]


def test_differences_pair_seeds_by_hand(monkeypatch):
    values = {("real only", 0): 0.5, ("real only", 1): 0.7}
    values |= {("+ generated", 0): 0.8, ("+ generated", 1): 0.6}

    def finished(key):
        return {"last": {"auc": values[key], "auc_abnormal": 0.5}}

    monkeypatch.setattr(runs, "finished_run", finished)
    monkeypatch.setattr(config, "DETECTORS", {"rtfm": ("visual",)})
    configs = {("rtfm", arm): [(arm, seed) for seed in (0, 1)] for arm in detectors.ARMS}
    measured = detectors._detectors(configs, "world")["rtfm"]
    assert measured["real only"]["auc"] == {"mean": 0.6, "sd": 0.1414}
    difference = measured["difference"]["auc"]
    assert (difference["mean"], difference["sd"], difference["wins"]) == (0.1, 0.2828, 1)
    rules = {"oracle": {"auc": 0.9, "auc_abnormal": 0.5, "flipped": False}}
    world = {"detectors": {"rtfm": measured}, "rules": rules}
    summary = {"steps": 7, "seeds": 2, "footage": {"world": world}}
    text = tables.detectors_table(summary)
    assert "7 steps, 2 seeds" in text and "+0.100 +- 0.283 / +0.000 +- 0.000 (1 / 0)" in text
    assert "| oracle | 0.900 / 0.500 | | |" in text
