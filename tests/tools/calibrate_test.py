"""tools.calibrate as a command: a camera's file, applied by score and evaluate; bad input."""

import dataclasses
import json
import subprocess

import numpy as np
import pytest

from gvvad_jax import adaptation, events, scoring
from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store
from tests.support import watched_runs
from tests.support.started import python
from tests.support.stores import write_store
from tools import calibrate
from tools.adapting import camera, feedback, footage
from tools.calibrate import CalibrateOptions
from tools.watching import detector
from tools.watching.features import RunFeatures
from tools.watching.options import WatchOptions


def _run(module, *arguments):
    command = [*python(), "-m", module, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def workdir(trained):
    return trained("mil_rank")[0].workdir


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Normal footage of a camera, and its later videos, of which abnormal ones have events."""
    folder = tmp_path_factory.mktemp("camera")
    normal = write_store(folder / "normal", {"test": (6, 0)}, seed=7, prefix="n-")
    later = write_store(folder / "later", {"test": (6, 6)}, seed=8, prefix="f-")
    return normal, later


def _feedback(path, store):
    lines = ["video,start,end,label"]
    for i, video in Store(store).videos.videos.items():
        if video.label:
            lines += [f"{i},{start / 10},{end / 10},1" for start, end in video.abnormal_frames]
        else:
            lines.append(f"{i},0,1.2,0")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_camera_is_fitted_and_scored_and_the_run_stays_as_it_is(workdir, stores, tmp_path):
    normal, later = stores
    before = scoring.load(workdir)
    labels = _feedback(tmp_path / "labels.csv", later)
    status, output, errors = _run(
        "tools.calibrate", f"--workdir={workdir}", f"--normal_store={normal}",
        f"--out={tmp_path}/", "--alarms_per_hour=0.08", f"--feedback={labels}",
        f"--feedback_videos={later}", "--keep_feedback",
    )  # fmt: skip
    assert status == 0, errors
    answer = json.loads(output)
    path = tmp_path / "adaptation.json"
    assert answer["out"] == str(path) and answer["asked"] == 0.08 and answer["videos"] == 6
    assert answer["alarms_per_hour"] == pytest.approx(3 / answer["hours"])
    said = answer["feedback"]
    assert (said["kept"], said["videos"]) == (True, 12) and 0 <= said["after"]["auc"] <= 1
    assert "feedback on" in errors and "as trained" in errors
    assert adaptation.fingerprint(scoring.load(workdir)) == adaptation.fingerprint(before)
    adapted = adaptation.apply(before, path)
    assert adapted.calibration.threshold.threshold == answer["threshold"]
    assert (tmp_path / "adaptation.correction.npz").exists()
    highest = max(float(each.max()) for each in adapted.score(Store(normal)).values())
    assert answer["threshold"] == pytest.approx(highest)
    # What scores by it says where features leave the camera's range, here nowhere.
    status, output, _ = _run(
        "gvvad_jax.score", f"--workdir={workdir}", f"--store={later}", f"--adaptation={path}",
        f"--out={tmp_path / 's.npz'}",
    )  # fmt: skip
    assert status == 0 and json.loads(output)["drift"] == {}
    with np.load(tmp_path / "s.npz") as scores:
        expected = adapted.score(Store(later))["f-test-1-0"]
        np.testing.assert_allclose(scores["snippets/f-test-1-0"], expected, rtol=1e-5)
    # A second time it replaces its own file, and no other one.
    (tmp_path / "other.json").write_text("{}")
    status, _, errors = _run(
        "tools.calibrate", f"--workdir={workdir}", f"--normal_store={normal}",
        f"--out={tmp_path / 'other.json'}",
    )  # fmt: skip
    assert status == 2 and "another kind of file" in errors and errors.count("\n") == 1


def test_the_threshold_of_a_folder_of_videos_is_that_of_their_scores(tmp_path, monkeypatch, capsys):
    workdir = watched_runs.write_run(tmp_path / "run")
    (tmp_path / "normal" / "night").mkdir(parents=True)
    watched_runs.write_scene(tmp_path / "normal" / "a.mp4", seconds=7, moves=(2, 4))
    watched_runs.write_scene(tmp_path / "normal" / "night" / "b.mp4", seconds=6, moves=None, seed=1)
    path = tmp_path / "camera.json"
    options = CalibrateOptions(
        workdir=str(workdir), normal=str(tmp_path / "normal"), alarms_per_hour=0.08, out=str(path)
    )
    answer = calibrate.calibrate(options)
    model = scoring.load(workdir)
    opened = RunFeatures.open(workdir, model)
    encoded = {n: opened.of_file(tmp_path / "normal" / n) for n in ("a.mp4", "night/b.mp4")}
    scores = model.score({name: (visual, text) for name, (visual, text, *_) in encoded.items()})
    times = {name: times_Tx2 for name, (_, _, times_Tx2, _) in encoded.items()}
    expected = events.threshold_for(0.08, scores, times)
    assert expected.threshold == max(float(each.max()) for each in scores.values()) < 1
    adapted = adaptation.apply(model, path)
    assert adapted.calibration.threshold == expected
    assert (answer["threshold"], answer["videos"]) == (expected.threshold, 2)
    assert answer["hours"] == pytest.approx(13 / 3600)
    assert "there will be no event" not in capsys.readouterr().err
    # Where normal footage scores as high as can be, nothing can be above it.
    highest = {name: np.ones_like(each) for name, each in scores.items()}
    monkeypatch.setattr(camera, "cross_scores", lambda *_: highest)
    assert calibrate.calibrate(options)["threshold"] == 1
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
    assert line.startswith(f"warning: {path}: the threshold is 1, because normal footage scores")
    watching = WatchOptions(workdir=str(workdir), adaptation=str(path), out="x")
    first = detector.open_detector(watching).identity
    assert "no score is above 1, so there will be no event" in capsys.readouterr().err
    # Videos are scored again once feedback has corrected the scores.
    correction = adaptation.Correction(np.ones(model.manifest.dim, np.float32), 0.5)
    adaptation.write(path, adaptation.read(path), correction)
    assert detector.open_detector(watching).identity != first


def test_what_is_not_better_is_not_kept_unless_told(workdir, stores, tmp_path, capsys):
    _, later = stores
    lines = ["video,start,end,label"]
    ids = sorted(Store(later).rows)
    lines += [f"{i},0,1.2,{number % 2}" for number, i in enumerate(ids)]  # At random.
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    options = CalibrateOptions(
        workdir=workdir, out="a.json", normal="n", feedback=str(tmp_path / "labels.csv"),
        feedback_videos=str(later),
    )  # fmt: skip
    model = scoring.load(workdir)
    correction, said = calibrate._learned(options, model, None)
    assert correction is None and not said["better"]
    assert "not kept, because it isn't better on held-out videos" in capsys.readouterr().err
    kept = dataclasses.replace(options, keep_feedback=True)
    assert calibrate._learned(kept, model, None)[0] is not None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "--workdir"),
        ({"workdir": "w"}, "--out"),
        ({"workdir": "w", "out": "a.json"}, "either --normal or --normal_store"),
        ({"workdir": "w", "out": "a.json", "normal": "n", "normal_store": "s"}, "both"),
        ({"workdir": "w", "out": "a.json", "normal": "n", "keep_feedback": True}, "--feedback"),
        ({"workdir": "w", "out": "a.json", "normal": "n", "alarms_per_hour": 0.0}, "0.001 to 59"),
    ],
)
def test_flags_that_do_not_fit_together_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        CalibrateOptions(**given)
    with pytest.raises(UserError, match=r"expected a \.json or a folder"):
        CalibrateOptions(workdir="w", out="a.npz", normal="n").path  # noqa: B018


def test_videos_of_folders_are_encoded_and_what_cannot_be_read_is_named(tmp_path, capsys):
    for name in ("a.mp4", "sub/b.mp4", "bad.mp4", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    rows, times = np.ones((2, 1, 4)), np.array([[0.0, 1.0], [1.0, 2.0]])

    def encode(path):
        if path.name == "bad.mp4":
            raise footage.features.UnreadableVideo("expected a video, found none")
        return (rows, None), times

    found = footage.of_folder(str(tmp_path), encode)
    assert set(found.features) == {"a.mp4", "sub/b.mp4"} and found.seconds == 4.0
    assert "bad.mp4: left out: expected a video, found none" in capsys.readouterr().err
    with pytest.raises(UserError, match="--normal=.*expected a folder of videos"):
        footage.of_folder(str(tmp_path / "a.mp4"), encode)

    # Feedback names them by path, name, or name without the ending.
    labels = tmp_path / "labels.csv"
    labels.write_text("video,start,end,label\na,0,1,1\nb.mp4,0,1,0\nsub/b.mp4,1,2,0\n")
    parsed = feedback.read(str(labels))
    named = footage.of_feedback(str(labels), parsed, None, "", lambda: encode)
    assert set(named.features) == {"a", "b.mp4", "sub/b.mp4"}
    labels.write_text("video,start,end,label\nc,0,1,1\na,0,1,0\nd.mp4,0,1,0\n")
    with pytest.raises(UserError, match=r"line 2: video: .* found 'c'; line 4: .*'d\.mp4'"):
        footage.of_feedback(str(labels), feedback.read(str(labels)), None, "", lambda: encode)
