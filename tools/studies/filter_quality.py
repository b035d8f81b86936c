"""How good is the filter? Defects planted into videos of the built-in world, and real videos.

- `planted_defects`: of each kind and severity of defect, the share of videos that the pixel stage
  drops. Dropping at random at the same rate finds as large a share of the broken videos as it drops
  of all; that share stands beside it. Sound videos are counted by class, at several domain gaps.
- `broken_share`: what the whole filter, with motion features, does to a set of which the world
  broke a share. Its "twin" videos show the other event than described, which pixels can't see;
  some are found here only because the world draws such a video exactly like its twin, which the
  filter notices.
- `judged_files`: what the pixel stage says of generated videos in files.

Every video goes through H.264.
"""

import collections
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gvvad_jax.command import UserError

if TYPE_CHECKING:
    from generation.prompts.descriptions import Description

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
    """Judges sound videos at each gap, and every defect planted into those of gap 1.

    Args:
      folder: folder for temporary files.
      real: pixel scores of footage, by name.
      pairs: pairs of generated videos; a multiple of 13 has every class equally often.
      seed: random seed of the videos.
      kinds: names in defects.DEFECTS.

    Returns:
      {"sound": {gap: {"clips", "dropped", "dropped_light", "reasons", "by_class": {class: number
      dropped}}}, "planted": {kind: {severity: the same with "strength" and "at_random" and without
      "by_class"}}}; "clips" is the number of videos.
    """
    from generation.prompts.grammar import write_grammar
    from tools.studies import defects

    descriptions = write_grammar(pairs, seed + 1)
    verdicts = _verdicts(_measured(folder, descriptions, seed, kinds), real)
    classes = {description.id: description.cls for description in descriptions}
    sound = {}
    for gap in map("{:g}".format, GAPS):
        dropped = [classes[name] for name, strict, _ in verdicts[gap] if strict]
        by_class = dict(sorted(collections.Counter(dropped).items()))
        sound[gap] = _counts(verdicts[gap]) | {"by_class": by_class}
    planted: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        for severity, strength in zip(
            defects.SEVERITIES, defects.DEFECTS[kind].strengths, strict=True
        ):
            counts = _counts(verdicts[f"{kind}-{severity}"])
            dropped, total = (counts[key] + sound["1"][key] for key in ("dropped", "clips"))
            random = {"strength": strength, "at_random": round(dropped / total, 4)}
            planted.setdefault(kind, {})[severity] = counts | random
    return {"sound": sound, "planted": planted}


def _measured(
    folder: pathlib.Path,
    descriptions: Sequence["Description"],
    seed: int,
    kinds: Sequence[str],
) -> dict[str, dict[str, float]]:
    """Pixel scores by "gap/video id" and "kind-severity/video id"."""
    import tqdm

    from generation.world import render
    from tools.studies import defects

    measured, sound = {}, {}
    for gap in GAPS:
        for description in tqdm.tqdm(descriptions, f"sound videos, gap {gap:g}"):
            options = render.WorldOptions(domain_gap=gap, seed=seed + 1)
            video = render.render(description, options)
            measured[f"{gap:g}/{description.id}"] = _through_h264(folder, video.frames_TxHxWx3)
            if gap == 1.0:
                sound[description.id] = video.frames_TxHxWx3
    ids = list(sound)
    for kind in tqdm.tqdm(kinds, "planted defects"):
        for severity in defects.SEVERITIES:
            for index, name in enumerate(ids):
                # A video of another pair, and so of another place.
                other = sound[ids[(index + 2) % len(ids)]]
                broken = defects.plant(kind, severity, sound[name], other, seed * 1000 + index)
                measured[f"{kind}-{severity}/{name}"] = _through_h264(folder, broken)
    return measured


def _through_h264(folder: pathlib.Path, frames_TxHxWx3: np.ndarray) -> dict[str, float]:
    from generation.media.writing import write_video
    from generation.world import render

    path = folder / "video.mp4"
    write_video(path, frames_TxHxWx3, fps=render.FPS["generated"], crf=render.CRF["generated"])
    return _measure(path)


def _measure(path: pathlib.Path, fps: float | None = None) -> dict[str, float]:
    """Pixel scores of a file, as encoding measures them."""
    from generation.media import pixels, reading

    reader = reading.Reader(path, fps=fps)
    if not reader.fps:
        raise UserError(
            f"{path}: expected frames per second, found none; add fps to its entry in videos.json"
        )
    meter = pixels.Meter(reader.num_frames, reader.fps)
    for _, picture in reader.frames(meter.wanted):
        meter.add(picture.scaled(picture.width, picture.height, "gray"))
    return meter.statistics(reader.decoded_frames, reader.declared_frames)


