"""Prompts that are longer than a model reads, with real tokenizers of one token per letter."""

import msgspec
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.prompts.grammar import write_grammar
from generation.videos import generating, presets, prompt_lengths
from gvvad_jax.command import UserError
from tests.support.tiny_pipelines import make_backend

LIMITS = {"cogvideox": 226, "wan": 512, "ltx": 128}


def twins(*texts):
    return [
        msgspec.structs.replace(twin, description=text)
        for twin, text in zip(write_grammar(1, seed=0), texts, strict=True)
    ]


@pytest.mark.parametrize("name", LIMITS)
def test_each_model_reads_as_many_tokens_as_its_pipeline_says(name, models):
    # A token per letter, one for the start of the word and one for the end of the text.
    limit = LIMITS[name]
    fits = twins("a" * (limit - 2), "b" * (limit - 2))
    assert prompt_lengths.examine(models[name], None, fits, {}) == ""
    longer = twins("a" * (limit - 1), "b" * (limit - 2))
    message = prompt_lengths.examine(models[name], None, longer, {})
    assert f"reads the first {limit} tokens of a prompt: the ends of 1 of 2 " in message
    assert message.endswith("(Abuse-0000-abnormal)")
    # The argument of the call wins.
    assert prompt_lengths.examine(models[name], None, longer, {"max_sequence_length": 600}) == ""


def test_twins_that_would_be_equal_are_refused_before_any_video(models, tmp_path):
    same = "a street where two people can be seen " * 4
    descriptions = twins(f"{same} fighting", f"{same} talking")
    backend = make_backend(models["ltx"], 32)
    with pytest.raises(UserError) as caught:
        generating.generate(descriptions, backend, tmp_path / "out", progress=False)
    assert str(caught.value) == (
        "--prompts: expected twins that differ in the 128 tokens that LTXPipeline reads of a "
        "prompt, found 1 pairs that would come out as equal videos (Abuse-0000-abnormal and "
        "Abuse-0000-normal); shorten the descriptions, or give a model that reads more"
    )
    assert not list((tmp_path / "out" / "videos").iterdir())
    # Those that differ before the cut are generated, and the cut is said once, before.
    assert prompt_lengths.examine(models["wan"], None, descriptions, {}) == ""


def test_a_cut_is_said_before_the_first_video(models, tmp_path, capsys):
    descriptions = twins(*("fighting ", "talking "))
    descriptions = [
        msgspec.structs.replace(one, description=one.description + "in a long street " * 10)
        for one in descriptions
    ]
    backend = make_backend(models["ltx"], 32, denoising_steps=1)
    generating.generate(descriptions, backend, tmp_path / "out", progress=False)
    said = [line for line in capsys.readouterr().err.splitlines() if "reads the first" in line]
    assert said == [
        "LTXPipeline reads the first 128 tokens of a prompt: the ends of 2 of 2 descriptions are "
        "lost (Abuse-0000-abnormal, Abuse-0000-normal)"
    ]


def test_a_model_without_a_tokenizer_has_no_limit(models, tmp_path):
    from tests.support import tiny_pipelines

    folder = tiny_pipelines.save_images(tmp_path / "images")
    assert prompt_lengths.examine(folder, None, twins("a" * 900, "b"), {}) == ""
    with pytest.raises(UserError, match="--model: expected a diffusers pipeline"):
        prompt_lengths.examine(str(tmp_path), None, twins("a", "b"), {})


def test_published_models_read_at_least_128_tokens():
    # All pipelines of the presets have the argument by which the limit is found.
    import inspect

    import diffusers

    classes = {
        **{"cogvideox": "CogVideoX", "wan": "Wan", "ltx-2": "LTX2", "ltx-v": "LTX"},
        **{"kandinsky5": "Kandinsky5T2V", "sana": "SanaVideo", "cosmos": "Cosmos2_5_PredictBase"},
    }
    for name in presets.PRESETS:
        if name.startswith("hunyuan"):  # Its limit is an attribute.
            continue
        family = next(each for key, each in classes.items() if name.startswith(key))
        call = inspect.signature(getattr(diffusers, f"{family}Pipeline").__call__)
        assert call.parameters["max_sequence_length"].default >= 128
