"""Captioners of real model classes (tiny, random) and of a real HTTP server."""

import base64
import dataclasses
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from PIL import Image

from generation.encoders import captions, pretrained
from generation.encoders.options import CaptionOptions
from gvvad_jax.command import UserError
from tests.support import chat_server
from tests.support.tiny_transformers import (
    SEP,
    TEXT,
    VISION,
    WORDS,
    save_git,
    save_words,
    talkative,
)

pytestmark = pytest.mark.usefixtures("one_thread")
DEC = WORDS.index("[DEC]")


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(captions._PretrainedCaptioner, "max_new_tokens", 10)


@pytest.fixture(scope="module")
def git(tmp_path_factory):
    return save_git(tmp_path_factory.mktemp("weights") / "tiny-git")


@pytest.fixture(scope="module")
def blip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "tiny-blip"
    text = TEXT | {"encoder_hidden_size": 16, "projection_dim": 8}
    ids = {"bos_token_id": DEC, "eos_token_id": 2, "sep_token_id": SEP}
    config = transformers.BlipConfig(
        text_config=text | ids, vision_config=VISION, projection_dim=8, image_text_hidden_size=8
    )
    talkative(transformers.BlipForConditionalGeneration, config).save_pretrained(folder)
    transformers.BlipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    save_words(folder)
    return folder


def _captioner(name, weights="", **settings):
    options = CaptionOptions(captioner=name, caption_weights=str(weights), **settings)
    return captions.make_captioner(options)


def _snippets(number=5, frames=6):
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (number, frames, 20, 28, 3), np.uint8))


def test_frames_are_the_middles_of_equal_parts():
    assert captions.spread(100, 116, 1) == [107]
    assert captions.spread(0, 16, 4) == [1, 5, 9, 13]
    assert captions.spread(0, 16, 6) == [1, 3, 6, 9, 11, 14]
    assert captions.spread(5, 11, 6) == [5, 6, 7, 8, 9, 10]
    assert captions.spread(0, 3, 6) == [0, 0, 1, 1, 2, 2]
    for length in range(1, 40):
        for count in range(1, 9):
            actual = captions.spread(3, 3 + length, count)
            assert len(actual) == count and actual == sorted(actual)
            assert actual[0] >= 3 and actual[-1] < 3 + length
            # The frames are symmetric.
            assert abs(sum(actual) / count - (3 + (length - 1) / 2)) <= 0.5


def test_git_captions_equal_those_of_its_model(git):
    """The reference runs over the whole sequence, without the cache of `generate`."""
    captioner = _captioner("git", git)
    digest = pretrained.known_digest(str(git), pretrained.CAPTIONS)
    assert captioner.id == f"git:tiny-git@{digest}" and captioner.vocabulary == "plain"
    assert captioner.frames_of(0, 16) == [1, 3, 6, 9, 11, 14]
    actual = captioner.caption_snippets(_snippets())
    assert len(set(actual)) >= 4 and len({len(caption.split()) for caption in actual}) > 1

    model = transformers.GitForCausalLM.from_pretrained(git).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(git)
    for snippet, caption in zip(_snippets(), actual, strict=True):
        images = [Image.fromarray(frame) for frame in snippet]
        pixels = processor(images=images, return_tensors="pt")["pixel_values"][None]
        tokens = [WORDS.index("[CLS]")]
        while len(tokens) <= captioner.max_new_tokens and tokens[-1] != SEP:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([tokens]), pixel_values=pixels).logits
            tokens.append(int(logits[0, -1].argmax()))
        assert caption.split() == [WORDS[token] for token in tokens[1:] if token >= DEC]


