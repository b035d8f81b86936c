"""Every stage left of training, in order, from one flagfile.

    python -m generation.pipeline --flagfile=configs/demo.flags --out=DIR
    python -m generation.pipeline --flagfile=configs/generate_ucf_crime.flags \\
        --videos=UCF_Crimes/videos.json --out=DIR

footage -> descriptions -> generated videos -> stores of both -> the filter's decisions. Without
--videos the footage is the built-in world's stand-in for real cameras; by default descriptions come
from the grammar and generated videos from the world: --writer=chat, --backend=diffusers and
--encoder=clip-l14 take the real models. Killed anywhere, the same command goes on and ends with the
same stores and decisions. Prints one JSON object of paths; the stages are named on standard error.
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
from generation.filter import deciding
from generation.filter.decisions import save_decisions
from generation.filter.evidence import gather_from_files
from generation.videos.options import DiffusersOptions
from gvvad_jax.command import (
    UserError,
    check,
    define_flags,
    from_flags,
    option,
    run_command,
    settled,
)
from gvvad_jax.store import annotations
from gvvad_jax.store.files import read_json, write_json
from gvvad_jax.store.format import STAND_IN


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelinePlan:
    """What the pipeline makes; each field is a flag, beside those of the stages."""

    out: str = option("", "folder to write; the same command resumes it", free=True)
    videos: str = option("", "videos.json of real videos; the world's footage without it")
    train_pairs: int = option(26, "world: pairs of footage to train on", low=1)
    test_pairs: int = option(16, "world: pairs of footage to test on", low=1)
    generated_pairs: int = option(36, "pairs of generated videos", low=1)
    writer: str = option("grammar", "who writes descriptions", choices=("grammar", "chat"))
    clip_tokenizer: str = option("", "chat: folder of a CLIP tokenizer that measures phrases")
    allow_missing: int = option(
        0, "chat: pairs, and diffusers: clips, that may fail for good", low=0, free=True
    )
    backend: str = option("world", "who generates", choices=("world", "diffusers"))
    domain_gap: float = option(1.0, "world: 0 is footage, larger is further", low=0)
    defect_share: float = option(0.3, "world: share of generated clips that are broken", low=0)
    synthetic_captioner: str = option(
        "", "of generated videos, where it isn't --captioner: description", choices=("", STAND_IN)
    )
    random_drops: int = option(
        4, "draws that drop as many at random: the control", low=0, free=True
    )
    data_seed: int = option(0, "of everything random here", low=0)
    ray_workers: int = option(0, "Ray's processes for videos and stores; 0: none", low=0, free=True)
    gpus_a_worker: float | None = option(
        None, "GPUs that Ray gives each; 1 where this machine has one unless told", low=0, free=True
    )

    def __post_init__(self):
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PipelineSettings:
    """The plan and what the stages are told."""

    plan: PipelinePlan = dataclasses.field(default_factory=PipelinePlan)
    chat: ChatOptions = dataclasses.field(default_factory=ChatOptions)
    diffusers: DiffusersOptions = dataclasses.field(default_factory=DiffusersOptions)
    rows: EncodeOptions = dataclasses.field(default_factory=EncodeOptions)
    filter: deciding.FilterOptions = dataclasses.field(default_factory=deciding.FilterOptions)

    @property
    def chosen(self) -> dict[str, Any]:
        """What isn't as it is by default, by flag; without --out."""
        given = [getattr(self, name) for name in SECTIONS]
        return {
            field.name: getattr(section, field.name)
            for section in given
            for field in dataclasses.fields(section)
            if getattr(section, field.name) != field.default and field.name != "out"
        }


_ROWS = ("*/parts/*", "*/shard-*")
# By stage, what is there once it has made something that other settings would be mixed with. A
# stage that ended in its user's mistake before that takes the correction.
_MADE = {
    "footage": ("footage/videos/*.mp4", *_ROWS),
    "descriptions": ("prompts.jsonl", "prompts.answers/*/*"),
    "generated videos": ("generated/videos/*.mp4",),
    "stores": _ROWS,
    "filter": ("decisions.jsonl",),
}
# By name of the settings' field.
SECTIONS = {field.name: field.default_factory for field in dataclasses.fields(PipelineSettings)}


def define_pipeline_flags() -> None:
    """Defines a flag for each field of each of the settings."""
    define_flags(*SECTIONS.values())


def settings_from_flags() -> PipelineSettings:
    """The parsed flags; raises UserError on a value out of range."""
    return PipelineSettings(**{name: from_flags(cls) for name, cls in SECTIONS.items()})


