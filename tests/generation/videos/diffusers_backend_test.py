"""Real pipelines of diffusers with tiny random weights, on the CPU."""

import json
import os
import pathlib
import shutil

import msgspec
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.media.writing import write_video
from generation.prompts.descriptions import save_descriptions
from generation.videos import generating, prompt_embeddings, records
from generation.videos.backends import GeneratedVideo
from gvvad_jax.command import Interrupted, UserError
from gvvad_jax.store import annotations, folders
from tests.support import killing
from tests.support.started import python
from tests.support.tiny_pipelines import SIZES
from tests.support.tiny_pipelines import make_backend as make
from tests.support.tiny_videos import write_with_keyframes

pytestmark = pytest.mark.usefixtures("one_thread")


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def pixels(outcomes):
    assert all(isinstance(video, GeneratedVideo) for video in outcomes), outcomes
    return [video.frames_TxHxWx3 for video in outcomes]


@pytest.mark.parametrize("name", SIZES)
def test_embeddings_give_the_same_video_as_text(name, models, descriptions, tmp_path):
    # With guidance, so that negative prompts count; a batch against one call per description.
    import diffusers
    import torch

    options = {"guidance": 4.0, "negative_prompt": "blurry", "clips_a_call": 2}
    backend = make(models[name], SIZES[name], **options)
    backend.prepare(descriptions[:2], tmp_path)
    videos = backend(descriptions[:2])
    pipeline = diffusers.DiffusionPipeline.from_pretrained(models[name], dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for description, frames in zip(descriptions, pixels(videos), strict=False):
        expected = pipeline(
            prompt=description.description,
            negative_prompt="blurry",
            guidance_scale=4.0,
            num_frames=9,
            num_inference_steps=2,
            height=SIZES[name],
            width=SIZES[name],
            generator=torch.Generator().manual_seed(videos[0].facts["noise_seed"]),
            output_type="np",
            **({"frame_rate": 8} if name == "ltx" else {}),
        ).frames[0]
        assert np.array_equal(frames, np.round(expected * 255).astype(np.uint8))
    # Twins share the noise; their texts differ.
    assert videos[0].facts == videos[1].facts and not np.array_equal(*pixels(videos))
    assert pipeline.text_encoder is not None and backend._pipeline.text_encoder is None


def test_a_video_depends_neither_on_its_batch_nor_on_the_order(models, descriptions, tmp_path):
    together = make(models["cogvideox"], clips_a_call=4)
    together.prepare(descriptions, tmp_path / "a")
    alone = make(models["cogvideox"])
    alone.prepare(descriptions[::-1], tmp_path / "b")
    reverse = [alone([description])[0] for description in descriptions[::-1]]
    for one, other in zip(pixels(together(descriptions)), pixels(reverse[::-1]), strict=True):
        assert np.array_equal(one, other)


def first_noise(backend, descriptions):
    """The videos, and the transformer's input at the first step."""
    seen = []

    def look(module, args, kwargs):
        seen.append(kwargs["hidden_states"].detach().clone())

    hook = backend._pipeline.transformer.register_forward_pre_hook(look, with_kwargs=True)
    videos = backend(descriptions)
    hook.remove()
    return videos, seen[0]


def test_a_batched_call_gives_equal_noise_and_nearly_equal_pixels(models, descriptions, tmp_path):
    # On a GPU, a batch goes through the pipeline in one call; here that is forced.
    import torch

    backend = make(models["cogvideox"], clips_a_call=4, guidance=1.0, denoising_steps=1)
    backend.prepare(descriptions, tmp_path)
    singles = [first_noise(backend, [description]) for description in descriptions]
    backend._largest_batch = 4
    videos, noise_B = first_noise(backend, descriptions)
    assert torch.equal(noise_B, torch.cat([noise for _, noise in singles]))
    assert not torch.equal(noise_B[0], noise_B[2])
    for frames, (single, _) in zip(pixels(videos), singles, strict=True):
        # The last bits of batched matrix products differ, which changes few grey levels.
        assert np.abs(frames.astype(int) - single[0].frames_TxHxWx3.astype(int)).max() <= 1


def test_a_resumed_run_needs_no_text_encoder(models, descriptions, tmp_path, monkeypatch):
    import transformers

    first = make(models["ltx"], 32, denoising_steps=1)
    first.prepare(descriptions, tmp_path / "prepared")
    before = contents(tmp_path / "prepared")
    assert len(before) == len({d.description for d in descriptions}) + 1  # And the negative one.

    def load(*args, **kwargs):
        raise OSError("no room")

    monkeypatch.setattr(transformers.T5EncoderModel, "from_pretrained", load)
    second = make(models["ltx"], 32, denoising_steps=1)
    second.prepare(descriptions, tmp_path / "prepared")
    assert contents(tmp_path / "prepared") == before
    assert np.array_equal(*pixels(first(descriptions[:1]) + second(descriptions[:1])))
    # Another text has no embedding yet.
    with pytest.raises(UserError, match="expected a diffusers pipeline"):
        make(models["ltx"], 32).prepare(
            [msgspec.structs.replace(descriptions[0], description="rain")], tmp_path / "prepared"
        )


def test_a_pipeline_that_takes_text_alone_gets_text(models, descriptions, tmp_path, monkeypatch):
    embedded = make(models["wan"], 32, negative_prompt="blurry", denoising_steps=1)
    embedded.prepare(descriptions[:1], tmp_path / "a")
    monkeypatch.setattr(prompt_embeddings, "_LAYOUTS", ())
    texts = make(models["wan"], 32, negative_prompt="blurry", denoising_steps=1)
    texts.prepare(descriptions[:1], tmp_path / "b")
    assert texts._pipeline.text_encoder is not None and not (tmp_path / "b").exists()
    assert np.array_equal(*pixels(embedded(descriptions[:1]) + texts(descriptions[:1])))


def spoil_decoding(backend, place, level):
    """From now on the VAE decodes this video of a batch to one level."""

    def spoil(module, args, output):
        output[0][place] = level
        return output

    return backend._pipeline.vae.decoder.register_forward_hook(spoil)


def test_unusable_pixels_are_the_error_of_their_video_alone(models, descriptions, tmp_path):
    backend = make(models["cogvideox"], clips_a_call=3, denoising_steps=1)
    backend.prepare(descriptions, tmp_path)
    backend._largest_batch = 3
    spoil_decoding(backend, 0, -1.0)
    spoil_decoding(backend, 2, float("nan"))
    black, good, broken = backend(descriptions[:3])
    assert "a black video; try another --model_dtype" in str(black)
    assert "non-finite pixels; try another --model_dtype" in str(broken)
    assert isinstance(good, GeneratedVideo)


def test_float16_overflow_is_an_error(models, descriptions, tmp_path):
    # This happens to a CogVideoX-5b in float16: activations leave its range.
    backend = make(models["cogvideox"], model_dtype="float16", denoising_steps=1)
    backend.prepare(descriptions, tmp_path)
    backend._pipeline.transformer.proj_out.weight.data *= 1e5
    assert "non-finite pixels" in str(backend(descriptions[:1])[0])


def test_a_batch_that_does_not_fit_is_halved(models, descriptions, tmp_path):
    import torch

    backend = make(models["cogvideox"], clips_a_call=4, guidance=1.0, denoising_steps=1)
    backend.prepare(descriptions, tmp_path)
    expected = pixels(backend(descriptions))
    sizes, room = [], 2

    def allocate(module, args, kwargs):
        sizes.append(len(kwargs["hidden_states"]))
        if sizes[-1] > room:
            raise torch.OutOfMemoryError("CUDA out of memory")

    backend._pipeline.transformer.register_forward_pre_hook(allocate, with_kwargs=True)
    backend._largest_batch = 4
    for frames, other in zip(pixels(backend(descriptions)), expected, strict=True):
        assert np.abs(frames.astype(int) - other.astype(int)).max() <= 1
    assert sizes == [4, 2, 2]
    backend(descriptions)
    assert sizes[3:] == [2, 2]  # It remembers.
    room = 0
    assert all("out of memory" in str(error) for error in backend(descriptions[:2]))


@pytest.fixture(scope="module")
def real_videos(tmp_path_factory):
    """Training and test videos, each of one colour, and their videos.json."""
    folder = tmp_path_factory.mktemp("real")
    entries, rng = {}, np.random.default_rng(0)
    for name, split, label in (
        *(("normal-a", "train", 0), ("normal-b", "train", 0)),
        *(("abnormal", "train", 1), ("test", "test", 0)),
    ):
        frames = rng.integers(0, 256, (12, 48, 96, 3)).astype(np.uint8)
        write_with_keyframes(folder / f"{name}.mp4", frames, 4)
        entries[name] = {"file": f"{name}.mp4", "label": label, "split": split}
    (folder / "videos.json").write_text(json.dumps({"videos": entries}))
    return folder / "videos.json"


def test_videos_start_from_normal_training_frames(models, descriptions, real_videos, tmp_path):
    backend = make(
        models["cogvideox-i2v"], first_frames=str(real_videos), clips_a_call=4, denoising_steps=1
    )
    backend.prepare(descriptions, tmp_path / "a")
    videos = backend(descriptions[:3])
    frames = [video.facts["first_frame"] for video in videos]
    assert frames[0] == frames[1] != frames[2]
    # Without a group of its own, a real video is one.
    assert all(frame["group"] == frame["video"] for frame in frames)
    # Copies of the files give the same settings; other pictures under the same name do not.
    elsewhere = shutil.copytree(real_videos.parent, tmp_path / "elsewhere")
    other = make(
        models["cogvideox-i2v"], first_frames=str(elsewhere / "videos.json"), denoising_steps=1
    )
    assert other.settings == backend.settings
    used = elsewhere / f"{frames[0]['video']}.mp4"
    write_video(used, np.full((12, 48, 96, 3), 200, np.uint8), fps=10)
    other = make(
        models["cogvideox-i2v"], first_frames=str(elsewhere / "videos.json"), denoising_steps=1
    )
    assert other.settings != backend.settings
    other.prepare(descriptions, tmp_path / "a")
    assert not np.array_equal(*pixels([videos[0], *other(descriptions[:1])]))
    # A frame that cannot be read is the error of its videos.
    used.write_bytes(b"no video")
    assert f"{used.name}: expected a video" in str(other(descriptions[:1])[0])


def test_ltx_starts_from_frames_with_the_same_weights(models, descriptions, real_videos, tmp_path):
    backend = make(models["ltx"], 32, first_frames=str(real_videos), denoising_steps=1)
    backend.prepare(descriptions[:1], tmp_path)
    assert type(backend._pipeline).__name__ == "LTXImageToVideoPipeline"
    assert backend._pipeline.text_encoder is None
    pixels(backend(descriptions[:1]))


def test_two_ranks_match_one_and_a_complete_folder_loads_nothing(
    models, descriptions, tmp_path, monkeypatch
):
    model = shutil.copytree(models["cogvideox"], tmp_path / "model")

    def backend(clips_a_call):
        return make(str(model), denoising_steps=1, clips_a_call=clips_a_call)

    path = generating.generate(descriptions, backend(4), tmp_path / "one", progress=False)
    listed = annotations.load(path)
    assert set(listed.videos) == {d.id for d in descriptions}
    for video in listed.videos.values():
        assert video.abnormal_frames is None and video.fps == 8.0 and video.num_frames == 9
    record = json.loads((tmp_path / "one" / "clips" / f"{descriptions[0].id}.json").read_text())
    assert record["seed"] == descriptions[0].seed and record["made"]["model"] == str(model)
    # There is no truth for checks, and nothing that is no longer needed.
    assert {p.name for p in (tmp_path / "one").iterdir() if p.name[0] != "."} == {
        *("videos", "clips", "videos.json", "errors.json", "model.json")
    }
    loaded = json.loads((tmp_path / "one" / "model.json").read_text())
    assert record["made"] == loaded | {"noise_seed": record["made"]["noise_seed"]}
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        generating.generate(descriptions, backend(1), tmp_path / "two", progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    shutil.rmtree(model)
    generating.generate(descriptions, backend(1), tmp_path / "two", progress=False)


def test_a_damaged_embedding_is_made_again(models, descriptions, tmp_path):
    backend = make(models["ltx"], 32, denoising_steps=1)
    backend.prepare(descriptions[:1], tmp_path)
    for path in tmp_path.glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:20])
    for _ in range(2):  # One video meets the prompt's file, the next one the negative prompt's.
        assert isinstance(backend(descriptions[:1])[0], Exception)
    again = make(models["ltx"], 32, denoising_steps=1)
    again.prepare(descriptions[:1], tmp_path)
    pixels(again(descriptions[:1]))


