"""Decisions: defects planted in H.264 files are found, other videos are kept."""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import pytest

from generation.filter.deciding import FilterOptions, decide, nothing_kept, random_drop
from generation.filter.decisions import (
    Decision,
    load_decisions,
    save_decisions,
    thresholds_path,
)
from generation.filter.evidence import Evidence
from generation.media import pixels, reading
from generation.media.writing import write_video
from generation.prompts.grammar import write_grammar
from generation.world import render
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.format import Manifest, Row
from gvvad_jax.store.writer import StoreWriter

FPS = 8.0


def _scene(seed=0, num_frames=40, height=120, width=160):
    """Returns frames of a textured place through which three boxes move, with some noise."""
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
    write_video(path, frames, fps=FPS)
    video = reading.read(path)
    return pixels.pixel_statistics(video.frames_TxHxWx3, FPS, video.declared_frames)


def _evidence(videos, reference=(), labels=None, near=None):
    real = {name: [row[name] for row in reference] for name in (reference or [{}])[0]}
    return Evidence(videos, labels or dict.fromkeys(videos, 0), near or {}, real)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    reference = [_measured(folder, f"real{i}", _scene(i)) for i in range(100, 103)]
    videos = {}
    for kind, changes in (("sound", SOUND), ("broken", DEFECTS)):
        for name, change in changes.items():
            videos[f"{kind}-{name}"] = _measured(folder, name, change(_scene(1)))
    return videos, reference


def test_strict_names_each_planted_defect_and_keeps_other_videos(measured):
    decisions = {d.id: d for d in decide(_evidence(*measured))}
    for name, decision in decisions.items():
        kind, defect = name.split("-")
        if kind == "broken":
            assert not decision.keep and defect in decision.reasons, (name, decision)
            assert decision.badness > 0
        else:
            assert decision.keep and decision.reasons == (), (name, decision)
            assert decision.badness <= 0


def test_defects_of_the_built_in_world_are_found(tmp_path):
    descriptions = write_grammar(4, 5)

    def measured(domain, description, defect=None):
        video = render.render(
            description, render.WorldOptions(domain=domain, num_frames=49, seed=5), defect
        )
        path = tmp_path / "video.mp4"
        write_video(path, video.frames_TxHxWx3, fps=video.fps)
        return pixels.pixel_statistics(reading.read(path).frames_TxHxWx3, video.fps)

    reference = [measured("footage", description) for description in descriptions[:2]]
    videos = {
        f"{description.id}/{defect}": measured("generated", description, defect)
        for description in descriptions[-2:-1]
        for defect in (None, "frozen", "cut", "black", "static")
    }
    for preset in ("light", "strict"):
        for decision in decide(_evidence(videos, reference), preset):
            assert decision.keep == decision.id.endswith("None"), (preset, decision)


def test_light_drops_only_certainly_broken_videos(measured):
    videos, _ = measured
    decisions = decide(_evidence(videos), "light")
    dropped = {d.id.split("-")[1] for d in decisions if not d.keep}
    assert dropped == {"frozen", "cut", "static", "black", "blank"}


def test_none_keeps_all_videos_with_their_scores(measured):
    videos, _ = measured
    decisions = decide(_evidence(videos), "none")
    assert all(d.keep and d.scores == videos[d.id] and d.badness is None for d in decisions)


def test_infinite_or_missing_pixel_scores_drop_a_video(measured):
    videos, reference = measured
    sound = videos["sound-plain"]
    without = {name: score for name, score in sound.items() if name != "motion"}
    odd = {
        "fine": sound,
        "odd": sound | {"motion": float("nan")},
        "endless": sound | {"grain": math.inf},
        "unseen": {"decoded_share": 1.0},
        "without": without,
        # A missing feature score is no failure.
        "nameless": sound | {"text_similarity": 0.3},
    }
    kept = {d.id for d in decide(_evidence(odd, reference)) if d.keep}
    assert kept == {"fine", "nameless"}


