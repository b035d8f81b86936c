"""The pipeline: stages, resuming and errors."""

import dataclasses
import json
import os
import pathlib
import subprocess

import pytest

from generation import pipeline, stages
from generation.encode.recipe import EncodeOptions
from generation.filter.deciding import FilterOptions
from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store, require_agreement
from tests.support import killing
from tests.support.started import python

SMALL = (
    "--train_pairs=1", "--test_pairs=1", "--generated_pairs=2", "--random_drops=2",
    "--fps_policy=5",
)  # fmt: skip


def command(out, *more):
    return [*python(), "-m", "generation.pipeline", *SMALL, f"--out={out}", *more]


def outcome(paths):
    """Returns everything that must not depend on kills."""
    files = [paths["decisions"], *paths["random_decisions"], paths["prompts"]]
    texts = [pathlib.Path(path).read_text(encoding="utf-8") for path in files]
    stores = [Store(paths[name]) for name in ("real_store", "synthetic_store")]
    return [opened.digest() for opened in stores], texts


def run(out, *more):
    done = subprocess.run(command(out, *more), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("pipeline") / "whole")


def test_stages_run_in_order_and_leave_their_results(whole):
    paths, progress = whole
    stages = [line for line in progress.splitlines() if line.startswith("pipeline: ")]
    names = ["footage", "descriptions", "generated videos", "stores", "filter"]
    assert stages == [f"pipeline: {name}" for name in names]
    real, synthetic = Store(paths["real_store"]), Store(paths["synthetic_store"])
    assert (len(real.rows), len(synthetic.rows)) == (4, 4)
    assert {row.source for row in synthetic.rows.values()} == {"synthetic"}
    assert all(row.description for row in synthetic.rows.values())
    require_agreement([real, synthetic])

    def dropped(path):
        with open(path, encoding="utf-8") as file:
            decisions = [json.loads(line) for line in file]
        labels = [synthetic.videos.videos[d["id"]].label for d in decisions if not d["keep"]]
        return sorted(labels)

    # The control drops as many videos of each label as the filter, at least one.
    assert len(dropped(paths["decisions"])) == paths["filter"]["dropped"] > 0
    assert len(paths["random_decisions"]) == 2
    for path in paths["random_decisions"]:
        assert dropped(path) == dropped(paths["decisions"])


@pytest.mark.slow
def test_a_run_killed_at_any_stage_ends_the_same(whole, tmp_path):
    out = tmp_path / "broken"
    for sign in ("footage/clips/*.json", "generated/clips/*.json", "synthetic/parts/*.npy"):
        killing.run(command(out), sign)
        assert not (out / "decisions.jsonl").exists()
    assert outcome(run(out)[0]) == outcome(whole[0])


def test_other_settings_in_the_same_folder_are_refused(whole):
    out = os.path.dirname(whole[0]["prompts"])
    failed = subprocess.run(command(out, "--data_seed=1"), capture_output=True, text=True)
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1
    assert "--data_seed=0 there, 1 now" in failed.stderr


