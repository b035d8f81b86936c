"""The study over detectors: arms that pair up, resuming, its table."""

import dataclasses
import json
import pathlib

from generation import pipeline
from generation.encode import encoding
from generation.encoders.visual import make_encoder
from gvvad_jax import config
from gvvad_jax.store.reader import Store
from tests.study_test import write_videos
from tools import cross_models, study


def _made(folder):
    """What the pipeline hands over, of the study test's few small clips instead of the world's."""
    recipe = encoding.Recipe(
        encoder=make_encoder("motion"), snippet_frames=16, snippet_stride=4,
        captioner=None, text_embedder=None,
    )  # fmt: skip
    videos = {}
    for kind in ("real", "synthetic"):
        (folder / kind).mkdir()
        videos[kind] = str(write_videos(folder / kind))
        of_kind = dataclasses.replace(recipe, source=kind)
        encoding.encode(videos[kind], folder / f"{kind}_store", of_kind)
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
    made = _made(tmp_path)
    monkeypatch.setattr(pipeline, "run", lambda plan: made)
    monkeypatch.setattr(cross_models, "_encode", lambda plan, name: made["real_store"])
    monkeypatch.setattr(config, "DETECTORS", {"mil_rank": ("visual",)})
    train = config.TrainConfig(
        detector="mil_rank", steps=2, segments=4, batch_size=2, validation_share=0.0,
        validate_every=2, checkpoint_every=2,
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    plan = cross_models.Plan(out=tmp_path / "out", videos=made["real_videos"], seeds=2, train=train)
    found = cross_models.run(plan)
    assert set(found["footage"]) == {"world", "real"}
    entry = found["footage"]["real"]["detectors"]["mil_rank"]
    assert set(entry) == {"real only", "+ generated", "difference"}
    assert "oracle" in found["footage"]["world"]["rules"]
    runs = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert len(runs) == 8 and "real-mil_rank-generated-01" in runs

    from gvvad_jax import train as gvvad_jax_train
    from gvvad_jax import training

    again, real = [], training.train
    monkeypatch.setattr(gvvad_jax_train, "train", lambda c: again.append(c.workdir) or real(c))
    (tmp_path / "out" / "runs" / runs[3] / "result.json").unlink()
    assert cross_models.run(plan) == found
    assert [pathlib.Path(workdir).name for workdir in again] == [runs[3]]


def test_differences_pair_seeds_by_hand(monkeypatch):
    values = {("real only", 0): 0.5, ("real only", 1): 0.7}
    values |= {("+ generated", 0): 0.8, ("+ generated", 1): 0.6}

    def finished(key):
        return {"last": {"auc": values[key], "auc_abnormal": 0.5}}

    monkeypatch.setattr(study, "finished_run", finished)
    monkeypatch.setattr(config, "DETECTORS", {"rtfm": ("visual",)})
    configs = {("rtfm", arm): [(arm, seed) for seed in (0, 1)] for arm in cross_models.ARMS}
    found = cross_models._detectors(configs, "world")["rtfm"]
    assert found["real only"]["auc"] == {"mean": 0.6, "sd": 0.1414}
    assert found["difference"]["auc"] == {"mean": 0.1, "sd": 0.2828, "wins": 1}
    rules = {"oracle": {"auc": 0.9, "auc_abnormal": 0.5, "flipped": False}}
    world = {"detectors": {"rtfm": found}, "rules": rules}
    summary = {"steps": 7, "seeds": 2, "footage": {"world": world}}
    text = cross_models.table(summary)
    assert "7 steps, 2 seeds" in text and "+0.100 +- 0.283 / +0.000 +- 0.000 (1 / 0)" in text
    assert "| oracle | 0.900 / 0.500 | | |" in text
