"""Videos of one's own from files to events, pictures and pages; resumed, damaged, killed."""

import csv
import json
import pathlib
import shutil
import subprocess
import types

import av
import numpy as np
import pytest

from generation.encode.recipe import EncodeOptions
from generation.encoders.banks import prompt_bank
from generation.encoders.text import HashedTextEncoder
from generation.media.writing import write_video
from gvvad_jax import events
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.standardisation import Standardisation
from gvvad_jax.store import folders
from tests.support import killing, watched_runs
from tests.support.started import python
from tools.watching import detector, files, outputs, scoring, sources
from tools.watching.features import RunFeatures
from tools.watching.options import WatchOptions

ROOT = pathlib.Path(__file__).parents[3]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose scores rise with speed."""
    return watched_runs.write_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Twelve seconds in which a box runs to and fro from second 4 to 7, low at the right."""
    return watched_runs.write_scene(tmp_path_factory.mktemp("clip") / "cam.mp4")


def score(run, out, *arguments, truth="", **options):
    chosen = WatchOptions(workdir=str(run), out=str(out), annotations=truth, **options)
    files.score(sources.find([str(a) for a in arguments], truth), chosen)


def counts(capsys):
    """The summary that a command printed, and what it said besides."""
    printed = capsys.readouterr()
    return json.loads(printed.out or "{}"), printed.err


def test_events_are_the_same_in_every_file_and_show_where_and_when(run, clip, tmp_path, capsys):
    truth = {"videos": {"x": {"file": "cam.mp4", "label": 1, "split": "test", "fps": 10,
                              "num_frames": 120, "abnormal_frames": [[40, 70]]}}}  # fmt: skip
    shutil.copy(clip, tmp_path / "cam.mp4")
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    out = tmp_path / "out"
    score(run, out, tmp_path / "cam.mp4", truth=str(tmp_path / "truth.json"), clips=True)
    assert counts(capsys)[0] == {
        "out": str(out), "scored": 1, "skipped": 0, "events": 1, "failed": 0,
    }  # fmt: skip
    (event,) = map(json.loads, (out / "events.jsonl").read_text().splitlines())
    content = json.loads((out / "cam.json").read_text())
    (row,) = csv.DictReader((out / "cam.csv").read_text().splitlines())
    assert tuple(event) == events.COLUMNS and content["events"] == [event]
    assert row == {name: "" if value is None else str(value) for name, value in event.items()}
    # Snippets of 0.8 seconds begin every 0.4.
    assert (event["video"], event["start"], event["class"]) == ("cam", 4.0, None)
    assert 6.8 <= event["end"] <= 7.2 and 4 < event["peak_time"] < 7 and event["threshold"] == 0.5
    assert event["thumbnail"] == "cam.files/event-001-00h00m04s.jpg"
    assert content["truth"] == [[4.0, 7.0]] and len(content["scores"]) == len(content["times"])
    # The box is in the lowest row of cells, in the last two columns.
    (marks,) = content["cells"]
    assert marks["grid"] == [4, 6] and {tuple(m[:2]) for m in marks["marked"][:2]} == {
        (3, 4),
        (3, 5),
    }
    with av.open(out / event["thumbnail"]) as picture:
        assert (picture.streams.video[0].width, picture.streams.video[0].height) == (96, 64)
    with av.open(out / content["clips"][0]) as cut:
        frames = sum(1 for _ in cut.decode(video=0))
    assert frames == round(10 * (event["end"] - event["start"] + 2))
    assert "cam: <span" in (out / "cam.html").read_text()
    assert {p.name for p in out.iterdir()} == {
        *("cam.html", "cam.json", "cam.csv", "cam.files", "events.jsonl", ".gvvad", ".lock"),
    }  # fmt: skip


