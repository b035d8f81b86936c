"""The demo on very little: killed once, then its arms, its table, its page, and that it resumes."""

import html
import json
import pathlib
import subprocess
import sys
import time
import xml.etree.ElementTree

import pytest

from gvvad_jax.command import UserError
from gvvad_jax.config import TrainConfig
from gvvad_jax.splits import read_decisions
from tools.studies import arms

# Two demos, of which each starts three processes: minutes on a machine that does other work too.
pytestmark = pytest.mark.timeout(900)
ROOT = pathlib.Path(__file__).parents[2]
SMALL = (
    "--train_pairs=3", "--real_abnormal=1", "--test_pairs=2", "--generated_pairs=4",
    "--fps_policy=4", "--seeds=2", "--random_drops=0", "--detector=mil_rank",
    "--segments=8", "--batch_size=3", "--steps=3", "--head_widths=8", "--data_seed=1",
    "--validation_share=0", "--batch_norm=per_domain", "--standardise_by=domain", "--workers=2",
)  # fmt: skip
REAL, PUBLISHED, HERE = (arm.name for arm in arms.ARMS)


def command(out):
    return [sys.executable, "-m", "tools.demo", *SMALL, f"--out={out}"]


def run(out):
    return subprocess.run(command(out), capture_output=True, text=True, cwd=ROOT)


def stamps(out, *patterns):
    return {p: p.stat().st_mtime_ns for pattern in patterns for p in out.glob(pattern)}


def kill_after_the_first_run(out):
    """Kills the demo once a run has ended; returns the stamps of what was made until then."""
    errors = out.with_name("errors.txt")
    with errors.open("w") as file:
        demo = subprocess.Popen(command(out), stderr=file, cwd=ROOT)
    try:
        while demo.poll() is None and not any(out.glob("runs/*/result.json")):
            time.sleep(0.05)
        assert demo.poll() is None, errors.read_text()
    finally:
        demo.kill()
        demo.wait()
    return stamps(out, "footage/videos/*.mp4", "generated/videos/*.mp4", "*/shard-*", "rules/*/*",
                  "runs/*/result.json")  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    before = kill_after_the_first_run(out)
    done = run(out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout, json.loads((out / "demo.json").read_text()), before


@pytest.mark.slow
def test_what_was_made_before_a_kill_is_not_made_again(demo):
    out, _, _, before = demo
    made = [path.relative_to(out).parts[0] for path in before]
    # 3 + 1 + 4 real videos, 8 generated ones, and the rules' scores of the test videos.
    assert made.count("footage") == made.count("generated") == 8 and made.count("rules") == 4
    assert {"real", "synthetic", "runs"} <= set(made)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert not list(out.glob("**/.*.partial*"))


@pytest.mark.slow
def test_every_arm_has_a_spread_and_a_paired_difference(demo):
    _, _, result, _ = demo
    assert list(result["arms"]) == [REAL, PUBLISHED, HERE]
    base = result["arms"][REAL]["runs"]
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
    out, _, result, _ = demo
    decisions = read_decisions(str(out / "decisions.jsonl"))
    dropped = sum(not keep for keep in decisions.values())
    assert dropped == result["filter"]["dropped"] > 0
    trained = result["trained"]
    assert trained["real"] == {"normal": 3, "abnormal": 1} and trained["held_out"] == 0
    assert trained[PUBLISHED] == {"normal": 4, "abnormal": 4}
    assert sum(trained[HERE].values()) == 8 - dropped
    flags = [(out / "runs" / f"{arm}-0" / "config.flags").read_text() for arm in range(3)]
    assert "--synthetic_store=\n" in flags[0]
    assert f"--synthetic_store={out}/synthetic\n" in flags[1] and "--synthetic_keep=\n" in flags[1]
    assert f"--synthetic_keep={out}/decisions.jsonl\n" in flags[2]
    for text, statistics in zip(flags, ("shared", "shared", "per_domain"), strict=True):
        assert f"--batch_norm={statistics}\n" in text and "--lambda_value=0.5\n" in text


@pytest.mark.slow
def test_table_and_page_open_with_the_finding_and_say_rendered_once(demo):
    out, printed, result, _ = demo
    page = html.unescape((out / "demo.html").read_text())
    for text in (printed, page):
        assert text.count("RENDERED") == 1 and result["finding"] in text
        for name in (*result["arms"], "flow_p99", "oracle"):
            assert name in text
    assert printed.startswith(result["finding"])
    body = (out / "demo.html").read_text().split("<body>")[1].split("</body>")[0]
    tree = xml.etree.ElementTree.fromstring(f"<body>{body}</body>")
    players = [figure for figure in tree.iter("figure") if figure.get("class") == "player"]
    # Two abnormal videos and a normal one, each with a curve of every arm.
    assert len(players) == 3
    assert all(len(list(player.iter("polyline"))) == 3 for player in players)
    assert ["(abnormal)" in "".join(player.itertext()) for player in players] == [True, True, False]
    assert all("no normal footage" in "".join(player.itertext()) for player in players)


@pytest.mark.slow
def test_the_same_command_again_gives_the_same_and_trains_nothing(demo):
    out, printed, result, _ = demo
    before = stamps(out, "runs/*/result.json")
    (out / "demo.json").unlink()
    again = run(out)
    assert again.stdout == printed
    assert json.loads((out / "demo.json").read_text()) == result
    assert before == stamps(out, "runs/*/result.json")


def test_few_abnormal_videos_are_rendered_ones_of_as_many_pairs(tmp_path):
    from generation import pipeline

    def demo(abnormal, **plan):
        data = pipeline.PipelineSettings(plan=pipeline.PipelinePlan(**plan))
        return arms.DemoRun(data=data, train=TrainConfig(), seeds=1, real_abnormal=abnormal)

    with pytest.raises(UserError, match="--real_abnormal: expected 1 to 26 .* found 27"):
        demo(27, out=str(tmp_path))
    with pytest.raises(UserError, match="without --videos, found --videos"):
        demo(2, out=str(tmp_path), videos="a.json")
    with pytest.raises(UserError, match="--out: expected a folder"):
        demo(2)
    assert demo(2, out=str(tmp_path)).is_rendered
