"""Run every stage before training, in order, from one flagfile.

    python -m generation.pipeline --flagfile=configs/demo.flags --out=DIR
    python -m generation.pipeline --flagfile=configs/generate_ucf_crime.flags \\
        --videos=UCF_Crimes/videos.json --out=DIR

The stages are footage, descriptions, generated videos, stores of both, and the filter's decisions.
Without --videos, the built-in world renders footage in place of real cameras. By default the
grammar writes the descriptions and the world renders the generated videos; --writer=chat,
--backend=diffusers and --encoder=clip-l14 use the real models. If the command is killed, run it
again: it ends with the same stores and decisions. It prints one JSON object of paths and names the
stages on standard error. Videos that cannot be generated or encoded don't stop the others; they are
counted at the end, and the exit status is 3.
"""

import dataclasses
import gc
import json
import os
import pathlib
import sys
from typing import Any

from generation import ranks
from generation.chat.options import ChatOptions
from generation.encode.recipe import EncodeOptions
from generation.encoders.options import TEXT
from generation.filter import deciding
from generation.filter.deciding import FILTER
from generation.filter.decisions import save_decisions
from generation.filter.evidence import gather_from_files
from generation.ranks import WorkerOptions
from generation.videos.options import DiffusersOptions
from gvvad_jax.command import (
    UserError,
    check,
    define_flags,
    from_flags,
    group,
    run_command,
    settled,
)
from gvvad_jax.store import annotations, folders
from gvvad_jax.store.files import read_json_as, write_json
from gvvad_jax.store.format import STAND_IN
from gvvad_jax.store.reader import Store

# Over 400 lines, because the plan's flags and the stages that use them belong together.
DATA = group("Data")
GENERATED = group("Generated videos")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelinePlan:
    """Flags of the pipeline itself, beside those of the stages."""

    out: str = DATA("", "Folder of the results; the same command resumes it. Required.", free=True)
    videos: str = DATA(
        "", "List of real videos, a videos.json (default: footage of the built-in world)."
    )
    train_pairs: int = DATA(26, "Pairs of rendered footage for training, without --videos.", low=1)
    test_pairs: int = DATA(16, "Pairs of rendered footage for testing, without --videos.", low=1)
    data_seed: int = DATA(0, "Random seed of footage, descriptions and generated videos.", low=0)
    generated_pairs: int = GENERATED(36, "Pairs of generated videos.", low=1)
    writer: str = GENERATED(
        "grammar",
        "Writer of the descriptions: the built-in grammar or a language model.",
        choices=("grammar", "chat"),
    )
    clip_tokenizer: str = GENERATED(
        "",
        "Folder of a CLIP tokenizer that measures phrases exactly, with --writer=chat (default: an "
        "upper bound).",
    )
    allow_missing: int = GENERATED(
        0,
        "Failures to allow: pairs of descriptions by chat, videos by diffusers.",
        low=0,
        free=True,
    )
    backend: str = GENERATED(
        "world",
        "Generator of the videos: the built-in world, or a diffusers model.",
        choices=("world", "diffusers"),
    )
    domain_gap: float = GENERATED(
        1.0,
        "World: distance of generated videos from footage; 0 gives footage.",
        low=0,
    )
    defect_share: float = GENERATED(
        0.3, "Share of generated videos with a defect, with --backend=world.", low=0
    )
    synthetic_captioner: str = TEXT(
        "",
        "Captioner of generated videos; description takes their phrases (default: --captioner).",
        choices=("", STAND_IN),
    )
    random_drops: int = FILTER(
        4,
        "Number of control decisions that drop as many videos as the filter, at random.",
        low=0,
        free=True,
    )

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """The plan and the options of the stages."""

    plan: PipelinePlan = dataclasses.field(default_factory=PipelinePlan)
    chat: ChatOptions = dataclasses.field(default_factory=ChatOptions)
    diffusers: DiffusersOptions = dataclasses.field(default_factory=DiffusersOptions)
    rows: EncodeOptions = dataclasses.field(default_factory=EncodeOptions)
    filter: deciding.FilterOptions = dataclasses.field(default_factory=deciding.FilterOptions)
    workers: WorkerOptions = dataclasses.field(default_factory=WorkerOptions)

    @property
    def chosen(self) -> dict[str, Any]:
        """Values that differ from the defaults, by flag, without --out."""
        sections = [getattr(self, name) for name in SECTIONS]
        return {
            field.name: getattr(section, field.name)
            for section in sections
            for field in dataclasses.fields(section)
            if getattr(section, field.name) != field.default and field.name != "out"
        }


