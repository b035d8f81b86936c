import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from generation import prompts, video_io, videos, world
from gvvad_jax import annotations
from gvvad_jax.command import UserError

SMALL = {"size": (48, 64), "num_frames": 9}


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_generated_clips_and_their_list(tmp_path):
    descriptions = prompts.write_grammar(3, seed=0)
    backend = videos.WorldBackend(defect_share=0.5, seed=3, **SMALL)
    path = videos.generate(descriptions, backend, tmp_path, progress=False)
    found = annotations.load(path)
    assert list(found.videos) == sorted(d.id for d in descriptions)
    for description in descriptions:
        video = found.videos[description.id]
        assert (video.label, video.split, video.fps) == (description.label, "train", 8.0)
        assert video.cls == (description.cls if description.label else "Normal")
        # A generator doesn't say when its event happens.
        assert video.abnormal_frames is None and video.num_frames == 9
        decoded = video_io.read(found.resolve(video))
        assert decoded.frames_TxHxWx3.shape == (9, 48, 64, 3) and decoded.fps == 8
    truth = json.loads((tmp_path / "world_truth.json").read_text())
    for description in descriptions:
        defect = world.draw_defect(description, 3, 0.5)
        assert truth[description.id]["defect"] == defect
    assert any(entry["defect"] for entry in truth.values())


def test_footage_has_splits_and_exact_intervals(tmp_path):
    path = videos.render_footage(tmp_path, 2, 1, seed=5, progress=False)
    found = annotations.load(path).videos
    splits = [video.split for video in found.values()]
    assert splits.count("train") == 4 and splits.count("test") == 2
    for description in prompts.write_grammar(3, seed=5):
        video = found[f"footage-{description.id}"]
        described = dataclasses.replace(description, id=video.id)
        rendering = world.render(described, domain="footage", seed=5)
        assert [list(pair) for pair in video.abnormal_frames] == [
            list(pair) for pair in rendering.abnormal_frames
        ]
        assert video.num_frames == len(rendering.frames_TxHxWx3)


def test_a_failing_clip_is_named_and_made_again(tmp_path):
    descriptions = prompts.write_grammar(2, seed=0)
    bad = descriptions[2].id

    class Flaky(videos.WorldBackend):
        broken = True

        def __call__(self, description):
            if self.broken and description.id == bad:
                raise RuntimeError("out of paint")
            return super().__call__(description)

    backend = Flaky(**SMALL)
    path = videos.generate(descriptions, backend, tmp_path, progress=False)
    assert bad not in annotations.load(path).videos
    errors = json.loads((tmp_path / "errors.json").read_text())
    assert errors == {bad: "RuntimeError: out of paint"}
    backend.broken = False
    videos.generate(descriptions, backend, tmp_path, progress=False)
    assert bad in annotations.load(path).videos
    assert json.loads((tmp_path / "errors.json").read_text()) == {}


def test_all_failing_is_an_error(tmp_path):
    class Broken(videos.WorldBackend):
        def __call__(self, description):
            raise RuntimeError("no paint at all")

    with pytest.raises(UserError, match="no paint at all"):
        videos.generate(prompts.write_grammar(1, 0), Broken(), tmp_path, progress=False)
    assert not (tmp_path / "videos.json").exists()


def test_finished_clips_are_kept_and_other_settings_refused(tmp_path):
    descriptions = prompts.write_grammar(1, seed=0)
    videos.generate(descriptions, videos.WorldBackend(**SMALL), tmp_path, progress=False)
    before = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    videos.generate(descriptions, videos.WorldBackend(**SMALL), tmp_path, progress=False)
    assert contents(tmp_path) == before
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "videos").iterdir()}
    other = videos.WorldBackend(domain_gap=2.0, **SMALL)
    with pytest.raises(UserError, match="another making"):
        videos.generate(descriptions, other, tmp_path, progress=False)