def test_user_errors(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--train_pairs: expected at least 1, found 0"):
        pipeline.PipelinePlan(out=str(tmp_path), train_pairs=0)
    with pytest.raises(UserError, match="--preset: expected one of none, light, strict"):
        FilterOptions(preset="harsh")
    plan = pipeline.PipelinePlan(
        out=str(tmp_path / "p"), videos=str(tmp_path / "none.json"), generated_pairs=1
    )
    with pytest.raises(UserError, match=r"none\.json"):
        pipeline.run(pipeline.PipelineSettings(plan=plan))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="WORLD_SIZE"):
        pipeline.run(pipeline.PipelineSettings(plan=plan))


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("rows", {"crops": "ten"}, "--crops"),
        ("rows", {"text_encoder": "word2vec"}, "--text_encoder"),
        ("rows", {"encoder": "clip-l14", "weights": "/none"}, "/none"),
        ("diffusers", {"generator": "cogvideox-9b"}, "--generator"),
        ("chat", {"chat_model": ""}, "--chat_model"),
        ("plan", {"synthetic_captioner": "description"}, "--synthetic_captioner"),
        ("plan", {"like": "/none"}, "/none: expected a feature store"),
        ("plan", {"classes": "Arson", "generated_pairs": 481}, "expected 1 to 480 pairs"),
    ],
)
def test_errors_in_late_stages_options_are_raised_first(tmp_path, section, options, message):
    settings = pipeline.PipelineSettings(
        plan=pipeline.PipelinePlan(
            out=str(tmp_path / "p"),
            writer="chat" if section == "chat" else "grammar",
            backend="diffusers" if section == "diffusers" else "world",
        )
    )
    if "synthetic_captioner" in options:
        settings = dataclasses.replace(settings, rows=EncodeOptions(captioner="none"))
    fields = vars(getattr(settings, section)) | options
    with pytest.raises(UserError, match=message):
        pipeline.run(
            dataclasses.replace(settings, **{section: pipeline.SECTIONS[section](**fields)})
        )
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("rows", {"captioner": "description"}, "--captioner: .* give it as --synthetic_captioner"),
        ("diffusers", {"height": 64}, "--height: expected --width"),
        ("like", {"model": "me/mine"}, "--like: expected a published model"),
        ("videos", {"file": "gone.mp4"}, "found 1 of them missing"),
        ("videos", {"file": "../a.mp4"}, "inside the json's folder"),
        ("videos", {"split": "test"}, "--preset=strict to compare with, found none"),
    ],
)
def test_errors_in_late_stages_inputs_are_raised_first(tmp_path, section, options, message):
    (tmp_path / "a.mp4").write_bytes(b"not looked at")
    entry = {"file": "a.mp4", "label": 0, "split": "train"}
    settings = pipeline.PipelineSettings(plan=pipeline.PipelinePlan(out=str(tmp_path / "p")))
    if section == "videos":
        listed = tmp_path / "videos.json"
        listed.write_text(json.dumps({"videos": {"a": entry | options}}))
        plan = dataclasses.replace(settings.plan, videos=str(listed))
        settings = dataclasses.replace(settings, plan=plan)
    elif section == "like":
        own = str(tmp_path / "p" / "real")
        settings = dataclasses.replace(
            settings,
            plan=dataclasses.replace(settings.plan, like=own, backend="diffusers"),
            diffusers=dataclasses.replace(settings.diffusers, **options),
        )
    else:
        changed = dataclasses.replace(getattr(settings, section), **options)
        settings = dataclasses.replace(settings, **{section: changed})
    with pytest.raises(UserError, match=message):
        pipeline.run(settings)
    assert not (tmp_path / "p").exists()


def test_a_stage_accepts_other_settings_until_it_has_results(tmp_path):
    settings = pipeline.PipelineSettings()
    stages.begin("footage", settings, tmp_path)
    other = dataclasses.replace(settings, rows=EncodeOptions(snippet_frames=8))
    for stage, result in (
        ("stores", "real/parts/a.json"),
        ("stores", "synthetic/shard-00000.jsonl"),
    ):
        stages.begin(stage, settings, tmp_path)
        stages.begin(stage, other, tmp_path)
        path = tmp_path / result
        path.parent.mkdir(parents=True)
        path.touch()
        with pytest.raises(UserError, match="--snippet_frames=8 there, 16 now"):
            stages.begin(stage, settings, tmp_path)
        path.unlink()


