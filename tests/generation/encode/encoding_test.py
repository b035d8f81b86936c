"""Encoding H.264 files: rows, reports of damage, resuming and ranks."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import cv2
import msgspec
import numpy as np
import pytest

from generation import ranks
from generation.encode import encoding, provenance
from generation.encode.recipe import EncodeOptions, parse_fps_policy
from generation.encoders.motion_captions import MotionCaptioner
from generation.encoders.protocols import SnippetStream
from generation.encoders.text import HashedTextEncoder
from generation.media import reading
from generation.media.writing import write_video
from generation.prompts.descriptions import save_descriptions
from generation.prompts.grammar import write_grammar
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.store import alignment, annotations
from gvvad_jax.store.reader import Store
from tests.support import killing, streaming
from tests.support.chat_server import ChatServer
from tests.support.tiny_videos import write_faststart, write_image

CAPTIONER, TEXT_ENCODER = MotionCaptioner(), HashedTextEncoder()


class MeanColour:
    """The simplest encoder: a snippet's feature is its mean colour."""

    id = "mean-colour"
    dim = 3
    manifest = {"id": id, "weights": "none", "pooling": "mean", "normalised": False}  # noqa: RUF012
    crops = {"count": 1, "order": "whole"}  # noqa: RUF012

    def begin(self, spans_Tx2, num_frames, rate):
        def prepare(picture):
            return picture.rgb().mean(axis=(0, 1))

        def finish(snippets):
            return [np.mean(snippet, axis=0, dtype=np.float32)[None] for snippet in snippets]

        return SnippetStream(spans_Tx2, range, prepare, finish)


def _recipe(**changes):
    fields = {"encoder": MeanColour(), "snippet_frames": 16, "snippet_stride": 8}
    return encoding.Recipe(**(fields | changes))


def _with_text(**changes):
    return _recipe(captioner=CAPTIONER, text_encoder=TEXT_ENCODER, **changes)


