"""Imports features that others extracted into a store: finds, checks, describes, writes them."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gvvad_jax.command import UserError, check, group
from gvvad_jax.store import alignment, annotations, folders, sealing
from gvvad_jax.store.features import features_manifest
from gvvad_jax.store.format import Manifest
from tools.importing import hub, layouts, sources, telling, text, videos, writing
from tools.importing.checks import Content, Fault, FaultyFiles, contents_of, state
from tools.importing.encoders import BENCHMARKS, check_leakage
from tools.importing.plans import ImportPlan, say

_FILES = group("Files")
_MEANING = group("What they are")
_STORE = group("Store")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureImport:
    """Which features to import, and what they are; each field is a flag."""

    visual: str = _FILES(
        "",
        "Folders, lists or CSVs of visual features, .npy, .npz or .h5, separated by commas; "
        "train=PATH names a split, PATH::NAME an array of files with several.",
    )
    text: str = _FILES("", "Folders or lists of text features [T, E], found by the videos' names.")
    root: str = _FILES(
        "", "Folder below which the files of lists are looked for (default: each list's own)."
    )
    from_hub: str = _FILES(
        "", "Repository of the Hugging Face Hub, with @REVISION if wanted; paths are within it."
    )
    annotations: str = _MEANING(
        "", "A videos.json with labels, splits and frame counts (from import-truth)."
    )
    synthetic: str = _MEANING(
        "", "Pattern of names, or list, of generated videos; they get the store OUT-synthetic."
    )
    abnormal_first: tuple[int, ...] = _MEANING(
        (), "For each list of --visual: how many videos at its beginning are abnormal."
    )
    layout: str = _MEANING(
        "auto",
        "Order of axes: auto, TxNxD, NxTxD or per_crop (one file a crop), or one for each split: "
        "train=NxTxD,test=TxNxD.",
    )
    snippet_alignment: str = _MEANING(
        "auto",
        "Where rows lie: exact has row k cover the frames from k snippet_frames on, even shares a "
        "video's time evenly; auto tells by lengths.",
        choices=("auto", *alignment.ALIGNMENTS),
    )
    snippet_frames: int = _MEANING(16, "Frames of a snippet.", low=1)
    fps: float = _MEANING(25.0, "Frames per second where nothing says them.", low=0.001)
    crop: int | None = _MEANING(None, "Import this crop alone, from 0 (default: all).", low=0)
    encoder: str = _MEANING("unknown", "Name of what made the visual features, e.g. i3d.")
    text_encoder: str = _MEANING("unknown", "Name of what made the text features, e.g. simcse.")
    benchmark: str = _MEANING(
        "auto",
        "Data set that will be measured on, which the encoder mustn't have seen; auto tells by "
        "names.",
        choices=("auto", *BENCHMARKS, "other"),
    )
    allow_leakage: bool = _MEANING(False, "Import features of an encoder that saw the benchmark.")
    skip_faulty: bool = _STORE(False, "Leave out videos with faulty files, after listing them.")
    dtype: str = _STORE(
        "auto",
        "Type of the store's rows; auto is float16 where all files have it, else float32.",
        choices=("auto", "float16", "float32"),
    )
    out: str = _STORE("", "Folder of the store; the same command resumes it. Required.")

    def __post_init__(self) -> None:
        check(self)


def import_features(options: FeatureImport) -> dict[str, Any]:
    """Imports features into a store, and generated videos into a second one.

    Nothing is written before all files were checked. What is found out is reported on standard
    error.

    Args:
      options: what to import.

    Returns:
      {out, layout, videos, crops, dim, ...}, what was imported.

    Raises:
      FaultyFiles: files are missing or damaged, or don't fit each other.
      UserError: a flag is wrong, or something can't be told from files and names.
    """
    if not options.out:
        raise UserError("--out: expected the folder of a store, found none; name it")
    outs = {False: pathlib.Path(options.out)}
    if options.synthetic:
        outs[True] = pathlib.Path(f"{options.out}-synthetic")
    for out in outs.values():
        folders.require_own(out, "store", signs=sealing.SIGNS)
    options = _within_hub(options)
    plan = _found(options)
    benchmark = options.benchmark
    if benchmark == "auto":
        benchmark = videos.benchmark_of(plan.members) or "other"
    say(check_leakage(
        options.encoder, None if benchmark == "other" else benchmark, options.allow_leakage
    ))  # fmt: skip
    _detect(plan, options)
    text.add(plan, options.text, options.root)
    _read(plan, [writing.known_contents(out) for out in outs.values()])
    manifest = _manifest(plan, options)
    planned = _planned(plan, manifest, options)
    if plan.faults and not options.skip_faulty:
        raise FaultyFiles(plan.faults)
    for fault in sorted(set(plan.faults)):
        say(f"left out: {fault}")
    if not planned:
        raise UserError("--skip_faulty: expected a video without faults, found none; correct them")
    summary = telling.summary(plan, manifest, planned, benchmark)
    telling.advise(plan, manifest)
    states = {state(a): plan.contents[str(a)] for each in planned for a in each.arrays}
    for synthetic, out in outs.items():
        members = [each for each in planned if each.video.synthetic == synthetic]
        if members:
            written = writing.write(out, manifest, members, states, options.crop)
            name = "synthetic_out" if synthetic else "out"
            summary |= {name: str(out), f"{name}_written": written}
    return summary


def _within_hub(options: FeatureImport) -> FeatureImport:
    """Returns the options with the paths of a fetched repository."""
    if not options.from_hub:
        if not options.visual:
            raise UserError(
                "--visual: expected a folder, list or CSV of features, found none; name it, or a "
                "repository with --from_hub"
            )
        return options
    flags = {name: getattr(options, name) for name in ("visual", "text", "annotations", "root")}
    named = [item.rpartition("=")[2].partition("::")[0]
             for flag in flags.values() for item in flag.split(",") if item]  # fmt: skip
    # The files that a list names may be anywhere.
    whole = not options.visual or any(pathlib.PurePath(each).suffix for each in named)
    folder = hub.fetch(options.from_hub, [] if whole else named)
    say(f"{options.from_hub}: {folder}")

    def within(item: str) -> str:
        split, equals, path = item.rpartition("=")
        return f"{split}{equals}{folder / path}"

    paths = {k: ",".join(within(i) for i in v.split(",") if i) for k, v in flags.items()}
    paths["visual"] = paths["visual"] or str(folder)
    paths["root"] = paths["root"] or str(folder)
    return dataclasses.replace(options, **paths)


def _found(options: FeatureImport) -> ImportPlan:
    """Finds the files, and tells videos, crops, labels and splits."""
    found, faults = sources.find(options.visual, options.root, "visual")
    if not found:
        raise FaultyFiles(faults)
    members, doubled = videos.gather(found, layouts.parse_forced(options.layout))
    listed = annotations.load(options.annotations) if options.annotations else None
    unsaid = videos.describe(
        members,
        listed,
        synthetic=options.synthetic,
        abnormal_first=options.abnormal_first,
    )
    plan = ImportPlan(members, {}, {}, {}, faults)
    if options.crop is not None:
        _choose_crop(plan, options.crop)
    plan.drop([*doubled, *unsaid])
    return plan


def _choose_crop(plan: ImportPlan, crop: int) -> None:
    """Leaves the other crops of videos out that have a file for each."""
    faults = []
    for video in plan.members:
        if video.crops == [None]:
            continue
        if crop not in video.crops:
            what = f"expected crop {crop}, found {', '.join(map(str, video.crops))}"
            faults.append(Fault("crops", video.name, what, video.key))
            continue
        video.files = [video.files[video.crops.index(crop)]]
        video.crops = [0]
    plan.drop(faults)


def _detect(plan: ImportPlan, options: FeatureImport) -> None:
    """Tells the layouts, and drops what doesn't have them."""
    plan.drop(layouts.axes_faults(plan.members))
    if not plan.members:
        raise FaultyFiles(plan.faults)
    frames = options.snippet_frames
    fits = functools.partial(_fits, frames=frames)
    plan.layouts = layouts.detect(plan.by_source, layouts.parse_forced(options.layout), fits)
    if options.crop is None:
        _require_one_count(plan.layouts)
    for key, members in plan.by_source.items():
        layout = plan.layouts[key]
        if options.crop and options.crop >= layout.crops and layout.name != "per_crop":
            raise UserError(
                f"--crop={options.crop}: expected one of the {layout.crops} crops of {key[0]}, "
                "from 0; correct it"
            )
        faulty = layouts.shape_faults(members, layout)
        plan.drop(faulty)
        keys = {fault.video for fault in faulty}
        sound = [video for video in members if video.key not in keys]
        if sound:
            plan.segmented[key] = layouts.are_segmented(sound, layout, fits)
            say(telling.describe(key, sound, layout, plan.segmented[key]))


