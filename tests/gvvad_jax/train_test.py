"""Training runs: what they leave behind, and that killing them changes nothing."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from gvvad_jax import choosing, parallel, probing, scoring, step, train, training
from gvvad_jax.command import Interrupted, UserError, to_flagfile
from gvvad_jax.config import DETECTORS, LAMBDA_MODES
from gvvad_jax.run import checkpoints, folder, inputs
from gvvad_jax.run.log import RunLog
from gvvad_jax.splits import open_splits
from gvvad_jax.store.reader import Store
from tests.support.slow_disk import delay_commits
from tests.support.stores import DIM, TEXT_DIM, make_manifest, write_store

ROOT = pathlib.Path(__file__).parents[2]
MEASURES = {"auc", "ap", "pr_auc", "auc_abnormal", "far", "per_class"}


@pytest.fixture
def config(settings, tmp_path):
    """To be trained in a test of its own."""
    return dataclasses.replace(settings, workdir=str(tmp_path / "run"))


def _log(workdir):
    return [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").open()]


def test_a_run_leaves_everything_behind(trained):
    config, result = trained("lap")
    workdir = pathlib.Path(config.workdir)
    assert json.loads((workdir / "result.json").read_text()) == result.to_json()
    assert set(result.last) >= MEASURES and set(result.best_on_validation) >= MEASURES
    assert "best_on_test" not in result.to_json() and result.workdir == workdir
    assert {"commit", "versions", "stores", "splits", "decisions"} <= set(result.provenance)
    assert len(result.provenance["stores"]) == 1 and result.provenance["synthetic_store"]
    assert result.provenance["rows_verified"]
    steps = [line["step"] for line in _log(workdir) if "loss" in line]
    assert steps == [2, 4, 6, 8, 10, 12]
    assert list((workdir / "tensorboard").glob("events*"))
    model = checkpoints.read_model(workdir)
    assert model.config == config


def test_stopped_and_resumed_equals_uninterrupted(trained, tmp_path):
    config, whole = trained("rtfm")
    part = dataclasses.replace(config, workdir=str(tmp_path / "part"), steps=8)
    training.fit(part)
    resumed = training.fit(dataclasses.replace(part, steps=12))
    assert resumed.last == whole.last
    assert resumed.best_on_validation == whole.best_on_validation
    assert _log(part.workdir) == _log(config.workdir)


@pytest.mark.slow
def test_killed_and_run_again_equals_uninterrupted(config, tmp_path):
    whole = dataclasses.replace(
        config, detector="mil_rank", steps=240, checkpoint_every=40, log_every=8, validate_every=40
    )
    killed = dataclasses.replace(whole, workdir=str(tmp_path / "killed"))
    command = [sys.executable, "-m", "gvvad_jax.train"]
    expected = training.fit(whole)
    flagfile = tmp_path / "killed.flags"
    flagfile.write_text(to_flagfile(killed))
    command.append(f"--flagfile={flagfile}")
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, text=True)
    log = pathlib.Path(killed.workdir) / "metrics.jsonl"
    saved = pathlib.Path(killed.workdir) / "checkpoints" / "last"
    deadline = time.monotonic() + 120
    while not (list(saved.glob("*0")) and log.read_text().count("\n") > 10):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (pathlib.Path(killed.workdir) / "result.json").exists()
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    result = json.loads(done.stdout)
    assert result["last"] == expected.last
    assert result["best_on_validation"] == expected.best_on_validation
    assert _log(killed.workdir) == _log(whole.workdir)


def test_a_workdir_of_other_flags_is_refused(config):
    config = dataclasses.replace(config, detector="mil_rank")
    training.fit(dataclasses.replace(config, steps=2))
    with pytest.raises(UserError, match=r"--l2=0\.005 there, 0\.1 now"):
        training.fit(dataclasses.replace(config, steps=2, l2=0.1))
    with pytest.raises(UserError, match=r"--steps: expected at least the 2 .* found 1"):
        training.fit(dataclasses.replace(config, steps=1))
    assert "--steps=2\n" in (pathlib.Path(config.workdir) / "config.flags").read_text()


def test_other_data_at_the_same_paths_is_refused(config, tmp_path):
    copies = {name: str(tmp_path / name) for name in ("store", "synthetic_keep")}
    shutil.copytree(config.store, copies["store"])
    shutil.copy(config.synthetic_keep, copies["synthetic_keep"])
    config = dataclasses.replace(config, **copies, detector="mil_rank", steps=1)
    training.fit(config)
    workdir, keep = pathlib.Path(config.workdir), pathlib.Path(config.synthetic_keep)
    model, decided = (workdir / "model.json").read_bytes(), keep.read_text()
    keep.write_text(decided.replace("false", "true"))
    with pytest.raises(UserError, match=rf"other content in the decisions \({keep}\)"):
        training.fit(config)
    keep.write_text(decided)
    shutil.rmtree(config.store)
    write_store(pathlib.Path(config.store), {"train": (8, 7), "test": (3, 3)}, seed=5)
    with pytest.raises(UserError, match=rf"in store 1 \({config.store}\).* --workdir"):
        training.fit(config)
    assert (workdir / "model.json").read_bytes() == model


def test_labels_are_part_of_what_a_run_was_begun_with(config, real_store):
    splits, stores = open_splits(config)
    first = inputs.made_of(config, splits, stores, None)
    video = dataclasses.replace(splits.train[0].video, label=1 - splits.train[0].video.label)
    changed = [dataclasses.replace(splits.train[0], video=video), *splits.train[1:]]
    second = inputs.made_of(config, dataclasses.replace(splits, train=changed), stores, None)
    assert {name for name in first if first[name] != second[name]} == {"labels"}


def test_two_runs_at_once_are_refused(config):
    pathlib.Path(config.workdir).mkdir()
    refused = pytest.raises(UserError, match="expected no other process to train there")
    with folder.locked(pathlib.Path(config.workdir)), refused:
        training.fit(config)


def test_an_update_that_is_not_finite_ends_the_run_unsaved(config):
    config = dataclasses.replace(config, detector="mil_rank", learning_rate=1e38, steps=1)
    # Its loss is: the weights were still good when it was taken.
    with pytest.raises(Interrupted, match=r"step 1: .*update_norm inf.* --learning_rate"):
        training.fit(config)
    assert not list(pathlib.Path(config.workdir).glob("checkpoints/*/*"))


def test_an_error_leaves_whole_checkpoints(config, monkeypatch):
    config = dataclasses.replace(config, detector="mil_rank", checkpoint_every=1)
    write = RunLog.training

    def fail_at_3(log, step, *rest):
        write(log, step, *rest)
        if step == 3:
            raise RuntimeError("a fault")

    monkeypatch.setattr(RunLog, "training", fail_at_3)
    delay_commits(monkeypatch, "last")
    with pytest.raises(RuntimeError, match="a fault"):
        training.fit(config)
    assert [p.name for p in pathlib.Path(config.workdir).glob("checkpoints/last/*")] == ["2"]


def test_a_damaged_checkpoint_is_reported(trained, tmp_path):
    config, _ = trained("rtfm")
    workdir = tmp_path / "damaged"
    shutil.copytree(config.workdir, workdir)
    for kind in ("last", "best_on_validation"):
        files = [p for p in (workdir / "checkpoints" / kind).rglob("*") if p.is_file()]
        largest = max(files, key=lambda path: path.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{workdir}/checkpoints/last/12: .* remove .*/last/12 and"):
        scoring.load(workdir)
    with pytest.raises(UserError, match=r"best_on_validation/\d+: .* remove \S*/checkpoints and"):
        scoring.load(workdir, "best_on_validation")
    with pytest.raises(UserError, match=f"{workdir}/checkpoints/last/12: expected a whole"):
        training.fit(dataclasses.replace(config, workdir=str(workdir)))


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_trains_with_synthetic_videos(trained, detector):
    config, result = trained(detector)
    assert 0 <= result.last["auc"] <= 1
    losses = [line for line in _log(config.workdir) if "loss" in line]
    assert losses and all(np.isfinite(line["loss"]) for line in losses)
    assert all(line["lambda"] == 0.5 for line in losses)


def test_arms_and_seeds_of_a_study_share_their_compiled_programs(config, tmp_path):
    """Runs of other numbers, seeds, videos and lengths trace and compile nothing again."""
    base = dataclasses.replace(config, detector="mil_rank", steps=2, validation_share=0.0)
    arms = [
        {"synthetic_store": "", "synthetic_keep": ""},
        {"lambda_value": 0.25, "seed": 1},
        {"learning_rate": 0.1, "l2": 0.0, "real_share": 0.5, "steps": 3},
    ]
    parallel._single_step.cache_clear()
    sizes = []
    for number, arm in enumerate(arms):
        training.fit(dataclasses.replace(base, workdir=str(tmp_path / f"{number}"), **arm))
        compiled = parallel._single_step(base.program), step.make_score_step(base)
        sizes.append([each._cache_size() for each in compiled])
    assert sizes[0][0] == 1 and sizes == sizes[:1] * 3
    assert parallel._single_step.cache_info().currsize == 1


def test_a_long_run_says_so_once_when_it_starts():
    def told(seconds, steps=100):
        # The first step ends after a minute of compiling.
        times = iter([60 + seconds * n for n in range(steps)])
        pace = training.Pace(clock=lambda: next(times))
        return [pace.told(1000 - n) for n in range(1, steps)]

    assert told(1.7) == [None] * 99
    lines = told(3.6)
    assert [n for n, line in enumerate(lines, start=1) if line] == [6]
    assert lines[5].startswith("this run will take another 1.0 hours, 3.6 seconds a step; fewer")


@pytest.mark.parametrize("mode", [mode for mode in LAMBDA_MODES if mode != "fixed"])
def test_every_way_of_setting_lambda_trains(config, mode):
    result = training.fit(
        dataclasses.replace(
            config, detector="mil_rank", lambda_mode=mode, steps=4, log_every=1, log_gradients=True
        )
    )
    assert 0 <= result.last["auc"] <= 1
    losses = [line for line in _log(config.workdir) if "loss" in line]
    assert len(losses) == 4
    needed = {"lambda", "lambda_gradient", "cost_real", "cost_synthetic"}
    needed |= {"grad_norm_real", "grad_norm_synthetic", "grad_cosine"}
    for line in losses:
        assert needed <= set(line) and all(np.isfinite(list(line.values())))
    moved = [line["lambda"] for line in losses]
    assert len(set(moved)) == (1 if mode in ("scheduled", "auto") else 4)


def test_a_run_goes_on_with_the_lambda_that_it_chose(config, monkeypatch, capsys):
    """A set that loses isn't trained on; the choice is made once, printed and in result.json."""
    chosen = []

    def choose(splits, config):
        chosen.append({m.store.path for m in splits.train if m.row.source != "real"})
        by_set = dict.fromkeys(map(str, chosen[-1]), value)
        return choosing.Choice(value=value, by_set=by_set, why="told")

    monkeypatch.setattr(choosing, "choose", choose)
    config = dataclasses.replace(config, detector="mil_rank", lambda_mode="auto", log_every=1)
    for value, steps, workdir in ((0.25, 2, "a"), (1.0, 4, "a"), (0.0, 2, "b")):
        changes = {"workdir": str(pathlib.Path(config.workdir) / workdir), "steps": steps}
        if not value:
            changes["synthetic_share"] = 0.5  # No generated video is left to fill it.
        run = dataclasses.replace(config, **changes)
        result = training.fit(run)
        first = value if workdir == "b" else 0.25
        expected = {"value": first, "by_set": {config.synthetic_store: first}, "why": "told"}
        assert result.to_json()["lambda"] == result.chosen_lambda == expected
        log = [line for line in _log(run.workdir) if "loss" in line]
        assert [line["lambda"] for line in log] == [first] * steps
        assert any(line["cost_synthetic"] > 1e-3 for line in log) == bool(value)
        out = f"; {config.synthetic_store} left out, lambda 0" * (not value)
        assert f"--lambda_mode=auto: lambda {first:g}{out}: told\n" in capsys.readouterr().err
    assert len(chosen) == 2
    assert checkpoints.read_model(run.workdir).config == run


