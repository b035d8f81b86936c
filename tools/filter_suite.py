"""How good is the filter? Defects planted into clips of the built-in world, and real clips.

    python -m tools.filter_suite --json=suite.json
    python -m tools.filter_suite --clips=FOLDER --reference=videos.json     real generated clips too

Every clip goes through H.264. Three questions, each beside dropping as many clips at random:
- Which planted defects (tools/planted.py) are found? Of each kind and severity the share dropped,
  by the pixel stage alone. Random dropping at the same rate finds as large a share of the broken
  as it drops of all: the drop rate of sound and broken clips together.
- Which sound clips are dropped, by class, at several domain gaps?
- What does the whole filter, with motion features, do to a set of which the world broke a share?
Its "twin" clips show the other event than described. Pixels can't see that; here some are found
only because the world draws such a clip exactly like its twin, which the filter notices.
Two kinds were kept out of every choice of measures and bounds; their rows are marked.
"""

import collections
import json
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from gvvad_jax.command import UserError, run_command
from gvvad_jax.store.files import write_atomically

GAPS = (0.0, 1.0, 2.0)
DEFECT_SHARE = 0.3
_SUFFIXES = (".gif", ".mp4", ".avi", ".mkv", ".webm")


def planted_defects(
    folder: pathlib.Path,
    real: Mapping[str, Sequence[float]],
    pairs: int,
    seed: int,
    kinds: Sequence[str],
) -> dict[str, Any]:
    """Sound clips at each gap, and each kind and severity planted into those of gap 1.

    Args:
      folder: for a file at a time.
      real: pixel scores of footage, by name.
      pairs: of clips; a multiple of 13 has every class equally often.
      seed: of the clips.
      kinds: of planted.DEFECTS.

    Returns:
      sound: by gap, {clips, dropped, dropped_light, reasons, by_class: {class: dropped}}.
      planted: by kind and severity, the same with strength and at_random, without by_class.
    """
    from generation.prompts.grammar import write_grammar
    from tools import planted

    descriptions = write_grammar(pairs, seed + 1)
    verdicts = _verdicts(_measured(folder, descriptions, seed, kinds), real)
    classes = {description.id: description.cls for description in descriptions}
    sound = {}
    for gap in map("{:g}".format, GAPS):
        dropped = [classes[name] for name, strict, _ in verdicts[gap] if strict]
        by_class = dict(sorted(collections.Counter(dropped).items()))
        sound[gap] = _counts(verdicts[gap]) | {"by_class": by_class}
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        for severity, strength in zip(
            planted.SEVERITIES, planted.DEFECTS[kind].strengths, strict=True
        ):
            counts = _counts(verdicts[f"{kind}-{severity}"])
            dropped, clips = (counts[key] + sound["1"][key] for key in ("dropped", "clips"))
            random = {"strength": strength, "at_random": round(dropped / clips, 4)}
            found.setdefault(kind, {})[severity] = counts | random
    return {"sound": sound, "planted": found}


def _measured(folder, descriptions, seed: int, kinds) -> dict[str, dict[str, float]]:
    """Pixel scores by "gap/clip" and "kind-severity/clip"."""
    import tqdm

    from generation.world import render
    from tools import planted

    measured, sound = {}, {}
    for gap in GAPS:
        for description in tqdm.tqdm(descriptions, f"sound clips, gap {gap:g}"):
            clip = render.render(description, domain="generated", domain_gap=gap, seed=seed + 1)
            measured[f"{gap:g}/{description.id}"] = _through_h264(folder, clip.frames_TxHxWx3)
            if gap == 1.0:
                sound[description.id] = clip.frames_TxHxWx3
    ids = list(sound)
    for kind in tqdm.tqdm(kinds, "planted defects"):
        for severity in planted.SEVERITIES:
            for index, name in enumerate(ids):
                # A clip of another pair, and so of another place.
                other = sound[ids[(index + 2) % len(ids)]]
                broken = planted.plant(kind, severity, sound[name], other, seed * 1000 + index)
                measured[f"{kind}-{severity}/{name}"] = _through_h264(folder, broken)
    return measured


def _through_h264(folder: pathlib.Path, frames_TxHxWx3: np.ndarray) -> dict[str, float]:
    from generation.media.writing import write_video
    from generation.world import render

    path = folder / "clip.mp4"
    write_video(path, frames_TxHxWx3, fps=render.FPS["generated"], crf=render.CRF["generated"])
    return _measure(path)


def _measure(path: pathlib.Path, fps: float | None = None) -> dict[str, float]:
    """Pixel scores of a file, as encoding measures them."""
    from generation.media import pixels, reading

    reader = reading.Reader(path)
    rate = reader.fps or fps
    if not rate:
        raise UserError(f"{path}: expected frames per second, found none; add fps to its entry")
    meter = pixels.Meter(reader.num_frames, rate)
    for _, frame_HxWx3 in reader.frames(meter.wanted):
        meter.add(frame_HxWx3)
    return meter.statistics(reader.decoded_frames, reader.declared_frames)