def test_strict_needs_a_reference(measured):
    with pytest.raises(UserError, match="--preset=strict: .* found none; .*--reference_store"):
        decide(_evidence({}))
    with pytest.raises(UserError, match="found some without .*; encode their store"):
        decide(_evidence({}, [{"sharpness": 1.0}]))
    with pytest.raises(UserError, match="--preset"):
        decide(_evidence({}), "harsh")
    with pytest.raises(UserError, match="--preset=none"):
        FilterOptions(preset="none", keep_normal=0.5)
    with pytest.raises(UserError, match="--keep_abnormal"):
        FilterOptions(keep_abnormal=1.5)


def _graded(measured, count=20, labels=None):
    """Videos ever closer to the bound of blur and then beyond it; one is certainly broken."""
    videos, reference = measured
    sound = videos["sound-plain"]
    low = min(row["detail"] for row in reference) / 2
    graded = {f"{i:02d}": sound | {"detail": low * 2 ** (1 - 0.13 * i)} for i in range(count)} | {
        "black": videos["broken-black"],
        "lost": {},
    }
    labels = labels or dict.fromkeys(graded, 0)
    return _evidence(graded, reference, labels)


def test_target_rates_keep_the_best_and_never_certainly_broken_videos(measured):
    evidence = _graded(measured)
    best = [f"{i:02d}" for i in range(20)]
    within = [d.id for d in decide(evidence) if d.keep]
    assert within == best[:8]
    for rate, count in ((0.0, 0), (0.25, 6), (0.5, 11), (0.62, 14), (1.0, 20)):
        options = FilterOptions(keep_normal=rate)
        decisions = {d.id: d for d in decide(evidence, options)}
        kept = [name for name, d in decisions.items() if d.keep]
        # Of 22 videos, rounded; at most those that are not broken.
        assert kept == best[:count], rate
        assert all(not d.reasons for d in decisions.values() if d.keep)
        assert decisions["lost"].reasons == ("unreadable",)
        assert "black" in decisions["black"].reasons
        if rate == 0.25:
            assert decisions["07"].reasons == ("rank",) and decisions["15"].reasons == ("blur",)


def test_target_rates_are_per_label(measured):
    labels = dict.fromkeys(_graded(measured).scores, 0) | {f"{i:02d}": 1 for i in range(0, 20, 2)}
    evidence = _graded(measured, labels=labels)
    options = FilterOptions(keep_normal=0.5, keep_abnormal=0.3)
    kept = [d for d in decide(evidence, options) if d.keep]
    assert sorted(d.id for d in kept if d.label == 0) == ["01", "03", "05", "07", "09", "11"]
    assert sorted(d.id for d in kept if d.label == 1) == ["00", "02", "04"]
    # A label without a target rate keeps the videos within the bounds.
    kept = [d.id for d in decide(evidence, FilterOptions(keep_normal=0)) if d.keep]
    assert kept == ["00", "02", "04", "06"]


def _lines(evidence, **options):
    options = FilterOptions(**options)
    return nothing_kept(decide(evidence, options), evidence, options)