def run(settings: PipelineSettings) -> dict[str, Any]:
    """Runs or resumes every stage.

    Args:
      settings: what to make.

    Returns:
      Paths, as strings: real_videos, prompts, generated_videos, real_store, synthetic_store,
      decisions, random_decisions (one a draw); and `filter`, the counts of kept and dropped clips.

    Raises:
      UserError: a folder begun with other settings, a fault of the videos, descriptions or clips
        that failed for good, or ranks: a rank would have to wait for the others between stages;
        run the stages' own commands there, or --ray_workers.
    """
    from generation.videos.world_backend import render_footage

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

    _begin("footage", settings, out)
    real_videos = pathlib.Path(plan.videos)
    if not plan.videos:
        real_videos = render_footage(
            out / "footage", plan.train_pairs, plan.test_pairs, plan.data_seed
        )
    _begin("descriptions", settings, out)
    _describe(settings, out / "prompts.jsonl")
    _begin("generated videos", settings, out)
    generated_videos = _generate(settings, out)
    _begin("stores", settings, out)
    _encode(settings, out, real_videos, generated_videos)
    _begin("filter", settings, out)
    return {
        "real_videos": str(real_videos),
        "prompts": str(out / "prompts.jsonl"),
        "generated_videos": str(generated_videos),
        "real_store": str(out / "real"),
        "synthetic_store": str(out / "synthetic"),
        **_decide(settings, out),
    }


def _check(settings: PipelineSettings, out: pathlib.Path) -> None:
    """Finds what would only come out late: after money and days were spent on other stages."""
    from generation.encode import encoding
    from generation.videos.world_backend import frame_size

    plan, rows = settings.plan, settings.rows
    if plan.synthetic_captioner and rows.captioner == "none":
        raise UserError(
            "--synthetic_captioner: expected text in both stores, found --captioner=none; give "
            "one, or leave both out"
        )
    if rows.captioner == STAND_IN:
        raise UserError(
            f"--captioner: expected one that real videos can have, found {STAND_IN}; give it as "
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
    """What a stage that was begun can't go on without."""
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
        values |= settled(settings.diffusers)
        values |= world if settings.plan.backend == "world" else {}
    if stage == "stores":
        rows = settled(dataclasses.replace(settings.rows, source="real"))
        # What it is told of a server is about captions only where a server gives them.
        asked = settled(settings.chat) if settings.rows.captioner != "chat" else {}
        values |= {name: value for name, value in rows.items() if name not in asked}
    return values


def _begin(stage: str, settings: PipelineSettings, out: pathlib.Path) -> None:
    """Names a stage, and holds the folder to the settings of what the stage has made."""
    ours, path = _settled(stage, settings), out / "plan.json"
    begun = read_json(path) if path.exists() else {}
    if not isinstance(begun, dict) or not all(isinstance(v, dict) for v in begun.values()):
        raise UserError(f"{path}: expected settings by stage, found otherwise; remove the folder")
    made = any(any(out.glob(pattern)) for pattern in _MADE[stage])
    theirs = begun.get(stage, ours) if made else ours
    changed = [
        f"--{key}={theirs.get(key)} there, {value} now"
        for key, value in ours.items()
        if theirs.get(key) != value
    ]
    if changed:
        raise UserError(
            f"{out}: expected the settings that its {stage} were begun with, found "
            f"{'; '.join(changed)}; give another --out or remove the folder"
        )
    # What the stage before had on a GPU is nobody's any more.
    gc.collect()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()
    print(f"pipeline: {stage}", file=sys.stderr, flush=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(path, begun | {stage: ours})


def _describe(settings: PipelineSettings, path: pathlib.Path) -> None:
    from generation.prompts.descriptions import save_descriptions
    from generation.prompts.grammar import write_grammar

    plan = settings.plan
    # Another stream than the footage's, so that no generated place is one of its places.
    pairs, seed = plan.generated_pairs, plan.data_seed + 1
    if plan.writer == "grammar":
        save_descriptions(path, write_grammar(pairs, seed))
        return
    if path.exists():
        # Complete. Asking again for what was allowed to be missing could change what was made of
        # the others.
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


def _gpus_a_worker(plan: PipelinePlan) -> float:
    if plan.gpus_a_worker is not None or not plan.ray_workers:
        return plan.gpus_a_worker or 0.0
    return float(ranks.this_ranks_device() != "cpu")


def _generate(settings: PipelineSettings, out: pathlib.Path) -> pathlib.Path:
    from generation.prompts.descriptions import load_descriptions
    from generation.videos import generating
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
    listed = generating.generate(
        load_descriptions(out / "prompts.jsonl"),
        backend,
        out / "generated",
        ray_workers=plan.ray_workers,
        gpus_a_worker=_gpus_a_worker(plan),
    )
    errors = read_json(out / "generated" / "errors.json")
    if len(errors) > plan.allow_missing:
        name, error = next(iter(errors.items()))
        raise UserError(
            f"{out / 'generated'}: expected all clips, found {len(errors)} that failed, {name!r} "
            f"with {error}; the same command tries again, --allow_missing does without them"
        )
    return listed


def _encode(
    settings: PipelineSettings,
    out: pathlib.Path,
    real_videos: pathlib.Path,
    generated_videos: pathlib.Path,
) -> None:
    from generation.encode import encoding

    plan, rows = settings.plan, settings.rows
    workers = {"ray_workers": plan.ray_workers, "gpus_a_worker": _gpus_a_worker(plan)}
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
    print(json.dumps(run(settings_from_flags())))


if __name__ == "__main__":
    define_pipeline_flags()
    run_command(main, usage=__doc__)
