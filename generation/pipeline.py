"""Every stage left of training, in order, from one flagfile.

    python -m generation.pipeline --flagfile=configs/demo.flags --out=DIR

footage -> descriptions -> generated videos -> stores of both -> the filter's decisions. The footage
is the built-in world's stand-in for real cameras, or --videos=videos.json of one's own; the
generated videos are the world's too, or --backend=diffusers with any text-to-video --model.
Killed anywhere, the same command goes on and ends with the same stores and decisions. Prints one
JSON object of paths; the stages are named on standard error.
"""

import dataclasses
import json
import os
import pathlib
import sys
from typing import Any

from gvvad_jax import options
from gvvad_jax.annotations import read_json
from gvvad_jax.options import check, option
from gvvad_jax.store import Store, UserError, run_command, write_atomically


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the pipeline makes; each field is a flag of the same name."""

    out: str = option("", "folder to write; the same command resumes it")
    videos: str = option("", "videos.json of real videos; the world's footage without it")
    train_pairs: int = option(26, "world: pairs of footage to train on", low=1)
    test_pairs: int = option(16, "world: pairs of footage to test on", low=1)
    generated_pairs: int = option(36, "pairs of generated videos", low=1)
    backend: str = option("world", "who generates", choices=("world", "diffusers"))
    domain_gap: float = option(1.0, "world: 0 is footage, larger is further", low=0)
    defect_share: float = option(0.3, "world: share of generated clips that are broken", low=0)
    model: str = option("THUDM/CogVideoX-2b", "diffusers: Hub id or folder")
    model_dtype: str = option(
        "float16", "diffusers: of the weights", choices=("float16", "bfloat16", "float32")
    )
    model_steps: int | None = option(None, "diffusers: denoising steps", low=1)
    encoder: str = option("motion", "visual encoder", choices=("motion", "clip-l14"))
    snippet_frames: int = option(16, "frames a snippet", low=1)
    snippet_stride: int | None = option(None, "frames between starts; the encoder's own", low=1)
    fps_policy: str = option("native", "native, or frames per second to resample to")
    captioner: str = option("rules", "text rows, or none", choices=("rules", "none"))
    preset: str = option("strict", "of the filter", choices=("none", "light", "strict"))
    random_drops: int = option(4, "draws that drop as many at random: the control", low=1)
    data_seed: int = option(0, "of everything random here", low=0)

    def __post_init__(self):
        check(self)


def run(plan: Plan) -> dict[str, Any]:
    """Runs or resumes every stage.

    Args:
      plan: what to make.

    Returns:
      Paths, as strings: real_videos, prompts, generated_videos, real_store, synthetic_store,
      decisions, random_decisions (one a draw); and `filter`, the counts of kept and dropped clips.

    Raises:
      UserError: a folder begun with other settings, a fault of the videos, or ranks: a rank would
        have to wait for the others between stages; run the stages' own commands there.
    """
    from generation import encode, prompts
    from generation import filter as video_filter
    from generation import videos as generated

    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "WORLD_SIZE: expected one rank, found more; share the work of each stage with "
            "generation.videos and generation.encode instead"
        )
    out = pathlib.Path(plan.out)
    if not plan.out:
        raise UserError("--out: expected a folder to write, found none; give one")
    _claim(out, plan)

    _tell("footage")
    real_videos = pathlib.Path(plan.videos)
    if not plan.videos:
        real_videos = generated.render_footage(
            out / "footage", plan.train_pairs, plan.test_pairs, plan.data_seed
        )
    _tell("descriptions")
    # Another stream than the footage's, so that no generated place is one of its places.
    descriptions = prompts.write_grammar(plan.generated_pairs, plan.data_seed + 1)
    prompts.save(out / "prompts.jsonl", descriptions)
    _tell("generated videos")
    generated_videos = _generate(plan, out, descriptions)
    _tell("stores")
    recipe = _recipe(plan)
    encode.encode(real_videos, out / "real", recipe)
    recipe = dataclasses.replace(recipe, source="synthetic")
    encode.encode(generated_videos, out / "synthetic", recipe, prompts_path=out / "prompts.jsonl")
    _tell("filter")
    decisions, labels = video_filter.judge(
        Store(out / "synthetic"), Store(out / "real"), plan.preset
    )
    video_filter.save(out / "decisions.jsonl", decisions)
    random_paths = [out / f"random-{draw}.jsonl" for draw in range(plan.random_drops)]
    for draw, path in enumerate(random_paths):
        at_random = video_filter.random_drop(decisions, labels, plan.data_seed + draw)
        video_filter.save(path, at_random)
    return {
        "real_videos": str(real_videos),
        "prompts": str(out / "prompts.jsonl"),
        "generated_videos": str(generated_videos),
        "real_store": str(out / "real"),
        "synthetic_store": str(out / "synthetic"),
        "decisions": str(out / "decisions.jsonl"),
        "random_decisions": [str(path) for path in random_paths],
        "filter": video_filter.summary(decisions, labels),
    }


def _claim(out: pathlib.Path, plan: Plan) -> None:
    """Writes the plan into its folder, or checks that the folder is this plan's."""
    ours = {k: v for k, v in dataclasses.asdict(plan).items() if k != "out"}
    path = out / "plan.json"
    if path.exists():
        theirs = read_json(path)
        changed = [
            f"--{key}={theirs.get(key)} there, {value} now"
            for key, value in ours.items()
            if theirs.get(key) != value
        ]
        if changed:
            raise UserError(
                f"{out}: expected the settings it was begun with, found {'; '.join(changed)}; "
                "give another --out or remove the folder"
            )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(ours, indent=1) + "\n").encode())


def _tell(stage: str) -> None:
    print(f"pipeline: {stage}", file=sys.stderr, flush=True)


def _generate(plan: Plan, out: pathlib.Path, descriptions) -> pathlib.Path:
    from generation import videos

    if plan.backend == "world":
        backend = videos.WorldBackend(
            "generated",
            seed=plan.data_seed + 1,
            domain_gap=plan.domain_gap,
            defect_share=plan.defect_share,
        )
    else:
        backend = videos.DiffusersBackend(
            plan.model, dtype=plan.model_dtype, steps=plan.model_steps, seed=plan.data_seed + 1
        )
    return videos.generate(descriptions, backend, out / "generated")


def _recipe(plan: Plan) -> Any:
    import cv2

    from generation import encode, encoders

    cv2.setNumThreads(1)
    captioner, text_embedder = encode.make_captioner(plan.captioner, "hashed")
    return encode.Recipe(
        encoder=encoders.make_encoder(plan.encoder),
        snippet_frames=plan.snippet_frames,
        snippet_stride=plan.snippet_stride or encode.DEFAULT_STRIDES[plan.encoder],
        fps_policy=encode.parse_fps_policy(plan.fps_policy),
        captioner=captioner,
        text_embedder=text_embedder,
    )


def main(_) -> None:
    print(json.dumps(run(options.from_flags(Plan))))


if __name__ == "__main__":
    options.define_flags(Plan)
    run_command(main, usage=__doc__)
