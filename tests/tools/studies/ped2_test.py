"""The ped2 study: random splits, resuming run by run, and its summary."""

import json
import pathlib

import numpy as np
import pytest

from gvvad_jax import config, training
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from tests.support.textures import write_videos
from tools.studies import ped2, tables


def small_study(folder):
    """A study and its training flags."""
    train = {"detector": "mil_rank", "feature_group": "visual", "steps": 2, "segments": 4}
    train |= {"batch_size": 2, "head_widths": (4,), "mtn_channels": 2, "compilation_cache": ""}
    fields = {
        "videos": str(folder / "videos.json"),
        "out": str(folder / "out"),
        "seeds": 1,
        "random_splits": 1,
        "abnormal_train": 2,
        "normal_train": 1,
        "snippet_frames": 4,
        "snippet_stride": 2,
    }
    train["allow_shared_rows"] = True
    return ped2.Ped2Study(**fields), config.TrainConfig(**train)


def test_random_splits_are_stratified_and_repeat():
    content = {"videos": {
        f"{label}{i}": {"file": "x.mp4", "label": label, "split": "test"}
        for label in (0, 1) for i in range(8)
    }}  # fmt: skip
    annotated = annotations.from_json(content, "videos.json")
    drawn = [ped2.random_split(annotated, 3, 2, number) for number in (0, 0, 1)]
    ids = [sorted(v.id for v in split.in_split("train")) for split in drawn]
    assert ids[0] == ids[1] != ids[2]
    assert [sum(i[0] == label for i in ids[0]) for label in "01"] == [2, 3]
    assert len(drawn[0].in_split("test")) == 11
    with pytest.raises(UserError, match="--abnormal_train"):
        ped2.random_split(annotated, 8, 2, 0)


def test_random_splits_divide_no_group():
    content = {"videos": {
        f"{label}{i}": {"file": "x.mp4", "label": label, "split": "test", "group": f"c{i % 4}"}
        for label in (0, 1) for i in range(8)
    }}  # fmt: skip
    annotated = annotations.from_json(content, "videos.json")
    for number in range(5):
        # A camera has two videos of each label.
        split = ped2.random_split(annotated, 4, 4, number)
        groups = [{v.group for v in split.in_split(name)} for name in ("train", "test")]
        assert len(groups[0]) == 2 and not groups[0] & groups[1]
        assert [sum(v.label == n for v in split.in_split("train")) for n in (0, 1)] == [4, 4]
    with pytest.raises(UserError, match="expected groups that make up 3 normal and 4 abnormal"):
        ped2.random_split(annotated, 4, 3, 0)


def test_summary_by_hand():
    def measured(auc, abnormal):
        return {"auc": auc, "auc_abnormal": abnormal}

    rules = [dict.fromkeys(ped2.FLOW_RULES, measured(0.8, 0.7))] * 2
    result = ped2.summary({"split": [measured(0.9, 0.6), measured(0.7, 0.8)]}, {"split": rules})
    assert result["split"] == {
        "auc": {"mean": 0.8, "sd": 0.1414},
        "auc_abnormal": {"mean": 0.7, "sd": 0.1414},
        "seeds": 2,
    }
    assert result["baselines"]["flow_p99"]["split"]["auc"] == {"mean": 0.8, "sd": 0.0}
    # Differences 0.1 and -0.1: deviation 0.1414, half the interval 12.706 * 0.1414 / sqrt(2).
    assert result["difference"]["flow_p99"]["split"]["auc"] == {
        "mean": 0.0, "sd": 0.1414, "wins": 1,
        "interval": [-1.2706, 1.2706], "p_value": 1.0, "smallest_p_value": 0.5,
    }  # fmt: skip
    assert "0.800 +- 0.141" in tables.ped2_table(result)


def test_runs_once_and_resumes(tmp_path, monkeypatch):
    write_videos(tmp_path)
    study, flags = small_study(tmp_path)
    result = ped2.run(study, flags)
    assert result["split"]["seeds"] == 1 and result["random_splits"]["seeds"] == 1
    runs = (tmp_path / "out" / "runs").iterdir()
    assert sorted(path.name for path in runs if path.is_dir()) == ["random-00", "split-00"]

    again, real = [], training.fit
    monkeypatch.setattr(training, "fit", lambda c: again.append(c.workdir) or real(c))
    (tmp_path / "out" / "runs" / "split-00" / "result.json").unlink()
    assert ped2.run(study, flags) == result
    assert [pathlib.Path(workdir).name for workdir in again] == ["split-00"]


def test_other_footage_or_decisions_are_no_finished_run(tmp_path):
    write_videos(tmp_path)
    study, flags = small_study(tmp_path)
    ped2.run(study, flags)
    listed = pathlib.Path(study.videos)
    content = json.loads(listed.read_text())
    abnormal = next(v for v in content["videos"].values() if v.get("abnormal_frames"))
    abnormal["abnormal_frames"][0][0] += 1
    listed.write_text(json.dumps(content))
    with pytest.raises(UserError, match="split-00: expected a run of these videos, annotations"):
        ped2.run(study, flags)
    assert len(list((tmp_path / "out").glob("rules/*"))) == 2


def test_ped2_flags_parse_and_state_their_command():
    text = (pathlib.Path(__file__).parents[3] / "configs" / "ped2.flags").read_text()
    assert "python -m tools.study --study=ped2" in text
    names = [line[2:].split("=")[0] for line in text.splitlines() if line.startswith("--")]
    assert set(names) <= set(config.TrainConfig.__dataclass_fields__) | {
        "snippet_frames", "snippet_stride",
    }  # fmt: skip
    assert np.unique(names).size == len(names)