_ROWS = ("*/parts/*", "*/shard-*")
# By stage, the files that must not be mixed with those of other settings. While there are none, a
# stage may begin again with other settings, e.g. after an error in its options.
_RESULTS = {
    "footage": ("footage/videos/*.mp4", *_ROWS),
    "descriptions": ("prompts.jsonl", "prompts.answers/*/*"),
    "generated videos": ("generated/videos/*.mp4",),
    "stores": _ROWS,
    "filter": ("decisions.jsonl",),
}
# Classes of the options by name of the settings' field.
SECTIONS = {field.name: field.default_factory for field in dataclasses.fields(PipelineSettings)}


def define_pipeline_flags() -> None:
    """Defines a flag for each field of the plan and of the stages' options."""
    define_flags(*SECTIONS.values())


def settings_from_flags() -> PipelineSettings:
    """Returns the parsed flags; raises UserError if a value is out of range."""
    return PipelineSettings(**{name: from_flags(cls) for name, cls in SECTIONS.items()})


def run(settings: PipelineSettings) -> dict[str, Any]:
    """Runs or resumes every stage.

    Args:
      settings: the plan and the options of the stages.

    Returns:
      Paths as strings: real_videos, prompts, generated_videos, real_store, synthetic_store,
      decisions, random_decisions (a list); `filter`, counts of kept and dropped videos; and
      `failed`, how many videos could not be generated or encoded, by what they are.

    Raises:
      UserError: the folder was begun with other settings or is of something else, another pipeline
        is at work there, videos are missing, too many descriptions failed, or there are several
        ranks, which would have to wait for each other between stages.
      Interrupted: a stage is left without a single video.
    """
    plan = settings.plan
    if not plan.out:
        raise UserError("--out: expected a folder to write, found none; give one")
    if ranks.rank_and_size()[1] > 1:
        raise UserError(
            "WORLD_SIZE: expected one rank, found more; share the work of each stage with "
            "generation.videos and generation.encode instead, or give --ray_workers"
        )
    out = pathlib.Path(plan.out)
    _check(settings, out)
    folders.claim(out, "pipeline")
    busy = f"{out}: expected no other pipeline at work there, found one; wait until it has ended"
    with folders.locked(out / ".lock", busy):
        return _run_stages(settings, out)


def _run_stages(settings: PipelineSettings, out: pathlib.Path) -> dict[str, Any]:
    from generation.videos.world_backend import render_footage

    plan = settings.plan
    _begin("footage", settings, out)
    real_videos = pathlib.Path(plan.videos)
    if not plan.videos:
        real_videos = render_footage(
            out / "footage", plan.train_pairs, plan.test_pairs, plan.data_seed
        )
    _begin("descriptions", settings, out)
    _describe(settings, out / "prompts.jsonl")
    _begin("generated videos", settings, out)
    generated_videos, num_not_generated = _generate(settings, out)
    _begin("stores", settings, out)
    _encode(settings, out, real_videos, generated_videos)
    quarantined = {name: len(Store(out / name).quarantined) for name in ("real", "synthetic")}
    _begin("filter", settings, out)
    return {
        "real_videos": str(real_videos),
        "prompts": str(out / "prompts.jsonl"),
        "generated_videos": str(generated_videos),
        "real_store": str(out / "real"),
        "synthetic_store": str(out / "synthetic"),
        "failed": {
            "generated videos": num_not_generated,
            "real videos, not encoded": quarantined["real"],
            "generated videos, not encoded": quarantined["synthetic"],
        },
        **_decide(settings, out),
    }