def test_what_training_gains_stands_beside_its_video_auc(trained):
    config, result = trained("mil_rank")
    splits, _ = open_splits(config)
    assert result.probe == probing.baseline(splits, config).to_json()
    assert result.to_json()["probe"].keys() == {"auc", "real_auc"}
    gain = result.last["video_auc"] - result.probe["auc"]
    word = "gains" if gain >= 0 else "loses"
    assert f"training {word} {abs(gain):.3f}" in train.summary(result, config)
    assert "lambda" not in result.to_json()


def test_options_resume_too(config, tmp_path):
    """Mixup, crops, average, warm-up and held-out lambda are functions of seed and step."""
    config = dataclasses.replace(
        config, detector="mil_rank", mixup=0.5, train_crops=1, ema=0.9, clip_norm=1.0,
        warmup_steps=3, lambda_mode="meta", real_share=0.75, abnormal_weight=2.0,
        validation_share=0.15,
    )  # fmt: skip
    whole = training.fit(config)
    part = dataclasses.replace(config, workdir=str(tmp_path / "part"), steps=8)
    training.fit(part)
    assert training.fit(dataclasses.replace(part, steps=12)).last == whole.last
    assert _log(part.workdir) == _log(config.workdir)
    # What scores is the average.
    model, last = scoring.load(config.workdir), checkpoints.Checkpoints(config.workdir)
    state = last.restore("last", jax.eval_shape(lambda: step.init_state(config, DIM, TEXT_DIM)))
    last.close()
    bias = model.variables["params"]["fc3"]["bias"]
    np.testing.assert_array_equal(bias, state.averaged["params"]["fc3"]["bias"])
    assert (bias != state.params["detector"]["fc3"]["bias"]).all()