def _fits(rows: int, num_frames: int, frames: int) -> bool:
    return rows > 0 and alignment.fits(rows, num_frames, frames, frames)


def _require_one_count(detected: Mapping[tuple[str, str], layouts.Layout]) -> None:
    counts = {layout.crops: key for key, layout in detected.items()}
    if len(counts) > 1:
        listed = ", ".join(f"{count} in {key[0]} ({key[1]})" for count, key in counts.items())
        raise UserError(
            f"--visual: expected one number of crops in all sources, found {listed}; give --crop=K "
            "to import one crop alone, or import them into stores of their own"
        )


def _read(plan: ImportPlan, known: Sequence[Mapping[str, Content]]) -> None:
    """Reads all files once: NaN, norms, digests; drops videos whose files are faulty."""
    before = {key: content for each in known for key, content in each.items()}
    owners = {str(file.array): video.key for video in plan.members for file in video.files}
    arrays = [file.array for video in plan.members for file in video.files]
    owners |= {str(array): key for key, array in plan.texts.items()}
    arrays += [plan.texts[video.key] for video in plan.members if video.key in plan.texts]
    plan.contents, faults = contents_of(arrays, before)
    plan.drop([dataclasses.replace(f, video=owners[f.where]) for f in faults])


def _manifest(plan: ImportPlan, options: FeatureImport) -> Manifest:
    """Decides the store's settings.

    Raises:
      FaultyFiles: no video is left to tell them by.
    """
    if not plan.members:
        raise FaultyFiles(plan.faults)
    layout = plan.layouts[plan.members[0].source]
    arrays = [file.array for video in plan.members for file in video.files]
    dtype = options.dtype
    if dtype == "auto":
        dtype = "float16" if all(a.dtype == np.float16 for a in arrays) else "float32"
    if wide := sorted({str(array.dtype) for array in arrays if array.dtype.itemsize > 4}):
        say(f"{', '.join(wide)} is rounded to {dtype}")
    if dtype == "float16" and (top := max(c.top for c in plan.contents.values())) > 65504:
        raise UserError(
            f"--dtype=float16: expected values up to 65504, found {top:g}; give --dtype=float32"
        )
    first = next((plan.texts[v.key] for v in plan.members if v.key in plan.texts), None)
    return features_manifest(
        dim=layout.dim,
        crops=1 if options.crop is not None else layout.crops,
        snippet_frames=options.snippet_frames,
        text_dim=first.shape[-1] if first else 0,
        encoder=options.encoder,
        text_encoder=options.text_encoder,
        dtype=dtype,
        alignment=_alignment(plan, options),
    )


