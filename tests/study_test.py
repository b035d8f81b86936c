"""The small-data study: random splits, resuming run by run, and its summary."""

import json
import pathlib

import numpy as np
import pytest

from generation.media.writing import write_video
from gvvad_jax import config, training
from gvvad_jax import train as gvvad_jax_train
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from tests.generation.encoders.motion_test import moving
from tools import study


def write_videos(folder: pathlib.Path, counts=(3, 3)) -> pathlib.Path:
    """Slow textures; abnormal ones are fast in their second half."""
    videos = {}
    for label, count in enumerate(counts):
        for i in range(count):
            frames = moving(step=1 + i % 2, frames=12, shape=(48, 72))
            if label:
                frames[6:] = moving(step=6, frames=6, shape=(48, 72))
            name = f"{'ab'[label]}{i}"
            write_video(folder / f"{name}.mp4", frames, fps=10)
            videos[name] = {
                "file": f"{name}.mp4",
                "label": label,
                "split": "train" if i < 2 else "test",
                "abnormal_frames": [[6, 12]] if label else [],
            }
    path = folder / "videos.json"
    path.write_text(json.dumps({"fps": 10, "videos": videos}))
    return path


def make_plan(folder, **changes):
    train = {"detector": "mil_rank", "feature_group": "visual", "steps": 2, "segments": 4}
    train |= {"batch_size": 2, "head_widths": (4,), "mtn_channels": 2, "compilation_cache": ""}
    fields = {
        "videos": str(folder / "videos.json"),
        "out": folder / "out",
        "seeds": 1,
        "random_splits": 1,
        "abnormal_train": 2,
        "normal_train": 1,
        "snippet_frames": 4,
        "snippet_stride": 2,
        "train": config.TrainConfig(**gvvad_jax_train),
    }
    return study.Plan(**(fields | changes))


def test_random_splits_are_stratified_and_repeat():
    content = {"videos": {
        f"{label}{i}": {"file": "x.mp4", "label": label, "split": "test"}
        for label in (0, 1) for i in range(8)
    }}  # fmt: skip
    annotated = annotations.from_json(content, "videos.json")
    drawn = [study.random_split(annotated, 3, 2, number) for number in (0, 0, 1)]
    ids = [sorted(v.id for v in split.in_split("train")) for split in drawn]
    assert ids[0] == ids[1] != ids[2]
    assert [sum(i[0] == label for i in ids[0]) for label in "01"] == [2, 3]
    assert len(drawn[0].in_split("test")) == 11
    with pytest.raises(UserError, match="--abnormal_train"):
        study.random_split(annotated, 8, 2, 0)


def test_summary_by_hand():
    def measured(auc, abnormal):
        return {"auc": auc, "auc_abnormal": abnormal}

    rules = [dict.fromkeys(study.FLOW_RULES, measured(0.8, 0.7))] * 2
    found = study.summary({"split": [measured(0.9, 0.6), measured(0.7, 0.8)]}, {"split": rules})
    assert found["split"] == {
        "auc": {"mean": 0.8, "sd": 0.1414},
        "auc_abnormal": {"mean": 0.7, "sd": 0.1414},
        "seeds": 2,
    }
    assert found["baselines"]["flow_p99"]["split"]["auc"] == {"mean": 0.8, "sd": 0.0}
    assert found["difference"]["flow_p99"]["split"]["auc"] == {
        "mean": 0.0, "sd": 0.1414, "wins": 1,
    }  # fmt: skip
    assert "0.800 +- 0.141" in study.table(found)


def test_runs_once_and_resumes(tmp_path, monkeypatch):
    write_videos(tmp_path)
    plan = make_plan(tmp_path)
    found = study.ped2(plan)
    assert found["split"]["seeds"] == 1 and found["random_splits"]["seeds"] == 1
    names = sorted(path.name for path in (tmp_path / "out" / "runs").iterdir())
    assert names == ["random-00", "split-00"]

    again, real = [], training.train
    monkeypatch.setattr(gvvad_jax_train, "train", lambda c: again.append(c.workdir) or real(c))
    (tmp_path / "out" / "runs" / "split-00" / "result.json").unlink()
    assert study.ped2(plan) == found
    assert [pathlib.Path(workdir).name for workdir in again] == ["split-00"]


def test_other_footage_or_decisions_are_no_finished_run(tmp_path):
    write_videos(tmp_path)
    plan = make_plan(tmp_path)
    study.ped2(plan)
    listed = pathlib.Path(plan.videos)
    content = json.loads(listed.read_text())
    abnormal = next(v for v in content["videos"].values() if v.get("abnormal_frames"))
    abnormal["abnormal_frames"][0][0] += 1
    listed.write_text(json.dumps(content))
    with pytest.raises(UserError, match="split-00: expected a run of today's videos, annotations"):
        study.ped2(plan)
    assert len(list((tmp_path / "out").glob("rules-*.npz"))) == 2


def test_a_measure_that_test_videos_do_not_allow_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "_made_of", lambda config: "")
    monkeypatch.setattr(
        gvvad_jax_train, "train", lambda config: {"last": {"auc": 0.5, "auc_abnormal": None}}
    )
    with pytest.raises(UserError, match="allow auc_abnormal: .* not abnormal throughout"):
        study.finished_run(config.TrainConfig(store="S", workdir=str(tmp_path / "w")))


def test_ped2_flags_parse_and_state_their_command():
    text = (pathlib.Path(__file__).parents[1] / "configs" / "ped2.flags").read_text()
    assert "python -m tools.study --study=ped2" in text
    names = [line[2:].split("=")[0] for line in text.splitlines() if line.startswith("--")]
    assert set(names) <= set(config.TrainConfig.__dataclass_fields__) | {
        "snippet_frames", "snippet_stride",
    }  # fmt: skip
    assert np.unique(names).size == len(names)