def test_blip_captions_equal_those_of_its_model(blip):
    captioner = _captioner("blip", blip)
    actual = captioner.caption_snippets(_snippets())
    assert len(set(actual)) >= 4
    model = transformers.BlipForConditionalGeneration.from_pretrained(blip).eval()
    processor = transformers.BlipImageProcessorPil.from_pretrained(blip)
    for snippet, caption in zip(_snippets(), actual, strict=True):
        image = Image.fromarray(snippet[2])
        pixels = processor(images=[image], return_tensors="pt")["pixel_values"]
        tokens = [DEC]
        with torch.inference_mode():
            seen = model.vision_model(pixels).last_hidden_state
            while len(tokens) <= captioner.max_new_tokens and tokens[-1] != SEP:
                ids = torch.tensor([tokens])
                logits = model.text_decoder(input_ids=ids, encoder_hidden_states=seen).logits
                tokens.append(int(logits[0, -1].argmax()))
        assert caption.split() == [WORDS[token] for token in tokens[1:] if token >= DEC]


@pytest.mark.parametrize("name", ["git", "blip"])
def test_a_caption_does_not_depend_on_its_batch(name, request, monkeypatch):
    weights = request.getfixturevalue(name)
    single = _captioner(name, weights)  # One snippet at a time.
    monkeypatch.setattr(pretrained, "batch_size", lambda device: 8)
    captioner = _captioner(name, weights)
    snippets = _snippets(10)  # A batch of eight and one that is not full.
    together = captioner.caption_snippets(snippets)
    assert len(set(together)) >= 4 and len({len(caption) for caption in together}) > 1
    assert captioner.caption_snippets(snippets[::-1]) == together[::-1]
    assert captioner.caption_snippets(snippets[3:5]) == together[3:5]
    assert captioner.caption_snippets(snippets[9:]) == together[9:]
    assert single.caption_snippets(snippets) == together
    assert captioner.caption_snippets([]) == []
    digest = pretrained.known_digest(str(weights), pretrained.CAPTIONS)
    assert captioner.id == f"{name}:tiny-{name}@{digest}"


def test_git_depends_on_the_order_of_frames_and_blip_on_the_middle_frame(git, blip):
    snippets = _snippets()
    backwards = [snippet[::-1] for snippet in snippets]
    git_captioner = _captioner("git", git)
    assert git_captioner.caption_snippets(snippets) != git_captioner.caption_snippets(backwards)
    blip_captioner = _captioner("blip", blip)
    assert blip_captioner.id.startswith("blip:tiny-blip@")
    assert blip_captioner.frames_of(0, 16) == [7]
    middle = [snippet[[2]] for snippet in snippets]
    assert blip_captioner.caption_snippets(snippets) == blip_captioner.caption_snippets(middle)
    first = [snippet[:1] for snippet in snippets]
    assert blip_captioner.caption_snippets(middle) != blip_captioner.caption_snippets(first)


def test_short_snippets_repeat_frames(git):
    captioner = _captioner("git", git)
    assert captioner.frames_of(7, 10) == [7, 8, 9]
    short = _snippets(2, frames=3)
    as_six = [snippet[[0, 0, 1, 1, 2, 2]] for snippet in short]
    assert captioner.caption_snippets(short) == captioner.caption_snippets(as_six)


def test_a_git_checkpoint_for_images_gets_the_middle_frame(git, tmp_path):
    config = transformers.GitConfig(vision_config=VISION, bos_token_id=2, eos_token_id=SEP, **TEXT)
    talkative(transformers.GitForCausalLM, config, 0.0).save_pretrained(tmp_path)
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((git / name).read_bytes())
    captioner = _captioner("git", tmp_path)
    assert captioner.frames_of(0, 16) == [7]
    snippets = _snippets()
    middle = [snippet[[2]] for snippet in snippets]
    assert captioner.caption_snippets(snippets) == captioner.caption_snippets(middle)
    assert len(set(captioner.caption_snippets(snippets))) > 1


def _with_weights(git, folder, change):
    folder.mkdir()
    for file in git.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = safetensors.torch.load_file(git / "model.safetensors")
    weights = {name: weight for old, weight in weights.items() if (name := change(old))}
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return str(folder)


def test_published_names_of_gits_frame_embeddings_are_read(git, tmp_path):
    published = _with_weights(
        git, tmp_path / "tiny-git", lambda name: name.replace("img_temporal", "img_temperal")
    )
    expected = _captioner("git", git).caption_snippets(_snippets())
    actual = _captioner("git", published).caption_snippets(_snippets())
    assert actual == expected