def _verdicts(
    measured: Mapping[str, Mapping[str, float]], real: Mapping[str, Sequence[float]]
) -> dict[str, list[tuple[str, tuple[str, ...], bool]]]:
    """(clip, reasons of strict, dropped by light) by what was planted, from "planted/clip"."""
    from generation.filter import filtering

    evidence = filtering.Evidence(measured, dict.fromkeys(measured, 0), real=real)
    strict, light = (filtering.decide(evidence, preset) for preset in ("strict", "light"))
    verdicts = collections.defaultdict(list)
    for decision, lightly in zip(strict, light, strict=True):
        group, name = decision.id.split("/", 1)
        verdicts[group].append((name, decision.reasons, not lightly.keep))
    return verdicts


def _counts(verdicts: Sequence[tuple[str, tuple[str, ...], bool]]) -> dict[str, Any]:
    reasons = collections.Counter(reason for _, strict, _ in verdicts for reason in strict)
    return {
        "clips": len(verdicts),
        "dropped": sum(bool(strict) for _, strict, _ in verdicts),
        "dropped_light": sum(light for *_, light in verdicts),
        "reasons": dict(reasons.most_common()),
    }


def broken_share(folder: pathlib.Path, real_store: pathlib.Path, pairs: int, seed: int) -> Any:
    """What the whole filter does to a set of clips of which the world broke a share.

    Args:
      folder: to work in.
      real_store: of footage, motion features.
      pairs: of generated clips.
      seed: of the clips.

    Returns:
      strict and rates (target keep-rates as published: 187 of 300 normal clips, 116 of 300
      abnormal ones), each {kept, clips, by_defect: {defect: [dropped, clips]}, summary}; the drop
      rate is what dropping at random drops of every defect.
    """
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions
    from generation.filter import filtering
    from generation.prompts.descriptions import save_descriptions
    from generation.prompts.grammar import write_grammar
    from generation.videos import generating
    from generation.videos.world_backend import WorldBackend
    from gvvad_jax.store.files import read_json
    from gvvad_jax.store.reader import Store

    descriptions = write_grammar(pairs, seed + 2)
    save_descriptions(folder / "prompts.jsonl", descriptions)
    backend = WorldBackend(seed=seed + 2, defect_share=DEFECT_SHARE)
    listed = generating.generate(descriptions, backend, folder / "generated", progress=False)
    options = EncodeOptions(encoder="motion", captioner="none", source="synthetic")
    encoding.encode(listed, folder / "store", options, prompts_path=folder / "prompts.jsonl")
    evidence = filtering.gather(Store(folder / "store"), Store(real_store))
    truth = read_json(folder / "generated" / "world_truth.json")
    found = {}
    for name, how in (
        ("strict", filtering.FilterOptions()),
        ("rates", filtering.FilterOptions(keep_normal=187 / 300, keep_abnormal=116 / 300)),
    ):
        decisions = filtering.decide(evidence, how)
        by_defect: dict[str, list[int]] = {}
        for decision in decisions:
            counts = by_defect.setdefault(truth[decision.id]["defect"] or "sound", [0, 0])
            counts[0] += not decision.keep
            counts[1] += 1
        found[name] = {
            "clips": len(decisions),
            "dropped": sum(not decision.keep for decision in decisions),
            "by_defect": dict(sorted(by_defect.items())),
            "summary": filtering.summary(decisions, evidence.labels, evidence),
        }
    return found


def real_clips(clips: pathlib.Path, reference: pathlib.Path) -> dict[str, Any]:
    """What the pixel stage says of clips in files, against real videos.

    Args:
      clips: folder of generated videos.
      reference: videos.json of real ones; those of its training split are compared with.

    Returns:
      clips, dropped, dropped_light, reference (number of real videos), and by_clip: {file:
      {reasons, badness, scores}}.
    """
    from generation.filter import filtering
    from gvvad_jax.store import annotations

    paths = sorted(path for path in clips.glob("*") if path.suffix.lower() in _SUFFIXES)
    videos = annotations.load(reference)
    training = videos.in_split("train")
    if not paths or not training:
        raise UserError(
            f"--clips, --reference: expected video files and training videos, found {len(paths)} "
            f"in {clips} and {len(training)} in {reference}; give others"
        )

    rows = [_measure(videos.resolve(video), video.fps) for video in training]
    real = {name: [row[name] for row in rows] for name in rows[0]}
    scores = {path.name: _measure(path) for path in paths}
    evidence = filtering.Evidence(scores, dict.fromkeys(scores, 0), real=real)
    strict = filtering.decide(evidence, "strict")
    return {
        "clips": len(strict),
        "dropped": sum(not decision.keep for decision in strict),
        "dropped_light": sum(not d.keep for d in filtering.decide(evidence, "light")),
        "reference": len(rows),
        "by_clip": {
            d.id: {"reasons": list(d.reasons), "badness": d.badness, "scores": dict(d.scores)}
            for d in strict
        },
    }


