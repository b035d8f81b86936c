"""The filter: planted defects in real H.264 clips are found, sound clips are kept."""

import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from generation import filter as video_filter
from generation import prompts, video_io, world
from gvvad_jax import annotations, store
from gvvad_jax.store import UserError

FPS = 10.0


def _scene(seed=0, num_frames=40, height=120, width=160):
    """A textured place through which three boxes move; a little noise."""
    rng = np.random.default_rng(seed)
    place = cv2.resize(rng.integers(60, 190, (15, 20, 3)).astype(np.uint8), (width, height))
    place = np.clip(place + rng.normal(0, 12, place.shape), 0, 255).astype(np.uint8)
    starts, speeds = rng.uniform(10, 110, (3, 2)), rng.uniform(-2.5, 2.5, (3, 2))
    speeds[0] = (2.0, 0.5)
    frames = np.repeat(place[None], num_frames, axis=0)
    for t, frame in enumerate(frames):
        for n, (start, speed) in enumerate(zip(starts, speeds, strict=True)):
            x, y = (start + t * speed).astype(int) % (width - 14, height - 24)
            frame[y : y + 22, x : x + 12] = (60 * n, 220 - 80 * n, 40 + 60 * n)
        noise = rng.normal(0, 1.5, frame.shape)
        frame[:] = np.clip(frame + noise, 0, 255).astype(np.uint8)
    return frames


def _frozen(frames):
    frames[20:] = frames[20]
    return frames


def _cut(frames):
    frames[25:] = _scene(seed=77)[25:]
    return frames


def _flicker(frames):
    level = np.random.default_rng(5).uniform(-40, 40, (len(frames), 1, 1, 1))
    return np.clip(frames + level, 0, 255).astype(np.uint8)


def _static(frames):
    return np.repeat(frames[:1], len(frames), axis=0)


def _black(frames):
    return np.zeros_like(frames)


def _grey(frames):
    return np.full_like(frames, 130)


def _blur(frames):
    return np.stack([cv2.GaussianBlur(frame, (0, 0), 6) for frame in frames])


