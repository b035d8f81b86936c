"""Everything that is measured, from arrays, from files and by the command; plots."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

import gvvad_jax as gv
from gvvad_jax import evaluation, plots, scored
from tests.support.started import python

FPS = 2.0


def _arrays():
    """Forty frames of 2 a second a video: an abnormal interval of 10 s in "a" and in "b"."""
    labels = {i: np.zeros(40, int) for i in "abnm"}
    labels["a"][10:30] = labels["b"][0:20] = 1
    scores = {i: np.full(40, 0.1) for i in "abnm"}
    scores["a"][14:30] = 0.9  # Two seconds late.
    scores["b"][4:8] = 0.5
    scores["n"][6:10] = 0.6  # A false alarm.
    return scores, labels


def _files(folder, scores, **entry):
    videos = {
        i: {"file": f"{i}.mp4", "label": int(i in "ab"), "split": "test", "fps": FPS} | entry
        for i in scores
    }
    videos["a"] |= {"abnormal_frames": [[10, 30]], "class": "Arson"}
    videos["b"] |= {"abnormal_frames": [[0, 20]], "class": "Abuse"}
    (folder / "videos.json").write_text(json.dumps({"videos": videos}))
    np.savez(folder / "s.npz", **scores)
    return str(folder / "s.npz"), str(folder / "videos.json")


def test_events_of_bare_scores_by_hand():
    scores, labels = _arrays()
    measures = gv.measure(scores, labels, {"a": "Arson", "b": "Abuse"}, fps=FPS, alarms_per_hour=59)
    # 40 s of normal footage support no such threshold: the highest normal score has no alarm.
    threshold = measures["threshold"]
    assert threshold["threshold"] == 0.6 and "support 270 alarms an hour" in threshold["reason"]
    assert measures["threshold_set_on"] == scored.ON_THESE
    assert (measures["alarms_per_hour"], measures["normal_hours"]) == (0.0, 40 / 3600)
    # The one event, [7, 15) s, matches [5, 15) at an IoU of 0.8.
    of_each = dict.fromkeys(("any", "0.1", "0.2", "0.3", "0.4", "0.5"))
    assert measures["event_precision"] == {"events": 1} | dict.fromkeys(of_each, 1.0)
    assert measures["event_recall"] == {"intervals": 2} | dict.fromkeys(of_each, 0.5)
    delay = {"found": 1, "missed": 1, "mean": 2.0, "median": 2.0, "longest": 2.0}
    assert measures["detection_delay"] == delay
    # Candidates: a 0.9, n 0.6, b 0.5 ([2, 4) s of [0, 10): IoU 0.2).
    assert measures["event_ap"]["0.2"] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert measures["event_ap"]["0.3"] == pytest.approx(1 / 2)
    assert measures["event_map"]["0.2"] == pytest.approx((1 + 1 / 2) / 2)
    assert measures["alignment"] == evaluation.AS_GIVEN
    json.dumps(measures, allow_nan=False)


def test_options_by_hand():
    scores, labels = _arrays()
    options = gv.MeasureOptions(far_threshold=0.05, wanted_far=0.05, bootstrap=50, per_video=True)
    measures = gv.measure(scores, labels, options=options, groups={"a": "g", "n": "g"})
    assert (measures["far"], measures["far_threshold"]) == (1.0, 0.05)
    # 4 of 120 normal frames score 0.6, none more; above 0.1 they are all that do.
    assert measures["wanted_far"] == {
        "wanted": 0.05, "threshold": 0.1, "far": 4 / 120, "recall": 20 / 40,
        "set_on": scored.ON_THESE,
    }  # fmt: skip
    assert measures["intervals"]["units"] == 3 and measures["intervals"]["draws"] == 50
    assert measures["per_video"]["a"]["auc"] == pytest.approx((16 + 4 * 0.5) / 20)
    assert list(measures["per_video"]) == list("abnm")
    for faulty in ({"wanted_far": 2}, {"bootstrap": -1}, {"alignment": "other"}):
        with pytest.raises(gv.UserError, match=next(iter(faulty))):
            gv.MeasureOptions(**faulty)


def test_files_measure_as_arrays_do(tmp_path):
    scores, labels = _arrays()
    s, truth = _files(tmp_path, scores)
    options = gv.MeasureOptions(bootstrap=20)
    of_files = evaluation.measure_files(s, truth, alarms_per_hour=1, options=options)
    of_arrays = gv.measure(
        scores, labels, {"a": "Arson", "b": "Abuse"}, fps=FPS, alarms_per_hour=1, options=options
    )
    assert of_files == of_arrays


def test_what_events_need_is_named(tmp_path):
    scores, labels = _arrays()
    measures = gv.measure(scores, labels)
    assert measures["event_ap"] is None and "no frame rate" in measures["reasons"]["event_ap"]
    with pytest.raises(gv.UserError, match="--alarms_per_hour: expected the frame rate"):
        gv.measure(scores, labels, alarms_per_hour=1)
    with pytest.raises(gv.UserError, match="alarms_per_hour: expected above 0 and below 60"):
        gv.measure(scores, labels, fps=FPS, alarms_per_hour=60)
    with pytest.raises(gv.UserError, match="fps: video 'a': expected one positive number"):
        gv.measure(scores, labels, fps=0)
    alone = {"snippets/a": np.zeros(1), "times/a": np.array([[0.0, 20.0]])}
    files = _files(tmp_path, scores)
    np.savez(files[0], **scores, **alone)
    # Snippets of some videos alone are left alone.
    assert evaluation.measure_files(*files)["event_ap"] is not None


def test_events_are_found_in_snippets_where_the_scores_have_them(tmp_path):
    scores, _ = _arrays()
    times = np.stack([np.arange(5) * 4.0, np.arange(5) * 4.0 + 4], axis=1)
    snippets = {i: np.array([0.1, 0.1, 0.9, 0.9, 0.1]) for i in scores}
    files = {f"snippets/{i}": s for i, s in snippets.items()} | {
        f"times/{i}": times for i in scores
    }
    s, truth = _files(tmp_path, scores, num_frames=40)
    np.savez(s, **scores, **files)
    test = evaluation.read_scored(s, truth)
    np.testing.assert_array_equal(test.snippets["b"], snippets["b"])
    np.savez(s, **scores, **(files | {"snippets/b": np.zeros(4)}))
    with pytest.raises(gv.UserError, match=r"s.npz: snippets/, times/: .*video 'b'.*score again"):
        evaluation.read_scored(s, truth)


@pytest.mark.parametrize("repeat", [1, 16])
def test_the_published_alignment_of_bare_scores(tmp_path, repeat):
    # Forty frames make three snippets, 48 frames; labels are padded with their last value.
    scores = {i: np.repeat([0.1, 0.9, 0.2], repeat) for i in "abnm"}
    s, truth = _files(tmp_path, scores, num_frames=40)
    options = gv.MeasureOptions(alignment="published")
    measures = evaluation.measure_files(s, truth, options=options)
    assert measures["frames"] == 4 * 48 and measures["alignment"].startswith("published: ")
    test = evaluation.read_scored(s, truth, "published")
    np.testing.assert_array_equal(test.scores["a"], np.repeat([0.1, 0.9, 0.2], 16))
    np.testing.assert_array_equal(np.flatnonzero(test.labels["a"]), np.arange(10, 30))
    _, without = _files(tmp_path, scores)
    with pytest.raises(gv.UserError, match="'a': expected num_frames for --alignment=published"):
        evaluation.measure_files(s, without, options=options)
    with pytest.raises(gv.UserError, match="scores: video 'a': expected a score for each 16 of 40"):
        gv.measure({"a": np.zeros(40)}, {"a": np.zeros(40)}, options=options)
    with pytest.raises(gv.UserError, match="--alignment=time: expected a run"):
        gv.measure(*_arrays(), options=gv.MeasureOptions(alignment="time"))


def test_perfect_scores_are_perfect_however_aligned(tmp_path):
    _, labels = _arrays()
    measures = gv.measure(labels, labels, {"a": "Arson", "b": "Abuse"}, fps=FPS)
    names = ("auc", "ap", "pr_auc", "auc_abnormal")
    assert [measures[name] for name in names] == [1.0] * 4 and measures["eer"] == 0.0
    assert measures["event_ap"]["mean"] == measures["event_map"]["mean"] == 1.0
    truth = {"a": np.repeat([0, 1, 0], 16)[:40], "n": np.zeros(40, int)}
    perfect = {"a": np.array([0.0, 1, 0]), "n": np.zeros(3)}
    published = gv.MeasureOptions(alignment="published")
    assert gv.measure(perfect, truth, options=published)["ap"] == 1.0


def test_detectors_of_the_same_videos_are_compared(tmp_path):
    scores, labels = _arrays()
    better = {i: scores[i] + labels[i] for i in reversed(scores)}
    compared = gv.measure(better, labels, other=scores)["comparison"]
    assert (compared["auc"]["one"], compared["draws"]) == (1.0, scored.DRAWS)
    assert compared["auc"]["other"] == gv.measure(scores, labels)["auc"]
    reverse = gv.measure(scores, labels, other=better)["comparison"]
    assert reverse["auc"]["difference"] == pytest.approx(-compared["auc"]["difference"])
    with pytest.raises(gv.UserError, match="other: expected scores of video 'b'"):
        gv.measure(scores, labels, other={"a": scores["a"]})
    test = evaluation.read_scored(*_files(tmp_path, scores))
    (tmp_path / "o").mkdir()
    longer = {i: np.append(s, 0.1) for i, s in scores.items()}
    other = evaluation.read_scored(*_files(tmp_path / "o", longer))
    with pytest.raises(gv.UserError, match="video 'a': expected the same frames .* 40 .* and 41"):
        scored.compare(test, other)


def _run(*arguments, **options):
    command = [*python(), "-m", "gvvad_jax.evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def test_the_command_writes_all_it_is_asked_for(tmp_path):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    s, truth = _files(tmp_path, _arrays()[0])
    done = _run(
        f"--scores={s}", f"--ground_truth={truth}", "--bootstrap=30", f"--compare={s}",
        "--wanted_far=0.01", "--far_threshold=0.4", "--alarms_per_hour=2",
        f"--per_video={tmp_path}/v.csv", f"--curves={tmp_path}/curves",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    measures = json.loads(done.stdout)
    assert measures["comparison"]["auc"]["difference"] == 0 and "per_video" not in measures
    assert measures["far_threshold"] == 0.4 and measures["wanted_far"]["wanted"] == 0.01
    assert measures["far"] == 4 / 120 and measures["intervals"]["draws"] == 30
    rows = list(csv.DictReader((tmp_path / "v.csv").open()))
    assert [row["video"] for row in rows] == list("abnm") and rows[2]["auc"] == ""
    assert float(rows[2]["far"]) == 4 / 40
    for name in ("roc", "precision_recall", "scores"):
        assert (tmp_path / "curves" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--per_video=v.txt", "--per_video: expected a .csv or a .json, found v.txt"),
        ("--curves={folder}", "--curves={folder}: expected an absent or empty folder"),
        ("--alignment=time", "--alignment=time: expected a run (--workdir)"),
        ("--compare={folder}/none.npz", "none.npz"),
        ("--normal_store=N", "--normal_store"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(tmp_path, flag, message):
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    s, truth = _files(tmp_path, _arrays()[0])
    done = _run(f"--scores={s}", f"--ground_truth={truth}", flag.format(folder=tmp_path))
    notes = "videos without num_frames"
    lines = [line for line in done.stderr.splitlines() if notes not in line]
    assert done.returncode and not done.stdout and len(lines) == 1
    assert message.format(folder=tmp_path) in lines[0]


def test_plots_without_matplotlib_name_the_extra(tmp_path):
    (tmp_path / "matplotlib.py").write_text(
        "raise ModuleNotFoundError('No module named matplotlib', name='matplotlib')"
    )
    s, truth = _files(tmp_path, _arrays()[0])
    code = (
        f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r})\n"
        f"sys.argv = ['evaluate', '--scores={s}', '--ground_truth={truth}', '--curves=c']\n"
        "runpy.run_module('gvvad_jax.evaluate', run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert done.returncode and len(lines) == 1, done.stderr
    assert "expected the module matplotlib, found none; pip install '.[plots]'" in lines[0]


def test_videos_to_plot_are_spread_over_the_list():
    assert plots._spread([str(k) for k in range(20)], 4) == ["0", "5", "10", "15"]
    assert plots._spread(["a"], 4) == ["a"]