def world_suite(
    pairs: int, real_pairs: int, seed: int, kinds: Sequence[str] | None = None
) -> dict[str, Any]:
    """`planted_defects` and `broken_share` of one world, with footage of its own."""
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions
    from generation.prompts.grammar import write_grammar
    from generation.videos import generating
    from generation.videos.world_backend import WorldBackend
    from gvvad_jax.store.reader import Store
    from tools import planted

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        footage = generating.generate(
            write_grammar(real_pairs, seed),
            WorldBackend("footage", seed=seed),
            folder / "footage",
            progress=False,
        )
        encoding.encode(footage, folder / "real", EncodeOptions(captioner="none"))
        rows = [row.pixel_statistics for row in Store(folder / "real").rows.values()]
        real = {name: [row[name] for row in rows] for name in rows[0]}
        (folder / "broken").mkdir()
        found = planted_defects(folder, real, pairs, seed, kinds or list(planted.DEFECTS))
        found["broken_share"] = broken_share(folder / "broken", folder / "real", 2 * pairs, seed)
    return {"seed": seed, "pairs": pairs, "real_videos": len(rows)} | found


def table(found: Mapping[str, Any]) -> str:
    """The suite's result as text."""
    from tools import planted

    lines = []
    if "planted" in found:
        lines += [
            f"planted defects, seed {found['seed']}, pixel stage; random: what dropping as many "
            "of these and the sound clips at random finds",
            f"{'':10s}{'severity':9s}{'strength':>9s}{'strict':>9s}{'random':>8s}{'light':>8s}"
            "  reasons",
        ]
        for kind, severities in found["planted"].items():
            mark = " *" if kind in planted.HELD_OUT else ""
            for severity, c in severities.items():
                reasons = ", ".join(f"{reason} {n}" for reason, n in c["reasons"].items())
                lines.append(
                    f"{kind + mark:10s}{severity:9s}{c['strength']:9g}"
                    f"{c['dropped']:5d}/{c['clips']:<3d}{c['at_random']:8.2f}"
                    f"{c['dropped_light']:4d}/{c['clips']:<3d}  {reasons}"
                )
        lines += ["* kept out of every choice of measures and bounds", "", "sound clips dropped"]
        for gap, c in found["sound"].items():
            lines.append(
                f"  domain gap {gap}: {c['dropped']} of {c['clips']} {c['reasons']}, by class "
                f"{c['by_class']}; light {c['dropped_light']}"
            )
        lines += ["", "the whole filter on a set with broken clips, dropped of each:"]
        for name, c in found["broken_share"].items():
            dropped = ", ".join(f"{d} {n} of {of}" for d, (n, of) in c["by_defect"].items())
            share = c["dropped"] / c["clips"]
            lines.append(f"  {name}: {dropped}; at random {share:.2f} of each")
            lines.append(f"    reasons {c['summary']['reasons']}")
        for score, why in c["summary"]["not_judged"].items():
            lines.append(f"  not judged: {score}: {why}")
    if "real_clips" in found:
        c = found["real_clips"]
        lines += [
            "",
            f"given clips against {c['reference']} real videos: {c['dropped']} of {c['clips']} "
            f"dropped, light {c['dropped_light']}",
        ]
        for name, clip in c["by_clip"].items():
            verdict = ", ".join(clip["reasons"]) or "kept"
            lines.append(f"  {name:16s} {verdict:24s} {clip['badness']:+.2f}")
    return "\n".join(lines)


def main(_) -> None:
    if bool(_CLIPS.value) != bool(_REFERENCE.value):
        raise UserError("--clips, --reference: expected both or neither, found one; give both")
    if not _CLIPS.value and not _PAIRS.value:
        raise UserError("--pairs=0: expected --clips to judge instead, found none; give one")
    import cv2

    cv2.setNumThreads(1)
    if _JSON.value:
        pathlib.Path(_JSON.value).resolve().parent.mkdir(parents=True, exist_ok=True)
    found = {}
    if _CLIPS.value:  # First: its files may not be there, and the rest takes minutes.
        found["real_clips"] = real_clips(pathlib.Path(_CLIPS.value), pathlib.Path(_REFERENCE.value))
    if _PAIRS.value:
        found = world_suite(_PAIRS.value, _REAL_PAIRS.value, _SEED.value) | found
    print(table(found))
    if _JSON.value:
        write_atomically(_JSON.value, (json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    _SEED = flags.DEFINE_integer("seed", 0, "Of everything; bounds were chosen at 11.", 0)
    _PAIRS = flags.DEFINE_integer("pairs", 13, "Pairs of generated clips; 0: only --clips.", 0)
    _REAL_PAIRS = flags.DEFINE_integer("real_pairs", 26, "Pairs of footage to compare with.", 1)
    _CLIPS = flags.DEFINE_string("clips", None, "Folder of generated clips to judge as well.")
    _REFERENCE = flags.DEFINE_string("reference", None, "Real videos.json that --clips compare to.")
    _JSON = flags.DEFINE_string("json", None, "File for all counts.")
    run_command(main, usage=__doc__)