def test_classes_and_the_real_videos_rate_and_length(tmp_path):
    out = tmp_path / "p"
    flags = ("--classes=Fighting", f"--like={out / 'real'}", "--generated_pairs=1")
    paths, progress = run(out, *flags)
    real, synthetic = Store(paths["real_store"]), Store(paths["synthetic_store"])
    assert sorted(synthetic.rows) == ["Fighting-0000-abnormal", "Fighting-0000-normal"]
    lengths = [row.num_frames for row in real.rows.values()
               if real.videos.videos[row.id].split == "train"]  # fmt: skip
    # Twins of footage are equally long, at 10 frames a second.
    assert len(set(lengths)) == 1
    assert {(row.num_frames, row.fps) for row in synthetic.rows.values()} == {(lengths[0], 10.0)}
    lines = progress.splitlines()
    chosen = [line for line in lines if line.startswith("--like: ")]
    assert len(chosen) == 1 and f"{lengths[0]} frames at 10 fps; the median of 2 real" in chosen[0]
    stages_run = [line for line in lines if line.startswith("pipeline: ")]
    assert stages_run.index("pipeline: stores") < stages_run.index("pipeline: generated videos")
    # The set of classes must stay; the numbers must, whoever gives them.
    failed = subprocess.run(
        command(out, *flags, "--classes=Fighting,Arson"), capture_output=True, text=True
    )
    assert failed.returncode == 2
    assert "--classes=Fighting there, Arson,Fighting now" in failed.stderr.splitlines()[-1]
    given = ("--fps=10", f"--num_frames={lengths[0]}")
    again, progress = run(
        out, "--classes= Fighting,Fighting", "--generated_pairs=1", "--keep_abnormal=0", *given
    )
    assert again["synthetic_store"] == paths["synthetic_store"]
    # The filter's flags may change; where it keeps nothing of a label, it says so.
    warning = (
        "the filter keeps none of 1 abnormal videos: --keep_abnormal=0 of them is less than one; "
        "give a larger share"
    )
    assert again["filter"]["warnings"] == [warning] and warning in progress.splitlines()


def test_a_flag_that_a_folder_does_not_know_yet_had_its_default(tmp_path):
    settings = pipeline.PipelineSettings()
    stages.begin("descriptions", settings, tmp_path)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["descriptions"].pop("classes") == ""
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "prompts.jsonl").touch()
    stages.begin("descriptions", settings, tmp_path)
    fights = dataclasses.replace(settings.plan, classes="Fighting")
    plan["descriptions"].pop("classes", None)
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="--classes= there, Fighting now"):
        stages.begin("descriptions", dataclasses.replace(settings, plan=fights), tmp_path)


def test_the_pipeline_goes_on_without_videos_that_failed(tmp_path, monkeypatch):
    from generation.videos.world_backend import WorldBackend

    render = WorldBackend._render
    broken = {"Arrest-0000-normal"}

    def call(self, descriptions):
        return [
            RuntimeError("out of paint") if one.id in broken else render(self, one)
            for one in descriptions
        ]

    monkeypatch.setattr(WorldBackend, "__call__", call)
    plan = pipeline.PipelinePlan(
        out=str(tmp_path / "p"), train_pairs=1, test_pairs=1, generated_pairs=2, random_drops=0
    )
    settings = pipeline.PipelineSettings(plan=plan, rows=EncodeOptions(fps_policy="5"))
    results = pipeline.run(settings)
    assert results["failed"] == {
        "generated videos": 1,
        "real videos, not encoded": 0,
        "generated videos, not encoded": 0,
    }
    assert len(Store(results["synthetic_store"]).rows) == 3
    monkeypatch.setattr(pipeline, "settings_from_flags", lambda: settings)
    with pytest.raises(SystemExit) as caught:
        pipeline.main([])
    assert caught.value.code == 3
    # Failures that are allowed don't count.
    allowed = dataclasses.replace(settings, plan=dataclasses.replace(plan, allow_missing=1))
    assert not any(pipeline.run(allowed)["failed"].values())
    broken.clear()
    results = pipeline.run(settings)
    assert not any(results["failed"].values()) and len(Store(results["synthetic_store"]).rows) == 4


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "plan.json").write_text("mine")
    plan = pipeline.PipelinePlan(out=str(tmp_path))
    with pytest.raises(UserError, match="found other files .plan.json."):
        pipeline.run(pipeline.PipelineSettings(plan=plan))
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_a_moved_model_is_the_same_setting(tmp_path):
    for field in ("model", "first_frames"):
        values = []
        for name in ("a", "b"):
            plan = pipeline.PipelinePlan(out=str(tmp_path), backend="diffusers")
            model = dataclasses.replace(pipeline.DiffusersOptions(), **{field: name})
            settings = pipeline.PipelineSettings(plan=plan, diffusers=model)
            values.append(stages.settled_values("generated videos", settings))
        assert values[0] == values[1] and values[0]["backend"] == "diffusers"
