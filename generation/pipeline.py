"""Run every stage before training, in order, from one flagfile.

    python -m generation.pipeline --flagfile=configs/demo.flags --out=DIR
    python -m generation.pipeline --flagfile=configs/generate_ucf_crime.flags \\
        --videos=UCF_Crimes/videos.json --out=DIR

The stages are footage, descriptions, generated videos, stores of both, and the filter's decisions.
Without --videos, the built-in world renders footage in place of real cameras. By default the
grammar writes the descriptions and the world renders the generated videos; --writer=chat,
--backend=diffusers and --encoder=clip-l14 use the real models. --like=DIR/real encodes the real
videos first, and generates videos of their frame rate and length. If the command is killed, run it
again: it ends with the same stores and decisions. It prints one JSON object of paths and names the
stages on standard error. Videos that cannot be generated or encoded don't stop the others; they are
counted at the end, and the exit status is 3.
"""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

from generation import ranks, stages
from generation.chat.options import ChatOptions
from generation.encode.recipe import EncodeOptions
from generation.encoders.options import TEXT
from generation.filter import deciding
from generation.filter.deciding import FILTER
from generation.filter.decisions import save_decisions
from generation.filter.evidence import gather_from_files
from generation.prompts.descriptions import Description
from generation.prompts.slots import EVENT_CLASSES, parse_classes
from generation.ranks import WorkerOptions
from generation.videos import like
from generation.videos.options import LIKE, DiffusersOptions
from gvvad_jax.command import (
    UserError,
    check,
    define_flags,
    from_flags,
    group,
    run_command,
)
from gvvad_jax.store import annotations, folders
from gvvad_jax.store.format import STAND_IN
from gvvad_jax.store.reader import Store

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
    classes: str = EVENT_CLASSES
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
    like: str = LIKE
    domain_gap: float = GENERATED(
        1.0,
        "World: distance of generated videos from footage; 0 gives footage.",
        low=0,
    )
    defect_share: float = GENERATED(
        0.3, "Share of generated videos with a defect, with --backend=world.", low=0, high=1
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
        parse_classes(self.classes)

    @property
    def is_like_own(self) -> bool:
        """Whether --like is the store of real videos that this pipeline makes itself."""
        return bool(self.like) and os.path.realpath(self.like) == os.path.realpath(
            os.path.join(self.out, "real")
        )


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


# Classes of the options by name of the settings' field.
SECTIONS = {field.name: field.default_factory for field in dataclasses.fields(PipelineSettings)}
# Options of stages that the pipeline sets itself.
SET_HERE = ("source",)


def define_pipeline_flags() -> None:
    """Defines a flag for each field of the plan and of the stages' options."""
    define_flags(*SECTIONS.values(), set_here=SET_HERE)


def settings_from_flags() -> PipelineSettings:
    """Returns the parsed flags; raises UserError if a value is out of range."""
    return PipelineSettings(**{name: from_flags(cls) for name, cls in SECTIONS.items()})


def run(settings: PipelineSettings) -> dict[str, Any]:
    """Runs or resumes every stage.

    Args:
      settings: the plan and the options of the stages.

    Returns:
      Paths as strings: real_videos, prompts, generated_videos, real_store, synthetic_store,
      decisions, random_decisions (a list); `filter`, counts of kept and dropped videos, and
      warnings; and `failed`, how many videos could not be generated or encoded, by what they are.

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
    stages.begin("footage", settings, out)
    real_videos = pathlib.Path(plan.videos)
    if not plan.videos:
        real_videos = render_footage(
            out / "footage", plan.train_pairs, plan.test_pairs, plan.data_seed
        )
    stages.begin("descriptions", settings, out)
    _describe(settings, out / "prompts.jsonl")
    if plan.is_like_own:
        stages.begin("stores", settings, out)
        _encode_real(settings, out, real_videos)
    stages.begin("generated videos", settings, out)
    generated_videos, num_not_generated = _generate(settings, out)
    stages.begin("stores", settings, out)
    _encode_real(settings, out, real_videos)
    _encode_generated(settings, out, generated_videos)
    quarantined = {name: len(Store(out / name).quarantined) for name in ("real", "synthetic")}
    stages.begin("filter", settings, out)
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
    else:
        _write_by_grammar(plan)
    if plan.like:
        like.bounds(settings.diffusers, plan.backend)
        if not plan.is_like_own:
            like.read(plan.like)
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


def _write_by_grammar(plan: PipelinePlan) -> list[Description]:
    from generation.prompts.grammar import write_grammar

    # A seed of its own, so that generated places differ from those of the footage.
    return write_grammar(plan.generated_pairs, plan.data_seed + 1, parse_classes(plan.classes))


def _describe(settings: PipelineSettings, path: pathlib.Path) -> None:
    from generation.prompts.descriptions import save_descriptions

    plan = settings.plan
    if plan.writer == "grammar":
        save_descriptions(path, _write_by_grammar(plan))
        return
    if path.exists():
        # The file is complete. Asking again for missing pairs could change the other pairs, from
        # which videos have been generated.
        return
    from generation.prompts import by_chat

    written = by_chat.write_file(
        path,
        plan.generated_pairs,
        plan.data_seed + 1,
        settings.chat,
        classes=parse_classes(plan.classes),
        clip_tokenizer=plan.clip_tokenizer,
        allow_missing=plan.allow_missing,
    )
    print(f"pipeline: usage {json.dumps(written['usage'])}", file=sys.stderr)
    if not written["complete"]:
        raise UserError(
            f"{path}: expected all {plan.generated_pairs} pairs, found {len(written['missing'])} "
            f"missing; {written['remedy']}"
        )


def _generate(settings: PipelineSettings, out: pathlib.Path) -> tuple[pathlib.Path, int]:
    """Generates videos; returns their list, and how many failed beyond those that may."""
    from generation.prompts.descriptions import load_descriptions
    from generation.videos import generating, records
    from generation.videos.world_backend import WorldBackend, frame_size
    from generation.world.render import WorldOptions

    plan = settings.plan
    model, said = stages.generator_options(settings)
    if said:
        print(said, file=sys.stderr)
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
    workers = _workers(settings)
    if plan.backend != "world":
        workers["workers"] = 1  # A GPU holds one text-to-video model.
    listed = generating.generate(descriptions, backend, out / "generated", **workers)
    num_failed = len(records.errors(out / "generated", descriptions))
    return listed, num_failed if num_failed > plan.allow_missing else 0


def _encode_real(settings: PipelineSettings, out: pathlib.Path, real_videos: pathlib.Path) -> None:
    from generation.encode import encoding

    rows = dataclasses.replace(_rows(settings, out), source="real")
    encoding.encode(real_videos, out / "real", rows, **_workers(settings))


def _encode_generated(
    settings: PipelineSettings, out: pathlib.Path, generated_videos: pathlib.Path
) -> None:
    from generation.encode import encoding

    rows = _rows(settings, out)
    rows = dataclasses.replace(
        rows, source="synthetic", captioner=settings.plan.synthetic_captioner or rows.captioner
    )
    prompts = out / "prompts.jsonl"
    encoding.encode(
        generated_videos, out / "synthetic", rows, prompts_path=prompts, **_workers(settings)
    )


def _rows(settings: PipelineSettings, out: pathlib.Path) -> EncodeOptions:
    cache = settings.rows.cache or str(out / "captions.answers")
    return dataclasses.replace(settings.rows, cache=cache)


def _workers(settings: PipelineSettings) -> dict[str, Any]:
    return {
        "workers": settings.workers.num_workers,
        "ray_workers": settings.workers.ray_workers,
        "gpus_a_worker": settings.workers.gpus_per_worker(),
    }


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
    counts = deciding.summary(decisions, evidence.labels, evidence)
    counts["warnings"] = deciding.nothing_kept(decisions, evidence, settings.filter)
    for line in counts["warnings"]:
        print(line, file=sys.stderr)
    return {
        "decisions": str(out / "decisions.jsonl"),
        "random_decisions": [str(path) for path in random_paths],
        "filter": counts,
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