def test_what_is_finished_is_skipped_unless_content_run_or_settings_changed(
    run, clip, tmp_path, capsys
):
    video, out = tmp_path / "a" / "cam.mp4", tmp_path / "out"
    video.parent.mkdir()
    shutil.copy(clip, video)
    score(run, out, video)
    counts(capsys)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*") if path.name != ".lock"}
    moved = shutil.copytree(run, tmp_path / "moved")
    score(moved, out, video.parent)
    assert counts(capsys)[0]["skipped"] == 1
    del before[out / "events.jsonl"]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    score(run, out, video, threshold=0.95)
    assert counts(capsys)[0] | {"out": ""} == {
        "out": "", "scored": 1, "skipped": 0, "events": 0, "failed": 0,
    }  # fmt: skip
    assert (out / "events.jsonl").read_text() == "" and not (out / "cam.files").exists()
    watched_runs.write_scene(video, moves=None)
    score(run, out, video, threshold=0.95)
    assert counts(capsys)[0]["scored"] == 1
    (out / "cam.html").unlink()
    score(run, out, video, threshold=0.95)
    assert counts(capsys)[0]["scored"] == 1
    # A video of the same name elsewhere keeps both.
    (tmp_path / "b").mkdir()
    other = shutil.copy(clip, tmp_path / "b" / "cam.mp4")
    score(run, out, other)
    counts(capsys)
    score(run, out, video, other)
    assert counts(capsys)[0]["skipped"] == 1  # `video` had another threshold.
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert len(lines) == 1 and lines[0]["video"].startswith("cam-")


def audio(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux([*stream.encode(frame), *stream.encode()])


def test_a_bad_video_is_its_own_line_and_the_exit_status_tells(run, tmp_path, capsys):
    (tmp_path / "text.mp4").write_text("nothing")
    audio(tmp_path / "sound.wav")
    write_video(tmp_path / "still.mp4", list(watched_runs.scene(seconds=0.1)), fps=10)
    listed = [tmp_path / name for name in ("text.mp4", "sound.wav", "still.mp4")]
    with pytest.raises(SystemExit) as ended:
        score(run, tmp_path / "out", *listed)
    assert ended.value.code == 3
    summary, said = counts(capsys)
    assert (summary["scored"], summary["failed"], summary["events"]) == (1, 2, 0)
    first, second, third, last = said.splitlines()
    assert first.startswith(f"warning: {listed[0]}: not scored: expected a video file, found")
    assert second.startswith(f"warning: {listed[1]}: not scored: expected a video stream, found")
    assert third.startswith(f"{listed[2]}: 0 events in 0.1 s") and "2 of 3 videos" in last
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"still"}
    with pytest.raises(Interrupted, match="no video of 2 could be scored"):
        score(run, tmp_path / "out", *listed[:2])


def test_nothing_is_written_outside_of_the_folder(run, clip, tmp_path, capsys):
    out, outside = tmp_path / "out", tmp_path / "outside"
    score(run, out, clip)
    counts(capsys)
    shutil.rmtree(out / "cam.files", ignore_errors=True)
    outside.mkdir()
    (outside / "kept.jpg").write_text("kept")
    (out / "cam.files").symlink_to(outside)
    with pytest.raises(Interrupted):
        score(run, out, clip, threshold=0.4)
    assert "expected a folder, found a link; remove it" in counts(capsys)[1]
    assert [path.name for path in outside.iterdir()] == ["kept.jpg"]
    with pytest.raises(
        UserError, match="expected an absent or empty folder, or one of the kind 'scored vid"
    ):
        score(run, outside, clip)


def test_a_run_without_threshold_says_what_to_do(clip, tmp_path):
    run = watched_runs.write_run(tmp_path / "run", threshold=None)
    with pytest.raises(UserError) as error:
        score(run, tmp_path / "out", clip)
    assert str(error.value) == (
        f"{run}: expected a run with a threshold of events, found none (no footage); give "
        "--threshold=NUMBER to begin with, --normal_store with normal footage, or --adaptation of "
        "gvvad calibrate"
    )
    assert not (tmp_path / "out").exists()
    for problem, flags in (
        (
            "--threshold: expected without --alarms_per_hour",
            {"threshold": 0.5, "alarms_per_hour": 2.0},
        ),
        ("--adaptation: .*; give it to gvvad calibrate", {"adaptation": "a", "normal_store": "s"}),
        ("--alarms_per_hour: expected above 0 and below 60, found 0", {"alarms_per_hour": 0.0}),
    ):
        with pytest.raises(UserError, match=problem):
            WatchOptions(workdir="w", out="o", **flags)
    # A camera's statistics, and a threshold of one's own.
    WatchOptions(workdir="w", out="o", adaptation="a", threshold=0.5)
    with pytest.raises(UserError, match="--out: expected a folder, found none"):
        WatchOptions(workdir="w")