def _frames(seed, num_frames=40):
    """Returns frames of a box that swings or moves through a textured place."""
    rng = np.random.default_rng(seed)
    place = np.kron(rng.integers(60, 190, (8, 10, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = np.repeat(place[None], num_frames, axis=0)
    for t, frame in enumerate(frames):
        left = 30 + (6 * (t % 3) if seed % 2 else t // 2)
        frame[20:44, left : left + 10] = (40, 30 + 20 * (t % 2), 200)
    return frames


def _list(folder, entries, **top):
    path = pathlib.Path(folder) / "videos.json"
    path.write_text(json.dumps(top | {"videos": entries}))
    return path


def _entry(name, **fields):
    return {"file": f"{name}.mp4", "label": 0, "split": "train"} | fields


@pytest.fixture(scope="module")
def videos_folder(tmp_path_factory):
    """Five small videos, a to e, and their videos.json."""
    folder = tmp_path_factory.mktemp("videos")
    for n, name in enumerate("abcde"):
        write_video(folder / f"{name}.mp4", _frames(n, 40 + 4 * n), fps=10)
    _list(folder, {name: _entry(name, label=n % 2) for n, name in enumerate("abcde")})
    return folder


def _encode(videos_folder, out, recipe, **options):
    assert encoding.encode(videos_folder / "videos.json", out, recipe, progress=False, **options)
    opened = Store(out)
    assert opened.faults() == []
    return opened


def test_rows_hold_features_text_and_facts_about_the_file(videos_folder, tmp_path):
    opened = _encode(videos_folder, tmp_path / "s", _with_text())
    row = opened.rows["b"]
    # 44 frames in snippets of 16 every 8: starts 0, 8, 16, 24 and 32.
    assert (row.num_frames, row.num_snippets, row.fps, row.source) == (44, 5, 10.0, "real")
    assert (row.declared_frames, row.decoded_frames) == (44, 44)
    frames = reading.read(videos_folder / "b.mp4").frames_TxHxWx3
    expected = frames[8:24].mean(axis=(0, 1, 2))
    np.testing.assert_allclose(opened.visual("b")[1, 0], expected, rtol=1e-5)
    captions = streaming.run(CAPTIONER, frames, alignment.snippet_spans(44, 16, 8), 10.0)[:2]
    np.testing.assert_array_equal(opened.text("b")[:2], TEXT_ENCODER(captions))
    assert row.pixel_statistics["frozen_share"] == 0 and row.pixel_statistics["motion"] > 1
    assert opened.manifest.text == {
        "encoder": "hashed-ngrams-v1",
        "dim": 256,
        "normalised": True,
        "captioner": "motion-rules-v2",
    }
    assert np.load(tmp_path / "s" / "bank.npy", allow_pickle=False).shape == (26, 256)
    assert json.loads((tmp_path / "s" / "bank.json").read_text())["bank"] == "ucf_crime"


def test_without_a_captioner_there_is_no_text(videos_folder, tmp_path):
    opened = _encode(videos_folder, tmp_path / "s", _recipe(dtype="float16"))
    assert opened.manifest.text is None and not (tmp_path / "s" / "bank.npy").exists()
    assert opened.visual("a").dtype == np.float16


def test_fps_policy_resamples(videos_folder, tmp_path):
    opened = _encode(videos_folder, tmp_path / "s", _recipe(fps_policy=5.0))
    # 44 frames at 10 fps are 22 at 5: snippets of 16 start at 0 and 8.
    assert opened.rows["b"].num_snippets == 2 and opened.rows["b"].num_frames == 44
    np.testing.assert_allclose(opened.times("b"), [[0, 3.2], [1.6, 4.4]])
    assert parse_fps_policy("native") == "native" and parse_fps_policy("8") == 8.0
    for wrong in ("fast", "0", "inf"):
        with pytest.raises(UserError, match="--fps_policy"):
            parse_fps_policy(wrong)


def test_labels_and_names_do_not_change_captions_or_features(videos_folder, tmp_path):
    """The same pixels get other names and labels, and lose their other annotations."""
    folder = tmp_path / "renamed"
    folder.mkdir()
    names = dict(zip("abcde", ("x4", "x1", "x0", "x3", "x2"), strict=True))
    truth = {}
    for n, (old, new) in enumerate(names.items()):
        shutil.copy(videos_folder / f"{old}.mp4", folder / f"{new}.mp4")
        truth[old] = _entry(old, label=1, split="test", abnormal_frames=[[5, 20]])
        truth[old]["class"] = "Fighting"
        truth[old]["label"] = n % 2
        if n % 2 == 0:
            del truth[old]["abnormal_frames"]
    labelled = tmp_path / "labelled"
    shutil.copytree(videos_folder, labelled)
    _list(labelled, truth)
    _list(folder, {names[n]: _entry(names[n], label=1 - e["label"]) for n, e in truth.items()})
    with_truth = _encode(labelled, tmp_path / "s1", _with_text())
    without = _encode(folder, tmp_path / "s2", _with_text())
    for old, new in names.items():
        np.testing.assert_array_equal(with_truth.text(old), without.text(new))
        np.testing.assert_array_equal(with_truth.visual(old), without.visual(new))
    assert not np.array_equal(with_truth.text("a")[0], with_truth.text("b")[0])


def test_rows_of_generated_videos_hold_their_descriptions(videos_folder, tmp_path):
    records = write_grammar(2, 0)
    for record in records:
        shutil.copy(videos_folder / "a.mp4", tmp_path / f"{record.id}.mp4")
    _list(tmp_path, {r.id: _entry(r.id, label=r.label) for r in records})
    save_descriptions(tmp_path / "prompts.jsonl", records)
    opened = _encode(
        tmp_path,
        tmp_path / "s",
        _recipe(source="synthetic"),
        prompts_path=tmp_path / "prompts.jsonl",
    )
    row, record = opened.rows[records[0].id], records[0]
    assert (row.source, row.description, row.twin, row.seed) == (
        "synthetic",
        record.description,
        record.twin,
        record.seed,
    )


def test_damaged_videos_are_reported_by_name(videos_folder, tmp_path, capsys):
    noisy = np.random.default_rng(0).integers(0, 255, (40, 64, 80, 3), dtype=np.uint8)
    write_faststart(tmp_path / "half.mp4", noisy)
    whole = (tmp_path / "half.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "rubbish.mp4").write_bytes(b"no video at all" * 100)
    shutil.copy(videos_folder / "a.mp4", tmp_path / "longer.mp4")
    shutil.copy(videos_folder / "a.mp4", tmp_path / "undamaged.mp4")
    names = ("half", "rubbish", "longer", "undamaged")
    entries = {name: _entry(name) for name in names}
    entries["longer"] |= {"num_frames": 90, "fps": 25}
    _list(tmp_path, entries)
    opened = _encode(tmp_path, tmp_path / "s", _with_text())
    row = opened.rows["half"]
    assert row.declared_frames == 40 and 1 <= row.decoded_frames < 40
    assert row.num_frames == row.decoded_frames
    assert row.pixel_statistics["decoded_share"] == pytest.approx(row.decoded_frames / 40)
    assert list(opened.quarantined) == ["rubbish"]
    assert str(tmp_path) not in opened.quarantined["rubbish"]
    errors = capsys.readouterr().err
    assert f"half: the file declares 40 frames, {row.decoded_frames} could be decoded" in errors
    assert "rubbish: not encoded: rubbish.mp4: expected a video file" in errors
    assert "longer: videos.json says 90 frames, the file has 40" in errors
    assert "undamaged" not in errors


class Failing(MeanColour):
    """Fails with videos of 44, 48 and 52 frames: while preparing, taking, and for good."""

    def begin(self, spans_Tx2, num_frames, rate):
        stream = super().begin(spans_Tx2, num_frames, rate)

        def fail(error):
            def method(_):
                raise error

            return method

        if num_frames == 44:
            stream.prepare = fail(MemoryError())
        if num_frames == 48:
            stream.take = fail(cv2.error("a strange size"))
        if num_frames == 52:
            raise IndexError("list index out of range")
        return stream


def test_whatever_goes_wrong_with_a_video_affects_only_that_video(videos_folder, tmp_path, capsys):
    opened = _encode(videos_folder, tmp_path / "s", _with_text(encoder=Failing()))
    assert sorted(opened.rows) == ["a", "e"]
    assert opened.quarantined["b"].startswith("expected enough memory to encode the video")
    assert "found error: a strange size; re-encode" in opened.quarantined["c"]
    assert "found IndexError: list index out of range" in opened.quarantined["d"]
    assert "warning: b: not encoded: expected enough memory" in capsys.readouterr().err
    sound = _encode(videos_folder, tmp_path / "sound", _with_text())
    for name in "ae":
        np.testing.assert_array_equal(opened.visual(name), sound.visual(name))


def test_the_exit_status_says_that_videos_failed(videos_folder, tmp_path):
    (tmp_path / "rubbish.mp4").write_bytes(b"no video at all" * 100)
    _list(tmp_path, {"rubbish": _entry("rubbish")})
    command = [*_command(tmp_path, tmp_path / "none"), "--captioner=none"]
    none = subprocess.run(command, capture_output=True, text=True)
    assert none.returncode == 1
    assert "at least one readable video, found none among 1" in none.stderr.splitlines()[-1]
    shutil.copy(videos_folder / "a.mp4", tmp_path / "a.mp4")
    _list(tmp_path, {name: _entry(name) for name in ("rubbish", "a")})
    command = [*_command(tmp_path, tmp_path / "s"), "--captioner=none"]
    for _ in range(2):  # Also where the store is finished already.
        some = subprocess.run(command, capture_output=True, text=True)
        assert some.returncode == 3 and json.loads(some.stdout)["quarantined"] == 1
        *_, reason, counts = some.stderr.splitlines()
        assert "rubbish: not encoded: rubbish.mp4: expected a video file" in reason
        assert counts.endswith("1 of 2 videos could not be encoded, the others are there; the "
                               "reasons stand above")  # fmt: skip


def test_a_flag_overrides_all_frame_rates(videos_folder, tmp_path):
    _list(tmp_path, {"a": _entry("a", fps=20)})
    shutil.copy(videos_folder / "a.mp4", tmp_path / "a.mp4")
    # The file says 10.
    assert _encode(tmp_path, tmp_path / "list", _recipe()).rows["a"].fps == 20
    assert _encode(tmp_path, tmp_path / "flag", _recipe(video_fps=5.0)).rows["a"].fps == 5


def test_frame_rate_comes_from_videos_json_for_folders_and_is_required(tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    for n, image in enumerate(_frames(0, 20)):
        write_image(tmp_path / "frames" / f"{n:03d}.png", image)
    entry = {"file": "frames", "label": 0, "split": "train"}
    _list(tmp_path, {"f": entry})
    with pytest.raises(Interrupted, match="at least one readable video, found none among 1"):
        encoding.encode(tmp_path / "videos.json", tmp_path / "s", _recipe(), progress=False)
    assert "f: not encoded:" in (error := capsys.readouterr().err) and "expected fps" in error
    _list(tmp_path, {"f": entry}, fps=12)
    assert _encode(tmp_path, tmp_path / "s", _recipe()).rows["f"].fps == 12


def test_user_errors(videos_folder, tmp_path):
    _list(tmp_path, {"gone": _entry("gone")})
    with pytest.raises(UserError, match="1 of them missing, 'gone.mp4' first"):
        encoding.encode(tmp_path / "videos.json", tmp_path / "s", _recipe(), progress=False)
    (tmp_path / "gone.mp4").write_bytes(b"rubbish")
    with pytest.raises(Interrupted, match="expected at least one readable video"):
        encoding.encode(tmp_path / "videos.json", tmp_path / "s", _recipe(), progress=False)
    _encode(videos_folder, tmp_path / "s2", _recipe())
    with pytest.raises(UserError, match="snippet"):
        encoding.encode(videos_folder / "videos.json", tmp_path / "s2", _recipe(snippet_frames=8))
    with pytest.raises(UserError, match="--captioner"):
        EncodeOptions(captioner="oracle")


@pytest.fixture
def generated(videos_folder, tmp_path):
    """Two generated videos: the folder of their list, and their prompts."""
    folder = tmp_path / "generated"
    folder.mkdir()
    records = write_grammar(1, 0)
    for record in records:
        shutil.copy(videos_folder / "a.mp4", folder / f"{record.id}.mp4")
    _list(folder, {r.id: _entry(r.id, label=r.label) for r in records})
    save_descriptions(folder / "prompts.jsonl", records)
    return folder, records


def test_rows_of_another_description_source_or_bank_are_not_kept(generated, tmp_path, capsys):
    folder, records = generated
    given = {"prompts_path": folder / "prompts.jsonl"}
    made = EncodeOptions(encoder="motion", snippet_stride=8, source="synthetic", captioner="none")
    forgot = dataclasses.replace(made, source="real")
    assert _encode(folder, tmp_path / "s", forgot).rows[records[0].id].twin is None
    opened = _encode(folder, tmp_path / "s", made, **given)
    assert {(r.source, r.twin) for r in opened.rows.values()} == {
        ("synthetic", record.twin) for record in records
    }
    errors = capsys.readouterr().err
    assert all(f"{r.id}: its row is of another file, description" in errors for r in records)
    _encode(folder, tmp_path / "whole", made, **given)
    assert _files(tmp_path / "s") == _files(tmp_path / "whole")
    described = dataclasses.replace(made, captioner="description")
    before = _encode(folder, tmp_path / "t", described, **given)
    changed = msgspec.structs.replace(records[0], phrase="a man climbs a fence")
    save_descriptions(folder / "prompts.jsonl", [changed, records[1]])
    capsys.readouterr()
    after = _encode(folder, tmp_path / "t", described, **given)
    np.testing.assert_array_equal(after.text(changed.id)[0], TEXT_ENCODER([changed.phrase])[0])
    np.testing.assert_array_equal(after.text(records[1].id), before.text(records[1].id))
    assert records[1].id not in capsys.readouterr().err
    _encode(folder, tmp_path / "t", dataclasses.replace(described, bank="tad"), **given)
    assert json.loads((tmp_path / "t" / "bank.json").read_text())["bank"] == "tad"


def test_rows_of_changed_files_are_not_kept(videos_folder, tmp_path, capsys):
    folder = tmp_path / "videos"
    shutil.copytree(videos_folder, folder)
    (folder / "e.mp4").write_bytes(b"rubbish" * 100)
    assert list(_encode(folder, tmp_path / "s", _recipe()).quarantined) == ["e"]
    shutil.copy(videos_folder / "d.mp4", folder / "b.mp4")
    shutil.copy(videos_folder / "e.mp4", folder / "e.mp4")
    os.utime(folder / "a.mp4", (0, 0))
    capsys.readouterr()
    opened = _encode(folder, tmp_path / "s", _recipe())
    errors = capsys.readouterr().err
    assert [f"warning: {n}: its row" in errors for n in "abcde"] == [0, 1, 0, 0, 1]
    _encode(folder, tmp_path / "whole", _recipe())
    assert _files(tmp_path / "s") == _files(tmp_path / "whole") and len(opened.rows) == 5
    shutil.copytree(tmp_path / "s", tmp_path / "moved")
    shutil.move(folder, tmp_path / "elsewhere")
    _encode(tmp_path / "elsewhere", tmp_path / "moved", _recipe())
    assert "its row" not in capsys.readouterr().err


def test_digests_of_image_folders_depend_on_their_contents(tmp_path):
    (tmp_path / "f").mkdir()
    for n in range(40):
        (tmp_path / "f" / f"{n:03d}.bmp").write_bytes(bytes([n]) * 100)
    entry = {"f": {"file": "f", "label": 0, "split": "train", "fps": 10}}

    def digest():
        return provenance.video_digests(annotations.load(_list(tmp_path, entry)), {}, "real")["f"]

    values = [digest()]
    (tmp_path / "f" / "003.bmp").write_bytes(b"x" * 100)  # The second file that is sampled.
    values.append(digest())
    (tmp_path / "f" / "004.bmp").unlink()
    values.append(digest())
    entry["f"]["fps"] = 20
    values.append(digest())
    assert len(set(values)) == 4 and digest() == values[-1]


def test_the_usage_of_a_chat_server_is_reported(videos_folder, tmp_path):
    _list(tmp_path, {"a": _entry("a")})
    shutil.copy(videos_folder / "a.mp4", tmp_path / "a.mp4")
    with ChatServer(lambda body: {"caption": "a man walks"}) as server:
        command = [*_command(tmp_path, tmp_path / "s"), "--captioner=chat", "--chat_model=eye"]
        command += [f"--base_url={server.url}", "--price_input=1", "--price_output=2"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        asked = len(server.asked)
    usage = json.loads(done.stdout)["usage"]
    assert usage["requests"] == asked == json.loads(done.stdout)["snippets"] > 0
    assert usage["input_tokens"] > 0 and usage["cost"] > 0
    assert f"encode: usage {json.dumps(usage)}" in done.stderr


def _files(path):
    return {p.name: p.read_bytes() for p in pathlib.Path(path).iterdir() if p.name != ".lock"}


def _command(videos_folder, out):
    return [
        *(sys.executable, "-m", "generation.encode", f"--videos={videos_folder / 'videos.json'}"),
        *(f"--out={out}", "--encoder=motion", "--snippet_stride=8"),
    ]


@pytest.fixture(scope="module")
def uninterrupted(videos_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "s"
    outcome = subprocess.run(
        _command(videos_folder, out), check=True, capture_output=True, text=True
    )
    summary = json.loads(outcome.stdout)
    assert summary["finished"] and summary["videos"] == 5 and summary["encoder"] == "motion-v2"
    return _files(out)


def test_a_killed_run_resumes_to_the_same_bytes(videos_folder, uninterrupted, tmp_path):
    out = tmp_path / "s"
    killing.run(_command(videos_folder, out), "parts/*.json", 2)
    assert len(list(out.glob("parts/*.json"))) == 2
    with pytest.raises(UserError, match="run the same encode command again"):
        Store(out)
    subprocess.run(_command(videos_folder, out), check=True, capture_output=True)
    assert _files(out) == uninterrupted


def test_two_ranks_give_the_same_bytes_as_one(videos_folder, uninterrupted, tmp_path):
    out = tmp_path / "s"
    processes = [
        subprocess.Popen(
            _command(videos_folder, out),
            env=os.environ | {"RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for rank in range(2)
    ]
    finished = [json.loads(p.communicate()[0])["finished"] for p in processes]
    assert any(finished) and all(p.returncode == 0 for p in processes)
    assert _files(out) == uninterrupted


def test_two_workers_give_the_same_bytes_as_one_killed_and_resumed(
    videos_folder, uninterrupted, tmp_path
):
    out = tmp_path / "s"
    command = [*_command(videos_folder, out), "--workers=2"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(out.glob("parts/*.json")):
        time.sleep(0.01)
    running.kill()
    running.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert _files(out) == uninterrupted


def test_workers_tell_of_bad_videos_and_of_those_at_which_they_die(videos_folder, tmp_path, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    shutil.copy(videos_folder / "a.mp4", tmp_path)
    shutil.copy(videos_folder / "b.mp4", tmp_path)
    listed = _list(tmp_path, {name: _entry(name) for name in ("a", "bad", "b")})
    options = EncodeOptions(captioner="none")
    make_work = functools.partial(_dying_work, options, str(listed), str(tmp_path / "s"))
    with pytest.raises(Interrupted, match="one died at work on each of b; the others are done"):
        ranks.each(
            make_work, ["b", "bad", "a"], workers=2, label="encode", unit="video", progress=False
        )
    assert encoding.encode(listed, tmp_path / "s", options, progress=False, workers=2)
    opened = Store(tmp_path / "s")
    assert set(opened.rows) == {"a", "b"} and set(opened.quarantined) == {"bad"}
    errors = capsys.readouterr().err
    assert errors.count("warning: bad: not encoded") == 1, errors


def _dying_work(options, listed, out):
    """The work of encoding, by a process that is killed at video b."""
    digest_by_id = provenance.video_digests(annotations.load(listed), {}, "real")
    encode = encoding._start(options, digest_by_id, listed, out, None, progress=False)

    def work(ids):
        if list(ids) == ["b"]:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from encode(ids)

    return work


def test_errors_on_the_command_line_are_one_line(tmp_path):
    for arguments in ([], [f"--videos={tmp_path / 'none.json'}", "--out=s"], ["--encoder=none"]):
        command = [sys.executable, "-m", "generation.encode", *arguments]
        failed = subprocess.run(command, capture_output=True, text=True, cwd=os.getcwd())
        assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1, failed.stderr