def _verdicts(
    measured: Mapping[str, Mapping[str, float]], real: Mapping[str, Sequence[float]]
) -> dict[str, list[tuple[str, tuple[str, ...], bool]]]:
    """Judges videos measured as "group/video id".

    Returns:
      {group: [(video id, reasons to drop it under strict, whether light drops it)]}.
    """
    from generation.filter import deciding
    from generation.filter.evidence import Evidence

    evidence = Evidence(measured, dict.fromkeys(measured, 0), real=real)
    strict, light = (deciding.decide(evidence, preset) for preset in ("strict", "light"))
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


def broken_share(
    folder: pathlib.Path, real_store: pathlib.Path, pairs: int, seed: int
) -> dict[str, Any]:
    """Filters a set of videos of which the world broke a share, with all measures.

    Args:
      folder: folder to work in.
      real_store: store of footage with motion features.
      pairs: pairs of generated videos.
      seed: random seed of the videos.

    Returns:
      {"strict", "rates"}, where rates aims at the published shares to keep (187 of 300 normal
      videos, 116 of 300 abnormal ones); each {"clips", "dropped", "by_defect": {defect: [number
      dropped, number]}, "summary"}. Dropping at random drops the same share of every defect.
    """
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions
    from generation.filter import deciding
    from generation.filter.evidence import gather
    from generation.prompts.descriptions import save_descriptions
    from generation.prompts.grammar import write_grammar
    from generation.videos import generating
    from generation.videos.world_backend import WorldBackend
    from generation.world.render import WorldOptions
    from gvvad_jax.store.files import read_json
    from gvvad_jax.store.reader import Store

    descriptions = write_grammar(pairs, seed + 2)
    save_descriptions(folder / "prompts.jsonl", descriptions)
    backend = WorldBackend(WorldOptions(seed=seed + 2), DEFECT_SHARE)
    listed = generating.generate(descriptions, backend, folder / "generated", progress=False)
    options = EncodeOptions(encoder="motion", captioner="none", source="synthetic")
    encoding.encode(listed, folder / "store", options, prompts_path=folder / "prompts.jsonl")
    evidence = gather(Store(folder / "store"), Store(real_store))
    truth = read_json(folder / "generated" / "world_truth.json")
    results = {}
    for name, how in (
        ("strict", deciding.FilterOptions()),
        ("rates", deciding.FilterOptions(keep_normal=187 / 300, keep_abnormal=116 / 300)),
    ):
        decisions = deciding.decide(evidence, how)
        by_defect: dict[str, list[int]] = {}
        for decision in decisions:
            counts = by_defect.setdefault(truth[decision.id]["defect"] or "sound", [0, 0])
            counts[0] += not decision.keep
            counts[1] += 1
        results[name] = {
            "clips": len(decisions),
            "dropped": sum(not decision.keep for decision in decisions),
            "by_defect": dict(sorted(by_defect.items())),
            "summary": deciding.summary(decisions, evidence.labels, evidence),
        }
    return results


def judged_files(folder: pathlib.Path, reference: pathlib.Path) -> dict[str, Any]:
    """Judges generated videos in files by the pixel stage, compared with real videos.

    Args:
      folder: folder of generated videos.
      reference: videos.json of real videos; those of its training split are used.

    Returns:
      {"clips", "dropped", "dropped_light", "reference": number of real videos, "by_clip": {file:
      {"reasons", "badness", "scores"}}}.

    Raises:
      UserError: no video in the folder, or no training video in the reference.
    """
    from generation.filter import deciding
    from generation.filter.evidence import Evidence
    from gvvad_jax.store import annotations

    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in _SUFFIXES)
    videos = annotations.load(reference)
    training = videos.in_split("train")
    if not paths or not training:
        raise UserError(
            f"--clips, --reference: expected video files and training videos, found {len(paths)} "
            f"in {folder} and {len(training)} in {reference}; give others"
        )

    rows = [_measure(videos.resolve(video), video.fps) for video in training]
    real = {name: [row[name] for row in rows] for name in rows[0]}
    scores = {path.name: _measure(path) for path in paths}
    evidence = Evidence(scores, dict.fromkeys(scores, 0), real=real)
    strict = deciding.decide(evidence, "strict")
    return {
        "clips": len(strict),
        "dropped": sum(not decision.keep for decision in strict),
        "dropped_light": sum(not d.keep for d in deciding.decide(evidence, "light")),
        "reference": len(rows),
        "by_clip": {
            d.id: {"reasons": list(d.reasons), "badness": d.badness, "scores": dict(d.scores)}
            for d in strict
        },
    }


