"""Draws of a study: nested sets of real videos, and clips that lie in a folder."""

import dataclasses
import shutil

import pytest

from generation import pipeline
from generation.filter import deciding
from gvvad_jax import splits
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations, folders
from gvvad_jax.store.reader import Store
from tests.support.textures import write_videos
from tools.studies import draws, grid
from tools.studies.grid import Cell


def ids(listed, split="train", label=None):
    return {v.id for v in listed.in_split(split) if label in (None, v.label)}


def test_smaller_sets_are_parts_of_larger_ones_and_draws_and_seeds_differ():
    content = {
        f"{split}-{label}{i}": {"file": "x.mp4", "label": label, "split": split}
        for split in ("train", "test") for label in (0, 1) for i in range(20)
    }  # fmt: skip
    draw = draws.Draw("S", annotations.from_json({"videos": content}, "videos.json"), {})
    cell = Cell("world", 0, 0, 10, 3, "", "", "real only", "rtfm")

    def subset(**changes):
        return draws.subset(draw, dataclasses.replace(cell, **changes))

    three = subset()
    assert len(ids(three, label=0)) == 10 and len(ids(three, label=1)) == 3
    assert len(ids(three, "test")) == 40
    six, twelve = subset(abnormal=6), subset(abnormal=12)
    assert ids(three, label=1) < ids(six, label=1) < ids(twelve, label=1)
    assert ids(three, label=0) == ids(twelve, label=0) > ids(subset(normal=4), label=0)
    assert ids(subset(arm="all", detector="lap", gap="2")) == ids(three)
    assert ids(subset(seed=1)) != ids(three) != ids(subset(draw=1))
    with pytest.raises(UserError, match="--counts: expected at most the 20 abnormal .* found 21"):
        subset(abnormal=21)


def real_study(tmp_path, **fields):
    """A grid on six small real videos, two of each label for training."""
    (tmp_path / "small").mkdir(exist_ok=True)
    (tmp_path / "out").mkdir(exist_ok=True)
    return grid.GridStudy(
        csv=str(tmp_path / "t.csv"), out=str(tmp_path / "out"), footage="videos", counts="1+2",
        videos=str(write_videos(tmp_path / "small")), snippet_frames=4, snippet_stride=2, **fields,
    )  # fmt: skip