def test_ranks_make_what_one_makes(tmp_path, monkeypatch):
    descriptions = prompts.write_grammar(3, seed=0)
    backend = videos.WorldBackend(**SMALL)
    videos.generate(descriptions, backend, tmp_path / "one", progress=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        path = videos.generate(descriptions, backend, tmp_path / "two", progress=False)
        assert path.exists() == (rank == "0")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_killed_command_goes_on_where_it_stopped(tmp_path):
    prompts.save(tmp_path / "p.jsonl", prompts.write_grammar(20, seed=0))

    def command(out):
        return [
            *(sys.executable, "-m", "generation.videos", f"--prompts={tmp_path / 'p.jsonl'}"),
            *(f"--out={out}", "--height=64", "--width=96", "--num_frames=25"),
        ]

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = subprocess.run(command(whole), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["complete"] is True
    process = subprocess.Popen(command(broken), stderr=subprocess.DEVNULL)
    while len(list(broken.glob("clips/*.json"))) < 4:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (broken / "videos.json").exists()
    subprocess.run(command(broken), capture_output=True, check=True)
    partial = {name for name in contents(broken) if "partial" in name}
    kept = {name: data for name, data in contents(broken).items() if name not in partial}
    assert kept == contents(whole)


def test_mistakes_print_one_line(tmp_path):
    def run(*flags):
        command = [sys.executable, "-m", "generation.videos", *flags]
        return subprocess.run(command, capture_output=True, text=True)

    for flags in ((), ("--backend=magic",), (f"--prompts={tmp_path}/no.jsonl", "--out=x")):
        failed = run(*flags)
        assert failed.returncode == 2 and failed.stderr.count("\n") == 1, failed.stderr


@pytest.fixture(scope="module")
def tiny_cogvideox(tmp_path_factory):
    """A CogVideoX of random weights, 0.4 MB, from the real classes."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(chr(letter), -3.0) for letter in range(ord("a"), ord("z") + 1)]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    text_encoder = transformers.T5EncoderModel(
        transformers.T5Config(
            vocab_size=len(pieces), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=4
        )
    )
    vae = diffusers.AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    transformer = diffusers.CogVideoXTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=1,
        sample_width=2,
        sample_height=2,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=226,
    )
    folder = tmp_path_factory.mktemp("tiny-cogvideox")
    diffusers.CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=diffusers.CogVideoXDDIMScheduler(),
    ).save_pretrained(folder)
    return folder


def test_diffusers_pipeline_makes_clips(tiny_cogvideox, tmp_path):
    descriptions = prompts.write_grammar(1, seed=0)
    options = {"dtype": "float32", "device": "cpu", "height": 16, "width": 16, "steps": 2}
    backend = videos.DiffusersBackend(str(tiny_cogvideox), num_frames=9, **options)
    path = videos.generate(descriptions, backend, tmp_path / "a", progress=False)
    found = annotations.load(path)
    for video in found.videos.values():
        decoded = video_io.read(found.resolve(video))
        assert decoded.frames_TxHxWx3.shape == (9, 16, 16, 3) and decoded.fps == 8.0
    assert not (tmp_path / "a" / "world_truth.json").exists()
    # A clip's pixels depend on its own record alone, not on what came before.
    again = backend(descriptions[1]).frames_TxHxWx3
    assert np.array_equal(again, backend(descriptions[1]).frames_TxHxWx3)

    # 13 frames aren't 8N+1: what comes back isn't what was asked for, and that is an error.
    wrong = videos.DiffusersBackend(str(tiny_cogvideox), num_frames=13, **options)
    with pytest.raises(UserError, match="expected 13 frames, found"):
        videos.generate(descriptions, wrong, tmp_path / "b", progress=False)


def test_unusable_pixels_are_errors(tiny_cogvideox, tmp_path):
    descriptions = prompts.write_grammar(1, seed=0)
    backend = videos.DiffusersBackend(str(tiny_cogvideox), dtype="float32", device="cpu", steps=1)

    class Output:
        frames = np.zeros((1, 9, 16, 16, 3), np.float32)

    class Pipeline:
        def __call__(self, prompt):
            return Output

    backend.pipeline = Pipeline()
    with pytest.raises(UserError, match="a black clip"):
        videos.generate(descriptions, backend, tmp_path, progress=False)
    Output.frames = np.full((1, 9, 16, 16, 3), np.nan, np.float32)
    with pytest.raises(UserError, match="non-finite pixels"):
        videos.generate(descriptions, backend, tmp_path, progress=False)


def test_missing_model_is_a_users_mistake(tmp_path):
    pytest.importorskip("diffusers")
    with pytest.raises(UserError, match="expected a diffusers pipeline"):
        videos.DiffusersBackend(str(tmp_path / "none"))


def test_the_same_frames_give_the_same_file(tmp_path):
    # x264 is reproducible only on one thread and without its macroblock tree: with either, about
    # half of such clips differ within six attempts.
    for description in prompts.write_grammar(5, seed=0):
        rendering = world.render(description, domain="footage", num_frames=25)
        files = set()
        for size in range(6):
            garbage = np.random.default_rng(size).bytes(100_000 * (size + 1))
            del garbage
            video_io.write(tmp_path / "v.mp4", rendering.frames_TxHxWx3, fps=10, crf=20)
            files.add((tmp_path / "v.mp4").read_bytes())
        assert len(files) == 1