def world_suite(
    pairs: int, real_pairs: int, seed: int, kinds: Sequence[str] | None = None
) -> dict[str, Any]:
    """Runs `planted_defects` and `broken_share` on one world with footage of its own.

    Args:
      pairs: pairs of generated videos; `broken_share` takes twice as many.
      real_pairs: pairs of footage to compare with.
      seed: random seed.
      kinds: names in defects.DEFECTS (default: all).
    """
    from generation.encode import encoding
    from generation.encode.recipe import EncodeOptions
    from generation.prompts.grammar import write_grammar
    from generation.videos import generating
    from generation.videos.world_backend import WorldBackend
    from generation.world.render import WorldOptions
    from gvvad_jax.store.reader import Store
    from tools.studies import defects

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        footage = generating.generate(
            write_grammar(real_pairs, seed),
            WorldBackend(WorldOptions(domain="footage", seed=seed)),
            folder / "footage",
            progress=False,
        )
        encoding.encode(footage, folder / "real", EncodeOptions(captioner="none"))
        rows = [row.pixel_statistics for row in Store(folder / "real").rows.values()]
        real = {name: [row[name] for row in rows] for name in rows[0]}
        (folder / "broken").mkdir()
        results = planted_defects(folder, real, pairs, seed, kinds or list(defects.DEFECTS))
        results["broken_share"] = broken_share(folder / "broken", folder / "real", 2 * pairs, seed)
    return {"seed": seed, "pairs": pairs, "real_videos": len(rows)} | results


def table(results: Mapping[str, Any]) -> str:
    """The results as text."""
    lines = []
    if "planted" in results:
        lines += _world_lines(results)
    if "real_clips" in results:
        c = results["real_clips"]
        lines += [
            "",
            f"given videos against {c['reference']} real videos: {c['dropped']} of {c['clips']} "
            f"dropped, light {c['dropped_light']}",
        ]
        for name, video in c["by_clip"].items():
            verdict = ", ".join(video["reasons"]) or "kept"
            lines.append(f"  {name:16s} {verdict:24s} {video['badness']:+.2f}")
    return "\n".join(lines)


def _world_lines(results: Mapping[str, Any]) -> list[str]:
    from tools.studies import defects

    lines = [
        f"planted defects, seed {results['seed']}, pixel stage; random: what dropping as many "
        "of these and the sound videos at random finds",
        f"{'':10s}{'severity':9s}{'strength':>9s}{'strict':>9s}{'random':>8s}{'light':>8s}"
        "  reasons",
    ]
    for kind, severities in results["planted"].items():
        mark = " *" if kind in defects.HELD_OUT else ""
        for severity, c in severities.items():
            reasons = ", ".join(f"{reason} {n}" for reason, n in c["reasons"].items())
            lines.append(
                f"{kind + mark:10s}{severity:9s}{c['strength']:9g}"
                f"{c['dropped']:5d}/{c['clips']:<3d}{c['at_random']:8.2f}"
                f"{c['dropped_light']:4d}/{c['clips']:<3d}  {reasons}"
            )
    lines += ["* kept out of every choice of measures and bounds", "", "sound videos dropped"]
    for gap, c in results["sound"].items():
        lines.append(
            f"  domain gap {gap}: {c['dropped']} of {c['clips']} {c['reasons']}, by class "
            f"{c['by_class']}; light {c['dropped_light']}"
        )
    lines += ["", "the whole filter on a set with broken videos, dropped of each:"]
    for name, c in results["broken_share"].items():
        dropped = ", ".join(f"{d} {n} of {of}" for d, (n, of) in c["by_defect"].items())
        share = c["dropped"] / c["clips"]
        lines.append(f"  {name}: {dropped}; at random {share:.2f} of each")
        lines.append(f"    reasons {c['summary']['reasons']}")
    for score, why in c["summary"]["not_judged"].items():
        lines.append(f"  not judged: {score}: {why}")
    return lines