def _check(settings: PipelineSettings, out: pathlib.Path) -> None:
    """Raises UserErrors of late stages before time and money are spent on earlier ones."""
    from generation.encode import encoding
    from generation.videos.world_backend import frame_size

    plan, rows = settings.plan, settings.rows
    if plan.synthetic_captioner and rows.captioner == "none":
        raise UserError(
            "--synthetic_captioner: expected text in both stores, found --captioner=none; give a "
            "captioner, or leave both out"
        )
    if rows.captioner == STAND_IN:
        raise UserError(
            f"--captioner: expected a captioner of real videos, found {STAND_IN}; give it as "
            "--synthetic_captioner"
        )
    if plan.writer == "chat":
        from generation.chat import client

        client.Server(settings.chat.with_cache(out / "prompts"))
    if plan.backend == "diffusers":
        from generation.videos.diffusers_backend import DiffusersBackend

        DiffusersBackend(settings.diffusers)
    else:
        frame_size(settings.diffusers.height, settings.diffusers.width)
    if plan.videos:
        listed = encoding.require_files(annotations.load(plan.videos)).videos.values()
        if settings.filter.preset == "strict" and all(v.split != "train" for v in listed):
            raise UserError(
                f"{plan.videos}: expected videos of the training split for --preset=strict to "
                "compare with, found none; list some, or give --preset=light"
            )
    if not (out / "synthetic" / "manifest.json").exists():
        rows.recipe(out / "captions")


def _settled(stage: str, settings: PipelineSettings) -> dict[str, Any]:
    """Returns the values that must not change when a stage is resumed, by flag."""
    plan = settled(settings.plan)
    plan["videos"] = plan["videos"] and os.path.abspath(plan["videos"])
    names = {
        "footage": ("videos", *(() if plan["videos"] else ("train_pairs", "test_pairs"))),
        "descriptions": ("generated_pairs", "writer"),
        "generated videos": ("backend",),
        "stores": ("synthetic_captioner",),
    }
    values = {name: plan[name] for name in ("data_seed", *names.get(stage, ()))}
    if stage == "descriptions" and settings.plan.writer == "chat":
        values |= settled(settings.chat) | {"clip_tokenizer": plan["clip_tokenizer"]}
    if stage == "generated videos":
        world = {name: plan[name] for name in ("domain_gap", "defect_share")}
        # The model and the first frames are compared by their content, not by their paths.
        by_content = ("model", "first_frames")
        diffusers = settled(settings.diffusers)
        values |= {name: value for name, value in diffusers.items() if name not in by_content}
        values |= world if settings.plan.backend == "world" else {}
    if stage == "stores":
        rows = settled(dataclasses.replace(settings.rows, source="real"))
        # A server's options matter to captions only if a server gives them.
        unused = settled(settings.chat) if settings.rows.captioner != "chat" else {}
        values |= {name: value for name, value in rows.items() if name not in unused}
    return values


def _begin(stage: str, settings: PipelineSettings, out: pathlib.Path) -> None:
    """Prints the stage and compares its settings with those of its results in the folder.

    Raises:
      UserError: the folder holds results of this stage from other settings.
    """
    values, path = _settled(stage, settings), out / "plan.json"
    plans: dict[str, dict[str, Any]] = {}
    if path.exists():
        plans = read_json_as(
            path, dict[str, dict[str, Any]], "settings by stage", "remove the folder"
        )
    has_results = any(any(out.glob(pattern)) for pattern in _RESULTS[stage])
    old_values = plans.get(stage, values) if has_results else values
    changed = [
        f"--{key}={old_values.get(key)} there, {value} now"
        for key, value in values.items()
        if old_values.get(key) != value
    ]
    if changed:
        raise UserError(
            f"{out}: expected the settings with which its {stage} were begun, found "
            f"{'; '.join(changed)}; give another --out or remove the folder"
        )
    # Frees the GPU memory of the previous stage.
    gc.collect()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()
    print(f"pipeline: {stage}", file=sys.stderr, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, plans | {stage: values})