def test_where_nothing_is_kept_one_line_says_why_and_what_to_do(measured):
    every = _graded(measured)
    # The first eight are within the bounds of blur, the others only within those of light.
    labels = {name: int(name >= "08") for name in every.scores}
    assert _lines(every) == []
    assert _lines(_graded(measured, labels=labels)) == [
        "the filter keeps none of 14 abnormal videos, most often for 'blur' (13); --preset=light "
        "keeps 12, --keep_abnormal the best ones"
    ]
    assert _lines(_graded(measured, labels=labels), keep_abnormal=0.5) == []
    assert _lines(_graded(measured, labels=labels), preset="light") == []
    assert _lines(_graded(measured, labels=labels), keep_abnormal=0.03, keep_normal=0.0) == [
        "the filter keeps none of 8 normal videos: --keep_normal=0 of them is less than one; give "
        "a larger share",
        "the filter keeps none of 14 abnormal videos: --keep_abnormal=0.03 of them is less than "
        "one; give a larger share",
    ]
    # Nothing of either label is one line.
    names = ["12", "13", "black", "lost"]
    few = {name: every.scores[name] for name in names}
    labels = {"12": 0, "13": 1, "black": 0, "lost": 1}
    evidence = dataclasses.replace(every, scores=few, labels=labels)
    assert _lines(evidence) == [
        "the filter keeps none of 4 videos, most often for 'blur' (3); --preset=light keeps 2, "
        "--keep_normal and --keep_abnormal the best ones"
    ]
    broken = {"black": every.scores["black"], "lost": {}}
    evidence = dataclasses.replace(every, scores=broken, labels={"black": 1, "lost": 1})
    for options in ({}, {"preset": "light"}, {"keep_abnormal": 1.0}):
        assert _lines(evidence, **options) == [
            f"the filter keeps none of 2 {'abnormal ' if 'keep_abnormal' in options else ''}"
            "videos, most often for 'black' (1); they are certainly broken: look at some, and "
            "generate others"
        ]


def test_the_better_of_two_near_duplicates_is_kept(measured):
    videos, reference = measured
    sound = videos["sound-plain"]
    levels = {"a": 1.9, "b": 0.9, "c": 1.5, "d": 1.0}
    graded = {name: sound | {"flicker": level} for name, level in levels.items()}
    near = {"a": {"b": 0.99, "c": 0.99}, "b": {"a": 0.99, "c": 0.97}, "c": {"a": 0.99, "b": 0.97}}
    labels = dict.fromkeys("abcd", 1)
    for order in (1, -1):
        shuffled = dict(list(graded.items())[::order])
        decisions = decide(_evidence(shuffled, reference, labels, near))
        # b is the best; a is too similar to it; c is only similar to a, which is dropped.
        assert [(d.id, d.reasons) for d in decisions] == [
            ("a", ("duplicate",)), ("b", ()), ("c", ()), ("d", ()),
        ]  # fmt: skip
    evidence = _evidence(graded, reference, labels, near)
    assert all(d.keep for d in decide(evidence, "light"))
    options = FilterOptions(keep_abnormal=1.0)
    assert [d.id for d in decide(evidence, options) if d.keep] == ["b", "c", "d"]


def test_deciding_again_from_files_gives_the_same(measured, tmp_path):
    evidence = _graded(measured)
    evidence = dataclasses.replace(
        evidence, near={"01": {"02": 0.99}, "02": {"01": 0.99}}, not_judged={"realism": "no"}
    )
    for name, options in (
        ("strict", FilterOptions()),
        ("light", FilterOptions(preset="light")),
        ("none", FilterOptions(preset="none")),
        ("rates", FilterOptions(keep_normal=0.37)),
    ):
        decisions = decide(evidence, options)
        path = tmp_path / f"{name}.jsonl"
        save_decisions(path, decisions, evidence, options)
        kept, loaded = load_decisions(path)
        assert kept == decisions and loaded.not_judged == {"realism": "no"}
        for other in ("strict", "light"):
            assert decide(loaded, other) == decide(evidence, other)
        again = tmp_path / "again.jsonl"
        save_decisions(again, decide(loaded, options), loaded, options)
        assert again.read_bytes() == path.read_bytes()
        beside = [p.with_suffix(".thresholds.json").read_bytes() for p in (again, path)]
        assert beside[0] == beside[1]
    where = [thresholds_path(name).name for name in ("a.strict", "a.jsonl")]
    assert where == ["a.strict.thresholds.json", "a.thresholds.json"]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "d.jsonl"
    with pytest.raises(UserError, match=r"d\.jsonl: expected lines of a decision"):
        load_decisions(path)
    for line in (
        "nonsense",
        "[1]",
        '{"id": "a"}',
        '{"id": "a", "keep": true, "scores": {}}',
        '{"id": 3, "keep": true, "label": 1}',
        '{"id": "a", "keep": true, "label": 1, "scores": {"motion": "fast"}}',
        '{"id": "a", "keep": true, "label": 1, "scores": []}',
        '{"id": "a", "keep": "yes", "label": 1}',
    ):
        path.write_text(line + "\n")
        with pytest.raises(UserError, match=r"d\.jsonl: line 1"):
            load_decisions(path)
    path.write_text('{"id": "a", "keep": true, "label": 1}\n')
    with pytest.raises(UserError, match=r"d\.thresholds\.json"):
        load_decisions(path)
    (tmp_path / "d.thresholds.json").write_text("[]")
    with pytest.raises(UserError, match=r"d\.thresholds\.json"):
        load_decisions(path)