def test_a_failed_batch_is_named_and_generated_again(models, descriptions, tmp_path):
    backend = make(models["cogvideox"], clips_a_call=4, denoising_steps=1)
    folders.claim(tmp_path / "made", records.KIND)
    backend.prepare(descriptions, tmp_path / "made" / "prepared")
    hook = spoil_decoding(backend, 0, float("nan"))
    with pytest.raises(Interrupted, match="all 2 of them failed"):
        generating.generate(descriptions[:2], backend, tmp_path / "made", progress=False)
    hook.remove()
    path = generating.generate(descriptions[:2], backend, tmp_path / "made", progress=False)
    assert len(annotations.load(path).videos) == 2
    assert json.loads(path.with_name("errors.json").read_text()) == {}


def test_a_killed_command_can_be_resumed(models, descriptions, tmp_path):
    save_descriptions(tmp_path / "p.jsonl", descriptions)
    command = [
        *(*python("torch"), "-m", "generation.videos", f"--prompts={tmp_path / 'p.jsonl'}"),
        *("--backend=diffusers", f"--model={models['cogvideox']}", "--model_dtype=float32"),
        *("--device=cpu", "--height=16", "--width=16", "--num_frames=9", "--denoising_steps=2"),
        *("--clips_a_call=2", f"--out={tmp_path / 'broken'}"),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    killing.run(command, "clips/*.json", env=environment)
    assert not (tmp_path / "broken" / "videos.json").exists()
    assert list(pathlib.Path(tmp_path / "broken" / "prepared").iterdir())
    # The same settings as the command's, without starting Python again.
    for out in ("broken", "whole"):
        backend = make(models["cogvideox"], clips_a_call=2)
        generating.generate(descriptions, backend, tmp_path / out, progress=False)
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")