def test_a_split_of_real_videos_and_a_folder_of_clips(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    write_videos(folder, prefix="c")
    (folder / "readme.txt").write_text("no video")
    study = real_study(tmp_path, clips=str(folder), abnormal_clips="cb0,cb1,cb2")
    made = [draws.prepare(study, number, True) for number in (0, 0, 3)]
    assert made[0].annotated == made[1].annotated != made[2].annotated
    assert made[0].store == made[2].store == str(tmp_path / "out" / "stores" / "small-4x2")
    assert len(ids(made[0].annotated)) == 3 and len(ids(made[0].annotated, "test")) == 3
    (clips,) = made[0].clips.values()
    generated = Store(clips.store)
    assert {row.source for row in generated.rows.values()} == {"synthetic"}
    labels = {i: video.label for i, video in generated.videos.videos.items()}
    assert labels == {f"clip-c{ab}{i}": int(ab == "b") for ab in "ab" for i in range(3)}
    decided = splits.read_decisions(clips.decisions("filter", 0))
    assert set(decided) == set(labels)
    for seed in range(5):
        at_random = splits.read_decisions(clips.decisions("random", seed))
        assert sum(at_random.values()) == sum(decided.values())
    assert clips.decisions("all", 0) == ""
    assert draws.prepare(study, 0, False).clips == {}
    with pytest.raises(UserError, match="--abnormal_clips: expected names of videos .* 'cb9'"):
        draws.prepare(real_study(tmp_path, clips=str(folder), abnormal_clips="cb9"), 0, True)
    with pytest.raises(UserError, match="--abnormal_clips: expected some of the 6 videos"):
        draws.prepare(real_study(tmp_path, clips=str(folder)), 0, True)


def test_clips_of_a_folder_that_moved_are_linked_anew(tmp_path):
    for name in ("a", "b"):
        folder = tmp_path / name / "samples"
        folder.mkdir(parents=True)
        for clip in ("x", "y"):
            (folder / f"{clip}.mp4").write_text(name)
        study = real_study(tmp_path, clips=str(folder), abnormal_clips="x")
        listed = draws._list_of_clips(study)
        assert (listed.parent / "x.mp4").read_text() == name
    shutil.rmtree(folder)
    (tmp_path / "a" / "samples").rename(folder)
    draws._list_of_clips(study)
    shutil.move(folder, tmp_path / "samples")
    draws._list_of_clips(dataclasses.replace(study, clips=str(tmp_path / "samples")))
    assert (listed.parent / "x.mp4").read_text() == "a"


def test_the_filter_compares_with_the_training_videos_of_the_split(tmp_path, monkeypatch):
    folder = tmp_path / "samples"
    folder.mkdir()
    write_videos(folder, prefix="c")
    study = real_study(tmp_path, clips=str(folder), abnormal_clips="cb0")
    compared, decide = [], deciding.decide
    monkeypatch.setattr(
        deciding, "decide", lambda e, o: compared.append(len(e.real["sharpness"])) or decide(e, o)
    )
    draws.prepare(study, 0, True)
    assert compared == [3]


def test_two_studies_that_begin_together_make_a_world_once(tmp_path, monkeypatch):
    real, study = tmp_path / "real", real_study(tmp_path)
    real.mkdir()
    world = tmp_path / "out" / "worlds" / "003-small-4x2"
    (world / ".real.partial").mkdir(parents=True)  # Of a study that was killed.

    def copied(*paths):
        with pytest.raises(UserError, match="busy"), folders.locked(world / ".study.lock", "busy"):
            pass
        copytree(*paths)

    copytree = shutil.copytree
    monkeypatch.setattr(shutil, "copytree", copied)
    monkeypatch.setattr(pipeline, "run", lambda settings: {})
    assert draws._world(study, 3, "1", str(real)) == {}
    assert sorted(path.name for path in world.iterdir()) == [".gvvad", ".study.lock", "real"]


def test_every_gap_takes_the_footage_and_the_store_of_the_first(tmp_path, monkeypatch):
    plans = []

    def run(settings):
        plan = settings.plan
        plans.append((plan.out.rpartition("/")[2], plan.videos, plan.domain_gap, plan.data_seed))
        world = tmp_path / "out" / "worlds" / "007"
        (world / "footage").mkdir(parents=True, exist_ok=True)
        (world / "real").mkdir(exist_ok=True)
        (world / "real" / "manifest.json").write_text("{}")
        write_videos(world / "footage")
        names = {"synthetic_store": f"{plan.out}/synthetic", "decisions": f"{plan.out}/d.jsonl"}
        return names | {
            "random_decisions": [f"{plan.out}/r.jsonl"],
            "real_store": str(world / "real"),
            "real_videos": str(world / "footage" / "videos.json"),
        }

    monkeypatch.setattr(pipeline, "run", run)
    study = grid.GridStudy(csv="t.csv", out=str(tmp_path / "out"), gaps="0,1")
    draw = draws.prepare(study, 7, True)
    worlds = tmp_path / "out" / "worlds"
    assert plans == [
        ("007", "", 1.0, 70),
        ("007-gap0", str(worlds / "007" / "footage" / "videos.json"), 0.0, 70),
        ("007", "", 1.0, 70),
    ]
    assert (worlds / "007-gap0" / "real" / "manifest.json").exists()
    assert draw.clips["0"].store == str(worlds / "007-gap0" / "synthetic")
    assert draw.clips["1"].decisions("filter", 3) == str(worlds / "007" / "d.jsonl")