def _alignment(plan: ImportPlan, options: FeatureImport) -> str:
    """Tells where rows lie: those of the videos that are measured decide."""
    if options.snippet_alignment != "auto":
        return options.snippet_alignment
    keys = {video.source for video in plan.members}
    measured = {key for key in keys if key[1] not in ("train", "generated")} or keys
    return "even" if any(plan.segmented[key] for key in measured) else "exact"


def _planned(plan: ImportPlan, manifest: Manifest, options: FeatureImport) -> list[writing.Planned]:
    """Describes the videos as their stores will; adds what doesn't fit to the faults."""
    planned, faults = [], []
    for video in plan.members:
        segmented = plan.segmented[video.source] > 0
        trains = video.split == "train"
        try:
            planned.append(
                writing.plan(
                    video,
                    plan.layouts[video.source],
                    plan.texts.get(video.key),
                    manifest,
                    plan.contents,
                    fps=options.fps,
                    nominal=trains and segmented and manifest.snippet["alignment"] == "exact",
                    crop=options.crop,
                )
            )
        except UserError as error:
            what = str(error).removeprefix(f"add_video: video {video.id!r}: ")
            kind = "frames" if "frames" in what else "entry"
            faults.append(Fault(kind, video.name, what, video.key))
    plan.drop(faults)
    return planned
