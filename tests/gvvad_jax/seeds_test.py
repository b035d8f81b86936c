"""Several seeds of a run: folders, summary, resuming, failures."""

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys

import pytest

from gvvad_jax import seeds
from gvvad_jax.command import UserError, to_flagfile

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def config(settings, tmp_path):
    return dataclasses.replace(
        settings, detector="mil_rank", steps=4, seed=3, workdir=str(tmp_path / "w")
    )


def test_the_command_trains_seeds_in_processes_and_resumes_them(config, tmp_path):
    (tmp_path / "all.flags").write_text(to_flagfile(config))
    command = [sys.executable, "-m", "gvvad_jax.train", f"--flagfile={tmp_path / 'all.flags'}"]
    done = subprocess.run([*command, "--seeds=2"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    root = pathlib.Path(config.workdir)
    assert json.loads((root / "summary.json").read_text()) == summary
    assert summary["seeds"] == [3, 4] and summary["failed"] == {}
    results = {n: json.loads((root / f"seed_{n}" / "result.json").read_text()) for n in (3, 4)}
    aucs = [results[n]["last"]["auc"] for n in (3, 4)]
    spread = summary["last"]["auc"]
    assert spread["of"] == {"3": aucs[0], "4": aucs[1]}
    assert spread["mean"] == pytest.approx(statistics.fmean(aucs))
    assert spread["std"] == pytest.approx(statistics.stdev(aucs))
    assert "2 of 2 done" in done.stderr and "runs an hour" in done.stderr
    # A seed more: the others are there.
    before = (root / "seed_3" / "metrics.jsonl").read_bytes()
    more = seeds.fit(config, seeds.SeedOptions(seeds=3, seeds_at_once=3))
    assert more["seeds"] == [3, 4, 5] and more["last"]["auc"]["of"]["3"] == aucs[0]
    assert (root / "seed_3" / "metrics.jsonl").read_bytes() == before


def test_a_seed_that_fails_is_named_and_leaves_the_others(config, capsys):
    config = dataclasses.replace(config, learning_rate=1e38)
    found = seeds.fit(config, seeds.SeedOptions(seeds=2, seeds_at_once=2))
    assert found["seeds"] == [] and set(found["failed"]) == {"3", "4"}
    assert "seed 3: step 1: expected a finite loss" in capsys.readouterr().err


def test_seeds_need_a_folder_of_their_own_and_one_process(config, tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.txt").write_text("")
    with pytest.raises(UserError, match="--workdir=.*expected an absent or empty folder"):
        seeds.fit(config, seeds.SeedOptions(seeds=2))
    ranks = dataclasses.replace(config, parallel="mesh", processes="ranks")
    with pytest.raises(UserError, match="--seeds: expected --processes=one"):
        seeds.fit(ranks, seeds.SeedOptions(seeds=2))


def test_a_summary_counts_what_was_measured():
    results = {
        0: {"last": {"auc": 0.5, "ap": None, "per_class": {}}, "best_on_validation": None},
        1: {"last": {"auc": 0.7, "ap": 0.25}, "best_on_validation": {"auc": 0.75, "step": 8}},
    }
    found = seeds.summary(results)
    assert found["last"]["auc"] == {
        "mean": pytest.approx(0.6), "std": pytest.approx(0.1 * 2**0.5), "min": 0.5, "max": 0.7,
        "of": {"0": 0.5, "1": 0.7},
    }  # fmt: skip
    assert found["last"]["ap"]["std"] is None and found["last"]["ap"]["of"] == {"1": 0.25}
    assert found["best_on_validation"]["auc"]["mean"] == 0.75 and "per_class" not in found["last"]
    assert "last: auc 0.600 +- 0.141 (0.500 to 0.700, 2 seeds)" in seeds.describe(found)
    # Only where it was asked for.
    assert list(found) == ["seeds", "last", "best_on_validation"]
    results[1]["best_on_test"] = {"auc": 0.8, "step": 4}
    assert "best_on_test: auc 0.800 (" in seeds.describe(seeds.summary(results))
    # Test videos with video labels alone.
    labelled = seeds.summary({0: {"last": {"auc": None, "video_auc": 0.75}}})
    assert seeds.describe(labelled) == "  last: video_auc 0.750 (0.750 to 0.750, 1 seeds)"