def _validated_by_one_label(config):
    """The store's list with two normal videos for validation."""
    content = json.loads((pathlib.Path(config.store) / "videos.json").read_text())
    for name in ("train-0-0", "train-0-1"):
        content["videos"][name]["split"] = "validation"
    path = pathlib.Path(config.workdir).with_suffix(".json")
    path.write_text(json.dumps(content))
    return str(path)


def test_validation_videos_of_one_label_choose_nothing(config, capsys):
    path = _validated_by_one_label(config)
    config = dataclasses.replace(config, annotations=path, detector="mil_rank", steps=4)
    result = training.fit(config)
    assert result.best_on_validation is None and result.last
    validated = [line for line in _log(config.workdir) if "validation_loss" in line]
    assert [line["validation_auc"] for line in validated] == [None]
    assert (
        "2 validation videos, all with label 0: they have no AUC, so best_on_validation stays null"
        in capsys.readouterr().err
    )


def test_what_is_accepted_but_odd_is_told(config, tmp_path, capsys):
    unknown = {"frames": "unknown", "stride": "unknown", "pooling": "unknown"}
    manifest = make_manifest(snippet=unknown, fps_policy="unknown")
    store = write_store(tmp_path / "s", {"train": (3, 3), "test": (2, 2)}, manifest=manifest)
    path = store / "videos.json"
    content = json.loads(path.read_text())
    content["videos"]["train-0-0"]["num_frames"] += 40
    path.write_text(json.dumps(content))
    given = {"store": str(store), "detector": "mil_rank", "top_k": 100, "lambda_value": -1.0}
    result = training.fit(
        dataclasses.replace(config, **given, synthetic_store="", synthetic_keep="", steps=1)
    )
    assert result.last["videos"] == 4
    said = capsys.readouterr().err
    assert "--top_k=100 is more than the 6 segments of a training video" in said
    assert f"{store}: 4 videos aligned otherwise than by their snippets" in said
    assert "1 videos differ from their files" in said and "'train-0-0' first" in said
    assert "--lambda_value" not in said  # There is no generated video to weigh.