def _noise(frames):
    noise = np.random.default_rng(6).normal(0, 90, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def _camera(frames):
    wide = [np.concatenate([frame, frame[:, ::-1]] * 2, axis=1) for frame in frames]
    return np.stack([image[:, 9 * t % 320 :][:, :160] for t, image in enumerate(wide)])


DEFECTS = {
    "frozen": _frozen,
    "cut": _cut,
    "flicker": _flicker,
    "static": _static,
    "black": _black,
    "blank": _grey,
    "blur": _blur,
    "noise": _noise,
    "camera": _camera,
}


def _flash(frames):
    """A flash over the whole picture, as of an explosion."""
    frames[20] = np.clip(frames[20].astype(int) + 70, 0, 255)
    return frames


def _shots(frames):
    """Muzzle flashes in every seventh frame."""
    frames[3::7] = np.clip(frames[3::7].astype(int) + 40, 0, 255)
    return frames


def _dimmed(frames):
    ramp = np.linspace(1.0, 0.5, len(frames))[:, None, None, None]
    return (frames * ramp).astype(np.uint8)


def _lamp(frames):
    """A lamp that goes on halfway and stays on."""
    rows, columns = np.mgrid[:120, :160]
    glow = 60 * np.exp(-((rows - 40) ** 2 + (columns - 50) ** 2) / 60**2)
    frames[20:] = np.clip(frames[20:] + glow[..., None], 0, 255).astype(np.uint8)
    return frames


SOUND = {
    "plain": lambda frames: frames,
    "flash": _flash,
    "shots": _shots,
    "dimmed": _dimmed,
    "lamp": _lamp,
}


def _measured(folder, name, frames):
    path = pathlib.Path(folder) / f"{name}.mp4"
    video_io.write(path, frames, fps=FPS)
    video = video_io.read(path)
    return video_filter.pixel_statistics(video.frames_TxHxWx3, FPS, video.declared_frames)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    reference = [_measured(folder, f"real{i}", _scene(i)) for i in range(100, 103)]
    clips = {}
    for kind, changes in (("sound", SOUND), ("broken", DEFECTS)):
        for name, change in changes.items():
            clips[f"{kind}-{name}"] = _measured(folder, name, change(_scene(1)))
    return clips, reference


def test_strict_finds_each_planted_defect_by_name_and_keeps_sound_clips(measured):
    decisions = {d.id: d for d in video_filter.decide(*measured, "strict")}
    for name, decision in decisions.items():
        kind, defect = name.split("-")
        if kind == "broken":
            assert not decision.keep and defect in decision.reasons, (name, decision)
        else:
            assert decision.keep and decision.reasons == (), (name, decision)


def test_defects_of_the_built_in_world_are_found(tmp_path):
    descriptions = prompts.write_grammar(4, 5)

    def measured(domain, description, defect=None):
        clip = world.render(description, domain=domain, defect=defect, num_frames=49, seed=5)
        return _measured(tmp_path, "clip", clip.frames_TxHxWx3)

    reference = [measured("footage", description) for description in descriptions[:3]]
    clips = {
        f"{description.id}/{defect}": measured("generated", description, defect)
        for description in descriptions[-2:]
        for defect in (None, "frozen", "cut", "black", "static")
    }
    for preset in ("light", "strict"):
        for decision in video_filter.decide(clips, reference, preset):
            assert decision.keep == decision.id.endswith("None"), (preset, decision)


def test_light_drops_only_what_is_broken_beyond_doubt(measured):
    clips, _ = measured
    dropped = {d.id.split("-")[1] for d in video_filter.decide(clips, (), "light") if not d.keep}
    assert dropped == {"frozen", "cut", "static", "black", "blank"}


def test_none_keeps_all_and_still_stores_the_scores(measured):
    clips, _ = measured
    decisions = video_filter.decide(clips, (), "none")
    assert all(d.keep and d.scores == clips[d.id] for d in decisions)


def test_frozen_half_and_cut_have_the_shares_they_were_given(measured):
    clips, _ = measured
    # 19 of 39 steps are frozen; the encoder may still refine the picture in a few of them.
    assert clips["broken-frozen"]["frozen_share"] == pytest.approx(19 / 39, abs=0.11)
    assert clips["sound-plain"]["frozen_share"] == 0
    assert clips["broken-cut"]["cut_change"] > 0.65 > 0.4 > clips["sound-plain"]["cut_change"]
    assert clips["broken-black"]["black_share"] == 1


def test_flicker_by_hand():
    levels = np.tile([100, 110], 10).astype(np.uint8)
    frames = np.repeat(levels, 40 * 160 * 3).reshape(20, 40, 160, 3)
    # Every inner frame lies 10 grey levels off the mean of its neighbours.
    assert video_filter.pixel_statistics(frames, FPS)["flicker"] == pytest.approx(10.0)


def test_motion_is_in_percent_of_the_width_per_second_whatever_the_size():
    for width in (160, 320):
        frames = _scene(num_frames=9, width=160)
        shift = [np.roll(frames[0], 2 * t, axis=1) for t in range(9)]
        frames = np.stack([cv2.resize(f, (width, 120 * width // 160)) for f in shift])
        statistics = video_filter.pixel_statistics(frames, FPS)
        # 2 of 160 pixels ten times a second.
        assert statistics["camera"] == pytest.approx(12.5, rel=0.1)


def test_a_single_frame_and_a_damaged_clip():
    one = video_filter.pixel_statistics(_scene(num_frames=1), FPS, declared_frames=4)
    assert one["decoded_share"] == 0.25 and one["motion"] == 0 and one["cut_ratio"] == 0
    assert all(np.isfinite(list(one.values())))
    assert "integrity" in video_filter.decide({"a": one}, (), "light")[0].reasons


def test_a_measure_that_is_no_number_drops_the_clip(measured):
    clips, reference = measured
    odd = clips["sound-plain"] | {"motion": float("nan")}
    assert not video_filter.decide({"odd": odd}, reference, "strict")[0].keep


def test_strict_needs_a_reference():
    with pytest.raises(UserError, match="--reference_store"):
        video_filter.decide({}, (), "strict")
    with pytest.raises(UserError, match="--preset"):
        video_filter.decide({}, (), "harsh")


def test_random_drop_takes_as_many_of_each_label():
    decisions = [
        video_filter.Decision(f"{i:02d}", keep=i % 10 >= (3 if i < 20 else 1), scores={"x": i})
        for i in range(40)
    ]
    labels = {d.id: int(int(d.id) >= 20) for d in decisions}
    control = video_filter.random_drop(decisions, labels, seed=0)
    assert [d.id for d in control] == [d.id for d in decisions]
    assert sum(not d.keep for d in control if labels[d.id] == 0) == 6
    assert sum(not d.keep for d in control if labels[d.id] == 1) == 2
    assert {d.reasons for d in control if not d.keep} == {("random",)}
    assert control == video_filter.random_drop(decisions[::-1], labels, seed=0)[::-1]
    assert control != video_filter.random_drop(decisions, labels, seed=1)


def _store(path, clips, source, label_of):
    manifest = store.Manifest(
        encoder={"id": "none", "weights": "none", "pooling": "mean", "normalised": False},
        dim=1,
        crops={"count": 1, "order": "whole"},
        snippet={"frames": 16, "stride": 16, "pooling": "mean"},
        fps_policy="native",
    )
    entries = {
        name: {"file": f"{name}.mp4", "label": label_of(name), "split": "train"} for name in clips
    }
    writer = store.Writer(path, manifest, annotations.from_json({"videos": entries}, "videos.json"))
    for name, statistics in clips.items():
        if statistics is None:
            writer.quarantine(name, "damaged")
            continue
        row = store.Row(
            id=name,
            num_snippets=1,
            num_frames=40,
            fps=FPS,
            source=source,
            declared_frames=40,
            decoded_frames=40,
            pixel_statistics=statistics,
        )
        writer.add(row, np.zeros((1, 1, 1)))
    assert writer.pack()


def test_command_writes_every_decision_and_counts_them(measured, tmp_path):
    clips, reference = measured
    _store(tmp_path / "syn", clips | {"lost": None}, "synthetic", lambda n: int("broken" in n))
    _store(tmp_path / "real", {f"r{i}": r for i, r in enumerate(reference)}, "real", lambda n: 0)
    command = [sys.executable, "-m", "generation.filter", f"--store={tmp_path / 'syn'}"]
    outcome = subprocess.run(
        [*command, f"--reference_store={tmp_path / 'real'}", f"--out={tmp_path / 'd.jsonl'}"],
        capture_output=True,
        text=True,
        check=True,
    )
    summary = json.loads(outcome.stdout)
    lines = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == sorted([*clips, "lost"])
    assert summary["kept"] == len(SOUND) and summary["dropped"] == len(DEFECTS) + 1
    assert summary["reasons"]["unreadable"] == 1 and summary["by_label"]["abnormal"]["kept"] == 0
    kept = [line for line in lines if line["keep"]]
    assert kept[0]["reasons"] == [] and kept[0]["scores"] == clips[kept[0]["id"]]
    failed = subprocess.run(
        [*command, f"--out={tmp_path / 'd.jsonl'}"], capture_output=True, text=True
    )
    assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1