def test_frames_are_preprocessed_as_the_checkpoint_configures(git, tmp_path):
    """git-base-vatex configures a processor of videos, which would need torchvision."""
    folder = pathlib.Path(_with_weights(git, tmp_path / "tiny-git", lambda name: name))
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    settings = {
        "image_processor_type": "VideoMAEImageProcessor", "processor_class": "GitProcessor",
        "do_resize": True, "size": {"shortest_edge": 16}, "resample": 2, "do_center_crop": True,
        "crop_size": {"height": 16, "width": 16}, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": mean, "image_std": std,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    captioner = _captioner("git", folder)
    image = Image.fromarray(_snippets(1)[0][0])
    actual = captioner._processor(images=[image], return_tensors="np")["pixel_values"][0]
    resized = image.resize((22, 16), Image.Resampling.BILINEAR).crop((3, 0, 19, 16))
    expected_HxWx3 = (np.asarray(resized) / 255 - mean) / std
    np.testing.assert_allclose(actual.transpose(1, 2, 0), expected_HxWx3, atol=1e-5)
    usual = _captioner("git", git)
    assert captioner.caption_snippets(_snippets()) != usual.caption_snippets(_snippets())


def test_missing_weights_are_an_error(git, blip, tmp_path):
    lacking = _with_weights(git, tmp_path / "a", lambda name: "temporal" not in name and name)
    with pytest.raises(UserError, match=r"found 6 missing, 'git.img_temporal_embedding.0' first"):
        _captioner("git", lacking)
    for name, other in (("git", blip), ("blip", git)):
        with pytest.raises(UserError, match=f"expected a checkpoint of {name}, found one of "):
            _captioner(name, other)


def test_unreadable_checkpoints_are_user_errors(git, tmp_path):
    with pytest.raises(UserError, match="expected a GIT captioning checkpoint, found no such fold"):
        _captioner("git", tmp_path / "none")
    with pytest.raises(UserError, match="give the folder of a downloaded one"):
        _captioner("git", tmp_path)
    broken = pathlib.Path(_with_weights(git, tmp_path / "b", lambda name: name))
    (broken / "model.safetensors").write_bytes((git / "model.safetensors").read_bytes()[:500])
    with pytest.raises(UserError, match="expected a GIT captioning checkpoint, found"):
        _captioner("git", broken)
    for settings in ({"compute_dtype": "int8"}, {"device": "nowhere"}):
        with pytest.raises(UserError, match=f"--{next(iter(settings))}.*expected"):
            _captioner("git", git, **settings)
    with pytest.raises(UserError, match="rules, git, blip, chat, description, none"):
        _captioner("swinbert")


def test_half_precision_does_not_change_the_id(git):
    full = _captioner("git", git)
    half = _captioner("git", git, compute_dtype="bfloat16")
    assert half.id == full.id and (full.dtype, half.dtype) == ("float32", "bfloat16")
    assert half._model.dtype == torch.bfloat16
    assert len(half.caption_snippets(_snippets())) == 5


def test_captioners_without_weights():
    assert _captioner("none") is None
    rules = _captioner("rules")
    assert rules.id == "motion-rules-v2" and rules.vocabulary == "motion"


def test_frames_must_be_uint8(git):
    captioner = _captioner("git", git)
    with pytest.raises(ValueError, match=r"expected RGB uint8 \[K, H, W, 3\]"):
        captioner.caption_snippets([np.zeros((6, 20, 28, 3), np.float32)])


def test_heavy_libraries_are_imported_only_when_needed():
    code = (
        "import sys; from generation.encoders import captions, text, banks; "
        "print([m for m in ('torch', 'transformers', 'openai', 'pydantic') if m in sys.modules])"
    )
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"


class _VisionModel:
    """Answers with the size and brightness of a request's pictures."""

    def __call__(self, body):
        parts = body["messages"][1]["content"]
        urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
        kind, data = urls[0].split(",", 1)
        assert kind == "data:image/jpeg;base64"
        images = [Image.open(io.BytesIO(base64.b64decode(url.split(",", 1)[1]))) for url in urls]
        assert all(image.format == "JPEG" for image in images) and data
        light = [round(float(np.asarray(image).mean())) for image in images]
        return {"caption": f" {images[0].width}x{images[0].height}\n light {light} "}


def _grey(levels, size=(20, 28)):
    return np.array(levels, np.uint8)[:, None, None, None] * np.ones((1, *size, 3), np.uint8)


def test_a_vision_model_gets_frames_and_one_request_per_snippet(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    snippets = [_grey([10, 60, 110, 160]), _grey([200, 150, 100, 50], (600, 1024))]
    with chat_server.ChatServer(_VisionModel()) as server:
        options = CaptionOptions(
            captioner="chat", chat_model="org/eye", base_url=server.url, cache=str(tmp_path)
        )
        captioner = captions.make_captioner(options)
        assert captioner.id == "chat:eye:frames=4:v1" and captioner.vocabulary == "plain"
        assert captioner.frames_of(0, 16) == [1, 5, 9, 13]
        actual = captioner.caption_snippets(snippets)
        # In the order of the snippets and of time, in one line, none larger than 512 pixels.
        assert actual == ["28x20 light [10, 60, 110, 160]", "512x300 light [200, 150, 100, 50]"]
        assert len(server.asked) == 2 and captioner.server.usage.to_json()["input_tokens"] == 200
        again = captions.make_captioner(options)
        assert again.caption_snippets(snippets) == actual and len(server.asked) == 2
        # Only pixels are sent, and an answer belongs to its pixels.
        texts = chat_server.text_of(server.asked[0]).lower()
        assert "abnormal" not in texts and "anomal" not in texts
        again.caption_snippets([_grey([10, 60, 110, 161])])
        assert len(server.asked) == 3
    assert again.caption_snippets(snippets) == actual  # Works without the server.


def test_a_snippet_without_an_answer_is_named(tmp_path):
    with chat_server.ChatServer(_VisionModel()) as server:
        options = CaptionOptions(
            captioner="chat", chat_model="eye", base_url=server.url, cache=str(tmp_path),
            attempts=2, backoff=0.0, max_concurrent=1, sampling='{"temperature": 0}',
        )  # fmt: skip
        captioner = captions.make_captioner(options)
        assert captioner.id == "chat:eye:frames=4:temperature=0:v1"
        server.fail("", "schema", lambda answer: {"caption": "  "}, "refusal", "refusal")
        snippets = [_grey([level] * 4) for level in (10, 60, 110)]
        expected = r"captions of 3 snippets, found 2 without one, first snippet 0: .*; run the same"
        with pytest.raises(UserError, match=expected):
            captioner.caption_snippets(snippets)
        before = len(server.asked)
        assert captioner.caption_snippets(snippets)[2].endswith("[110, 110, 110, 110]")
        assert len(server.asked) - before == 2  # Answers are kept.


def test_many_snippets_are_requested_in_parts(monkeypatch):
    monkeypatch.setattr(captions.ChatCaptioner, "snippets_at_once", 2)
    with chat_server.ChatServer(_VisionModel()) as server:
        chat = CaptionOptions(captioner="chat", chat_model="eye", base_url=server.url, attempts=1)
        captioner = captions.make_captioner(chat)
        actual = captioner.caption_snippets([_grey([level] * 4) for level in range(10, 60, 10)])
        assert [json.loads(text.split("light ")[1])[0] for text in actual] == [10, 20, 30, 40, 50]
        server.fail("", *[lambda answer: {"caption": ""}])
        captioner = captions.make_captioner(dataclasses.replace(chat, max_concurrent=1))
        with pytest.raises(UserError, match="of 2 snippets, found 1 without one, first snippet 0"):
            captioner.caption_snippets([_grey([level] * 4) for level in range(10, 60, 10)])
    with pytest.raises(UserError, match="--chat_model"):
        _captioner("chat")