def test_a_negative_lambda_is_told(config, capsys):
    training.fit(dataclasses.replace(config, detector="mil_rank", lambda_value=-1.0, steps=1))
    assert (
        "--lambda_value=-1 is negative: training raises the generated videos' loss"
        in capsys.readouterr().err
    )


def test_a_folder_of_other_files_is_not_trained_in(config):
    workdir = pathlib.Path(config.workdir)
    (workdir / "checkpoints").mkdir(parents=True)
    (workdir / "result.json").write_text("mine")
    with pytest.raises(UserError, match="--workdir=.* found other files .checkpoints, result.json"):
        training.fit(config)
    assert sorted(path.name for path in workdir.iterdir()) == ["checkpoints", "result.json"]
    assert (workdir / "result.json").read_text() == "mine"


@pytest.mark.parametrize("cache", ["~/.cache/gvvad_jax", "/proc/nothing"])
def test_without_a_folder_for_compiled_programs_none_are_kept(config, cache, monkeypatch, capsys):
    def no_home(*_):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", no_home)
    before = jax.config.jax_compilation_cache_dir
    try:
        changed = dataclasses.replace(config, detector="mil_rank", steps=1, compilation_cache=cache)
        assert training.fit(changed).steps == 1
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    said = [line for line in capsys.readouterr().err.splitlines() if "compil" in line]
    assert len(said) == 1
    assert said[0].startswith(f"--compilation_cache={cache}: no compiled programs are kept (")


