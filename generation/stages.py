"""The pipeline's stages: what each was begun with, and must not be mixed with (plan.json)."""

import dataclasses
import gc
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from generation.prompts.descriptions import CLASSES
from generation.prompts.slots import parse_classes
from generation.videos import like
from gvvad_jax.command import UserError, settled
from gvvad_jax.store.files import read_json_as, write_json

if TYPE_CHECKING:
    from generation.pipeline import PipelineSettings
    from generation.videos.options import DiffusersOptions

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


def settled_values(stage: str, settings: "PipelineSettings") -> dict[str, Any]:
    """Returns the values that must not change when a stage is resumed, by flag."""
    plan = settled(settings.plan)
    plan["videos"] = plan["videos"] and os.path.abspath(plan["videos"])
    classes = parse_classes(plan["classes"])
    plan["classes"] = "" if classes == CLASSES else ",".join(classes)
    names = {
        "footage": ("videos", *(() if plan["videos"] else ("train_pairs", "test_pairs"))),
        "descriptions": ("generated_pairs", "writer", "classes"),
        "generated videos": ("backend",),
        "stores": ("synthetic_captioner",),
    }
    values = {name: plan[name] for name in ("data_seed", *names.get(stage, ()))}
    if stage == "descriptions" and settings.plan.writer == "chat":
        values |= settled(settings.chat) | {"clip_tokenizer": plan["clip_tokenizer"]}
    if stage == "generated videos":
        world = {name: plan[name] for name in ("domain_gap", "defect_share")}
        # The model and the first frames are compared by their content, not by their paths; the real
        # videos of --like by the rate and the length that follow from them.
        by_content = ("model", "first_frames", "first_frames_weights")
        diffusers = settled(generator_options(settings)[0])
        values |= {name: value for name, value in diffusers.items() if name not in by_content}
        values |= world if settings.plan.backend == "world" else {}
    if stage == "stores":
        rows = settled(dataclasses.replace(settings.rows, source="real"))
        # A server's options matter to captions only if a server gives them.
        unused = settled(settings.chat) if settings.rows.captioner != "chat" else {}
        values |= {name: value for name, value in rows.items() if name not in unused}
    return values


def generator_options(settings: "PipelineSettings") -> tuple["DiffusersOptions", str]:
    """Returns the generator's options, and what --like chose, as one line, or ""."""
    if not settings.plan.like:
        return settings.diffusers, ""
    return like.fitted(settings.diffusers, settings.plan.backend, settings.plan.like)


def begin(stage: str, settings: "PipelineSettings", out: pathlib.Path) -> None:
    """Prints the stage and compares its settings with those of its results in the folder.

    A flag that the folder's version didn't have yet had its default there.

    Raises:
      UserError: the folder holds results of this stage from other settings.
    """
    values, path = settled_values(stage, settings), out / "plan.json"
    plans: dict[str, dict[str, Any]] = {}
    if path.exists():
        plans = read_json_as(
            path, dict[str, dict[str, Any]], "settings by stage", "remove the folder"
        )
    has_results = any(any(out.glob(pattern)) for pattern in _RESULTS[stage])
    old_values = values
    if has_results and stage in plans:
        old_values = settled_values(stage, type(settings)()) | plans[stage]
    changed = [
        f"--{key}={old_values.get(key)} there, {'not set' if value == '' else value} now"
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