def _describe(settings: PipelineSettings, path: pathlib.Path) -> None:
    from generation.prompts.descriptions import save_descriptions
    from generation.prompts.grammar import write_grammar

    plan = settings.plan
    # A seed of its own, so that generated places differ from those of the footage.
    pairs, seed = plan.generated_pairs, plan.data_seed + 1
    if plan.writer == "grammar":
        save_descriptions(path, write_grammar(pairs, seed))
        return
    if path.exists():
        # The file is complete. Asking again for missing pairs could change the other pairs, from
        # which videos have been generated.
        return
    from generation.prompts import by_chat

    written = by_chat.write_file(
        path,
        pairs,
        seed,
        settings.chat,
        clip_tokenizer=plan.clip_tokenizer,
        allow_missing=plan.allow_missing,
    )
    print(f"pipeline: usage {json.dumps(written['usage'])}", file=sys.stderr)
    if not written["complete"]:
        raise UserError(
            f"{path}: expected all {pairs} pairs, found {len(written['missing'])} missing; "
            f"{written['remedy']}"
        )


def _generate(settings: PipelineSettings, out: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Generates videos; returns their list, and how many failed beyond those that may."""
    from generation.prompts.descriptions import load_descriptions
    from generation.videos import generating, records
    from generation.videos.world_backend import WorldBackend, frame_size
    from generation.world.render import WorldOptions

    plan, model = settings.plan, settings.diffusers
    if plan.backend == "world":
        world = WorldOptions(
            seed=plan.data_seed + 1,
            domain_gap=plan.domain_gap,
            num_frames=model.num_frames,
            fps=model.fps,
            size=frame_size(model.height, model.width),
        )
        backend = WorldBackend(world, plan.defect_share)
    else:
        from generation.videos.diffusers_backend import DiffusersBackend

        backend = DiffusersBackend(model, plan.data_seed + 1)
    descriptions = load_descriptions(out / "prompts.jsonl")
    listed = generating.generate(
        descriptions,
        backend,
        out / "generated",
        ray_workers=settings.workers.ray_workers,
        gpus_a_worker=settings.workers.gpus_per_worker(),
    )
    num_failed = len(records.errors(out / "generated", descriptions))
    return listed, num_failed if num_failed > plan.allow_missing else 0


def _encode(
    settings: PipelineSettings,
    out: pathlib.Path,
    real_videos: pathlib.Path,
    generated_videos: pathlib.Path,
) -> None:
    from generation.encode import encoding

    plan, rows = settings.plan, settings.rows
    workers = {
        "ray_workers": settings.workers.ray_workers,
        "gpus_a_worker": settings.workers.gpus_per_worker(),
    }
    if not rows.cache:
        rows = dataclasses.replace(rows, cache=str(out / "captions.answers"))
    encoding.encode(real_videos, out / "real", dataclasses.replace(rows, source="real"), **workers)
    rows = dataclasses.replace(
        rows, source="synthetic", captioner=plan.synthetic_captioner or rows.captioner
    )
    encoding.encode(
        generated_videos, out / "synthetic", rows, prompts_path=out / "prompts.jsonl", **workers
    )


def _decide(settings: PipelineSettings, out: pathlib.Path) -> dict[str, Any]:
    evidence = gather_from_files(
        out / "synthetic", out / "real", out / "prompts.jsonl", settings.rows.weights
    )
    decisions = deciding.decide(evidence, settings.filter)
    save_decisions(out / "decisions.jsonl", decisions, evidence, settings.filter)
    random_paths = [out / f"random-{draw}.jsonl" for draw in range(settings.plan.random_drops)]
    for draw, path in enumerate(random_paths):
        at_random = deciding.random_drop(decisions, evidence.labels, settings.plan.data_seed + draw)
        save_decisions(path, at_random)
    return {
        "decisions": str(out / "decisions.jsonl"),
        "random_decisions": [str(path) for path in random_paths],
        "filter": deciding.summary(decisions, evidence.labels, evidence),
    }


def main(_) -> None:
    results = run(settings_from_flags())
    print(json.dumps(results))
    failed = [f"{count} {name}" for name, count in results["failed"].items() if count]
    if failed:
        print(
            f"failed: {', '.join(failed)}; the pipeline went on with the others, and the same "
            "command tries again to generate those that are missing",
            file=sys.stderr,
        )
        sys.exit(3)


if __name__ == "__main__":
    define_pipeline_flags()
    run_command(main, usage=__doc__)
