"""The pipeline with the real libraries: a server, CogVideoX, CLIP, GIT and SimCSE, all tiny.

A run that is killed at every stage ends with the rows of an uninterrupted run, and so do Ray's
workers.
"""

import dataclasses
import json
import multiprocessing
import signal
import subprocess

import numpy as np
import pytest

from generation import pipeline
from generation.encode import encoding
from generation.encode.recipe import EncodeOptions
from generation.prompts.descriptions import load_descriptions
from generation.videos import generating
from generation.videos.world_backend import WorldBackend
from generation.world.render import WorldOptions
from gvvad_jax.store.reader import Store, require_agreement
from tests.support import killing, tiny_transformers
from tests.support.chat_server import ChatServer
from tests.support.started import python
from tests.support.textures import write_videos

pytestmark = pytest.mark.slow

FLAGS = """
--writer=chat
--chat_model=any
--generated_pairs=2
--backend=diffusers
--model_dtype=float32
--device=cpu
--num_frames=9
--height=16
--width=16
--denoising_steps=2
--encoder=clip-l14
--crops=ten
--resize=18
--pooling=middle
--snippet_frames=4
--snippet_stride=4
--dtype=float16
--captioner=git
--text_encoder=simcse
--preset=strict
--random_drops=1
"""

# Forks of a process that has already imported the libraries.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *(__name__, "diffusers.pipelines.cogvideo.pipeline_cogvideox"),
        *(f"transformers.models.{name}.modeling_{name}" for name in ("t5", "clip", "git", "bert")),
    ]
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Limits PyTorch to one thread, also in new processes, because these models are tiny."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def flagfile(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    (folder / "footage").mkdir()
    weights = {
        "model": models["cogvideox"],
        "weights": tiny_transformers.save_clip(folder / "tiny-clip"),
        "caption_weights": tiny_transformers.save_git(folder / "tiny-git"),
        "text_weights": tiny_transformers.save_bert(folder / "tiny-bert"),
        "videos": write_videos(folder / "footage", (2, 2)),
    }
    lines = "".join(f"--{name}={value}\n" for name, value in weights.items())
    path = folder / "generate.flags"
    path.write_text(FLAGS + lines)
    return path


def settings_of(flagfile, **more):
    given = dict(line[2:].split("=", 1) for line in flagfile.read_text().split()) | more
    sections = {}
    for name, cls in pipeline.SECTIONS.items():
        types = {field.name: field.type for field in dataclasses.fields(cls)}
        sections[name] = cls(
            **{
                key: int(value) if types[key] in (int, int | None) else value
                for key, value in given.items()
                if key in types
            }
        )
    return pipeline.PipelineSettings(**sections)


def command(flagfile, server, out, *more):
    return [
        *(*python("torch"), "-m", "generation.pipeline", f"--flagfile={flagfile}"),
        *(f"--base_url={server.url}", f"--out={out}", *more),
    ]


def outcome(out):
    """Returns everything that must not depend on kills or workers."""
    stores = [Store(out / name) for name in ("real", "synthetic")]
    rows = [{i: row.sha256 for i, row in opened.rows.items()} for opened in stores]
    texts = [(out / name).read_text() for name in ("prompts.jsonl", "decisions.jsonl")]
    return rows, [opened.digest() for opened in stores], texts


@pytest.fixture(scope="module")
def server():
    with ChatServer() as running:
        yield running


@pytest.fixture(scope="module")
def whole(flagfile, server, tmp_path_factory):
    out = tmp_path_factory.mktemp("generate") / "whole"
    done = subprocess.run(command(flagfile, server, out), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout), done.stderr


def test_from_descriptions_to_decisions(whole):
    out, paths, progress = whole
    real, synthetic = Store(out / "real"), Store(out / "synthetic")
    require_agreement([real, synthetic])
    assert (len(real.rows), len(synthetic.rows)) == (4, 4)
    manifest = synthetic.manifest
    assert manifest.crops["count"] == 10 and manifest.dtype == "float16"
    assert manifest.text["captioner"].startswith("git:")
    assert manifest.text["encoder"].startswith("simcse:")
    assert np.load(out / "synthetic" / "bank.npy").shape == (26, manifest.text["dim"])
    for line in (out / "decisions.jsonl").read_text().splitlines():
        scores = json.loads(line)["scores"]
        # All stages judged: pixels, and features including those of CLIP alone.
        assert {"motion", "consistency", "text_similarity", "pair_margin", "realism"} <= set(scores)
    assert paths["filter"]["kept"] + paths["filter"]["dropped"] == 4
    assert '"requests": 2' in progress


def test_a_second_run_sends_no_requests_and_changes_nothing(whole, flagfile, server):
    out, paths, _ = whole
    asked, before = len(server.asked), outcome(out)
    done = subprocess.run(command(flagfile, server, out), capture_output=True, text=True)
    assert done.returncode == 0 and json.loads(done.stdout) == paths
    assert len(server.asked) == asked and outcome(out) == before


def _run_until(sign, settings):
    killing.die_after(sign)
    pipeline.run(settings)


def test_a_run_killed_at_every_stage_ends_with_the_same_rows(whole, flagfile, server, tmp_path):
    out = tmp_path / "broken"
    settings = settings_of(flagfile, base_url=server.url, out=str(out))

    # The tests of each stage kill it at its most delicate points.
    signs = ("prompts.answers/*/*.json", "generated/clips/*.json", "synthetic/parts/*.npy")
    for sign in signs:
        process = FORKS.Process(target=_run_until, args=(sign, settings))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"finished before {sign} came"
        assert not (out / "decisions.jsonl").exists()
    process = FORKS.Process(target=pipeline.run, args=(settings,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert outcome(out) == outcome(whole[0])


@pytest.mark.parametrize("kind", ["ray_workers", "workers"])
def test_workers_give_the_same(whole, flagfile, tmp_path, kind):
    """Clips of the world, and rows: in processes with all of the models, in Ray's, each of which
    would import them for seconds, without."""
    if kind == "ray_workers":
        pytest.importorskip("ray")
    shares = {kind: 2}
    out, small = whole[0], WorldBackend(WorldOptions(num_frames=9, size=(64, 96)))
    descriptions = load_descriptions(out / "prompts.jsonl")
    alone = generating.generate(descriptions, small, tmp_path / "alone")
    shared = generating.generate(descriptions, small, tmp_path / "shared", **shares)
    assert len(list((alone.parent / "videos").iterdir())) == 4
    for path in (alone.parent / "videos").iterdir():
        assert (shared.parent / "videos" / path.name).read_bytes() == path.read_bytes()
    listed, records, expected = out / "generated" / "videos.json", out / "prompts.jsonl", out
    rows = dataclasses.replace(settings_of(flagfile).rows, source="synthetic")
    if kind == "ray_workers":
        rows, listed, expected = EncodeOptions(source="synthetic"), alone, tmp_path
        assert encoding.encode(listed, tmp_path / "synthetic", rows, prompts_path=records)
    assert encoding.encode(listed, tmp_path / "store", rows, prompts_path=records, **shares)
    assert Store(tmp_path / "store").digest() == Store(expected / "synthetic").digest()
