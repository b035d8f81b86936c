"""The demo on very little: its arms, its table, its page, and that it resumes."""

import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

import pytest

from gvvad_jax.splits import read_decisions

ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--train_pairs=2", "--test_pairs=2", "--generated_pairs=4", "--fps_policy=4", "--seeds=2",
    "--random_drops=2", "--detector=mil_rank", "--segments=8", "--batch_size=3", "--steps=3",
    "--mtn_channels=4", "--head_widths=8", "--data_seed=1", "--validation_share=0",
)  # fmt: skip


def run(out):
    return subprocess.run(
        [sys.executable, "-m", "tools.demo", *SMALL, f"--out={out}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout, json.loads((out / "demo.json").read_text())


@pytest.mark.slow
def test_every_arm_has_a_spread_and_a_paired_difference(demo):
    _, _, result = demo
    assert list(result["arms"]) == [
        "real only",
        "+ generated, lambda 1",
        "+ generated, lambda 0.5",
        "+ filtered, lambda 0.5",
        "+ dropped at random, lambda 0.5",
    ]
    base = result["arms"]["real only"]["runs"]
    for arm in result["arms"].values():
        aucs = [run["auc"] for run in arm["runs"]]
        assert len(aucs) == 2
        assert arm["auc"]["mean"] == pytest.approx(sum(aucs) / 2, abs=1e-4)
        differences = [a - b["auc"] for a, b in zip(aucs, base, strict=True)]
        assert arm["difference"]["auc"]["mean"] == pytest.approx(sum(differences) / 2, abs=1e-4)
        assert arm["difference"]["auc"]["wins"] == sum(d > 0 for d in differences)
    assert result["rules"]["oracle"]["auc_abnormal"] == 0.5


@pytest.mark.slow
def test_the_arms_train_on_what_they_say(demo):
    out, _, result = demo
    decisions = read_decisions(str(out / "decisions.jsonl"))
    dropped = sum(not keep for keep in decisions.values())
    assert dropped == result["filter"]["dropped"] > 0
    flags = {path.parent.name: path.read_text() for path in (out / "runs").glob("*-0/config.flags")}
    assert "--synthetic_store=\n" in flags["0-real-0"]
    assert "--lambda_value=1.0\n" in flags["1-all-0"]
    assert "--lambda_value=0.5\n" in flags["2-all-0"] and "--synthetic_keep=\n" in flags["2-all-0"]
    assert "decisions.jsonl" in flags["3-filter-0"] and "random-0" in flags["4-random-0"]


@pytest.mark.slow
def test_table_and_page_say_that_the_footage_is_rendered(demo):
    out, printed, result = demo
    assert "RENDERED" in printed
    for name in (*result["arms"], "flow_p99", "oracle"):
        assert name in printed
    page = (out / "demo.html").read_text()
    assert "RENDERED" in page and "http" not in page.replace("http-equiv", "")
    # Well formed, with a curve for each of the two arms in each plot.
    body = page.split("<body>")[1].split("</body>")[0]
    tree = xml.etree.ElementTree.fromstring(f"<body>{body}</body>")
    plots = list(tree.iter("svg"))
    assert len(plots) == 4 and all(len(list(p.iter("polyline"))) == 2 for p in plots)
    assert sum(p.find("rect") is not None for p in plots) == 2
    assert len(re.findall(r"data:image/jpeg;base64", page)) == 8


@pytest.mark.slow
def test_the_same_command_again_gives_the_same_and_trains_nothing(demo):
    out, printed, result = demo
    stamps = {p: p.stat().st_mtime_ns for p in (out / "runs").glob("*/result.json")}
    (out / "demo.json").unlink()
    again = run(out)
    assert again.stdout == printed
    assert json.loads((out / "demo.json").read_text()) == result
    assert stamps == {p: p.stat().st_mtime_ns for p in (out / "runs").glob("*/result.json")}