def test_random_drop_drops_as_many_of_each_label():
    decisions = [
        Decision(f"{i:02d}", keep=i % 10 >= (3 if i < 20 else 1), scores={"x": i})
        for i in range(40)
    ]
    labels = {d.id: int(int(d.id) >= 20) for d in decisions}
    control = random_drop(decisions, labels, seed=0)
    assert [d.id for d in control] == [d.id for d in decisions]
    assert sum(not d.keep for d in control if labels[d.id] == 0) == 6
    assert sum(not d.keep for d in control if labels[d.id] == 1) == 2
    assert {d.reasons for d in control if not d.keep} == {("random",)}
    assert control == random_drop(decisions[::-1], labels, seed=0)[::-1]
    assert control != random_drop(decisions, labels, seed=1)


def _store(path, videos, source, label_of):
    manifest = Manifest(
        encoder={"id": "none", "weights": "none", "pooling": "mean", "normalised": False},
        dim=1,
        crops={"count": 1, "order": "whole"},
        snippet={"frames": 16, "stride": 16, "pooling": "mean"},
        fps_policy="native",
    )
    entries = {
        name: {"file": f"{name}.mp4", "label": label_of(name), "split": "train"} for name in videos
    }
    writer = StoreWriter(path, manifest, annotations.from_json({"videos": entries}, "videos.json"))
    for name, statistics in videos.items():
        if statistics is None:
            writer.quarantine(name, "damaged")
            continue
        row = Row(
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
    videos, reference = measured
    _store(tmp_path / "syn", videos | {"lost": None}, "synthetic", lambda n: int("broken" in n))
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
    assert [line["id"] for line in lines] == sorted([*videos, "lost"])
    assert summary["kept"] == len(SOUND) and summary["dropped"] == len(DEFECTS) + 1
    assert summary["reasons"]["unreadable"] == 1 and summary["by_label"]["abnormal"]["kept"] == 0
    kept = [line for line in lines if line["keep"]]
    assert kept[0]["reasons"] == [] and kept[0]["label"] == 0
    assert videos[kept[0]["id"]].items() <= kept[0]["scores"].items()
    *errors, warning = outcome.stderr.splitlines()
    not_judged = [line.split(":")[1].strip() for line in errors]
    assert not_judged == ["consistency", "pair_margin", "text_similarity", "twin_similarity"]
    assert sorted(summary["not_judged"]) == not_judged
    assert summary["warnings"] == [warning]
    assert warning.startswith(f"the filter keeps none of {len(DEFECTS)} abnormal videos, most ")
    light = subprocess.run(
        [
            *command[:3],
            f"--scores={tmp_path / 'd.jsonl'}",
            "--preset=light",
            f"--out={tmp_path / 'e'}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(json.loads(light.stdout)["reasons"]) < len(summary["reasons"])
    failed = subprocess.run(
        [*command, f"--out={tmp_path / 'd.jsonl'}"], capture_output=True, text=True
    )
    assert failed.returncode == 2 and len(failed.stderr.splitlines()) == 1
    again = [*command[:3], f"--scores={tmp_path / 'd.jsonl'}", "--reference_store=none"]
    failed = subprocess.run([*again, f"--out={tmp_path / 'e'}"], capture_output=True, text=True)
    assert failed.returncode == 2 and "--scores: expected no --reference_store" in failed.stderr