def test_early_stop_ends_where_validation_stands_still(config):
    config = dataclasses.replace(
        config, detector="mil_rank", learning_rate=0.0, early_stop=2, validate_every=2, steps=40
    )
    result = training.fit(config)
    # Nothing is better than the first validation at step 2; two more are waited for.
    assert result.steps == 6 and result.best_on_validation["step"] == 2
    assert training.fit(config).steps == 6
    other = dataclasses.replace(config, validation_share=0.0, workdir=config.workdir + "2")
    with pytest.raises(UserError, match="--early_stop: expected validation videos"):
        training.fit(other)
    one_label = dataclasses.replace(other, annotations=_validated_by_one_label(other))
    with pytest.raises(UserError, match="of both labels, found those of one label"):
        training.fit(one_label)
    # A refused run hasn't claimed its folder: the mended command takes it.
    assert training.fit(dataclasses.replace(other, early_stop=0, steps=2)).steps == 2


def test_a_run_on_a_schedule_cannot_be_prolonged(config):
    config = dataclasses.replace(
        config, detector="mil_rank", steps=2, learning_rate_schedule="cosine"
    )
    training.fit(config)
    with pytest.raises(UserError, match="--steps=2 there, 4 now"):
        training.fit(dataclasses.replace(config, steps=4))


def test_best_on_test_is_there_when_asked_for(config):
    config = dataclasses.replace(config, detector="mil_rank", best_on_test=True)
    result = training.fit(config)
    tested = [line["test_auc"] for line in _log(config.workdir) if "test_auc" in line]
    assert result.best_on_test["auc"] == max(tested)


def test_the_best_checkpoint_is_the_best_on_validation(trained):
    config, result = trained("rtfm")
    validated = [line for line in _log(config.workdir) if "validation_auc" in line]
    best = max(validated, key=lambda line: (line["validation_auc"], -line["validation_loss"]))
    assert result.best_on_validation["step"] == best["step"]


def test_small_data_works(config, tmp_path):
    """Fewer videos than the batch, a video shorter than k, no validation split."""
    write_store(tmp_path / "s", {"train": (2, 1), "test": (1, 1)}, lengths=(1, 2))
    given = {"store": str(tmp_path / "s"), "synthetic_store": "", "synthetic_keep": ""}
    small = dataclasses.replace(config, **given, segments=2, batch_size=4, steps=3)
    result = training.fit(small)
    assert result.best_on_validation is None
    assert result.last["videos"] == 2


def test_a_missing_bank_is_reported(config, tmp_path):
    write_store(tmp_path / "s", {"train": (3, 3)})
    (tmp_path / "s" / "bank.npy").unlink()
    with pytest.raises(UserError, match=r"bank.npy: expected LAP's .* --detector=tevad"):
        training.fit(
            dataclasses.replace(
                config, store=str(tmp_path / "s"), synthetic_store="", synthetic_keep=""
            )
        )


def test_a_bank_of_another_text_encoder_is_refused(config, tmp_path):
    write_store(tmp_path / "s", {"train": (3, 3)})
    changed = dataclasses.replace(
        config, store=str(tmp_path / "s"), synthetic_store="", synthetic_keep=""
    )
    (tmp_path / "s" / "bank.json").write_text('{"encoder": "other words"}')
    with pytest.raises(UserError, match=r"bank.json: expected a bank embedded by 'words'"):
        training.fit(changed)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (np.zeros((0, TEXT_DIM)), rf"at least one row .* found shape \[0, {TEXT_DIM}\]"),
        (np.full((2, TEXT_DIM), np.nan), "finite rows, found NaN"),
        (None, "LAP's anomaly-prompt bank"),
    ],
    ids=["no rows", "not finite", "no array"],
)
def test_a_bank_of_no_use_is_reported(tmp_path, content, expected):
    opened = Store(write_store(tmp_path / "s", {"train": (1, 1)}))
    path = tmp_path / "s" / "bank.npy"
    path.write_bytes(b"")
    if content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=rf"bank\.npy: expected {expected}"):
        inputs.read_bank(opened)


def test_the_commit_is_that_of_this_code_or_unknown(tmp_path, monkeypatch):
    """Not that of a repository which an environment with this package lies in."""
    file = tmp_path / ".venv" / "train.py"
    file.parent.mkdir()
    file.touch()
    (tmp_path / ".gitignore").write_text(".venv\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "other"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(training, "__file__", str(file))
    assert training._commit() == "unknown"
    subprocess.run([*git, "add", "-f", str(file)], check=True)
    assert training._commit().endswith("-dirty")