class Wordy:
    """A detector with text that finds every snippet abnormal."""

    manifest = EncodeOptions().recipe().manifest()
    config = types.SimpleNamespace(uses_text=True, store="", detector="wordy")
    seen, standard, folder = None, Standardisation(), None

    def score(self, features):
        return {name: np.full(len(visual), 0.75) for name, (visual, _) in features.items()}

    def video_scores(self, snippets):
        return dict.fromkeys(snippets, 0.75)

    calibrated_scores = video_scores


def test_events_of_a_run_with_text_have_a_class_and_a_caption(clip, tmp_path, capsys):
    model, folder = Wordy(), outputs.Folder(tmp_path / "out")
    opened = RunFeatures.open("W", model)
    classes = detector._classes(model, opened, "W")
    assert "W: the prompt bank of the run's store isn't there; classes are" in counts(capsys)[1]
    threshold = events.Threshold(threshold=0.5, alarms_per_hour=None, asked=1.0)
    watching = detector.Detector(model, opened, threshold, classes, "x")
    (video,) = sources.find([str(clip)])
    assert files.Work(watching, folder, clips=False).do(video, "cam")
    content = json.loads((tmp_path / "out" / "cam.json").read_text())
    (event,), (caption,) = content["events"], content["captions"]
    prompts, embed = prompt_bank("ucf_crime", "motion"), HashedTextEncoder()
    near = np.argmax(embed([p.phrase for p in prompts]) @ embed([caption])[0])
    assert event["class"] == prompts[near].cls and "region" in caption
    assert content["chance"] == 0.75 and caption in (tmp_path / "out" / "cam.html").read_text()


def test_a_long_video_is_scored_in_parts_of_a_fixed_size(run, clip, monkeypatch):
    opened = detector.open_detector(WatchOptions(workdir=str(run), out="x"))
    (video,) = sources.find([str(clip)])
    whole = scoring.score_file(opened, video)
    monkeypatch.setattr(scoring, "PART_ROWS", 8)
    monkeypatch.setattr(scoring, "PART_SNIPPETS", 8)
    parts = scoring.score_file(opened, video)
    assert whole.part_snippets is None and parts.part_snippets == 8
    # MIL-Rank scores each snippet alone.
    np.testing.assert_allclose(parts.scores_T, whole.scores_T, atol=1e-6)


def test_a_second_command_is_refused_and_leaves_the_firsts_files(run, clip, tmp_path, capsys):
    out = tmp_path / "out"
    with folders.locked(folders.claim(out, outputs.KIND) / ".lock", "busy"):
        (out / "cam.files").mkdir()
        partial = out / "cam.files" / ".video.mp4.0123abcd.partial"
        partial.touch()
        with pytest.raises(UserError, match="out: expected no other process to write there"):
            score(run, out, clip)
        assert partial.exists()
    score(run, out, clip)
    assert counts(capsys)[0]["scored"] == 1 and not partial.exists()


@pytest.mark.slow
def test_a_killed_command_is_resumed_by_the_same_command(run, clip, tmp_path):
    for name in ("a", "b"):
        shutil.copy(clip, tmp_path / f"{name}.mp4")
    command = [*python(), "-m", "tools.score_video", f"--workdir={run}",
               f"--out={tmp_path / 'out'}", str(tmp_path / "*.mp4")]  # fmt: skip
    killing.run(command, "b.csv", cwd=ROOT)
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["scored"], summary["skipped"], summary["events"]) == (1, 1, 2)
    lines = (tmp_path / "out" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["video"] for line in lines] == ["a", "b"]
    assert not [p for p in (tmp_path / "out").rglob("*") if ".partial" in p.name]
