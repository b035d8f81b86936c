"""The pipelines of 2026 through their real classes, with tiny random weights."""

import importlib.util
import json
import pathlib

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from generation.videos import loading, presets
from generation.videos.diffusers_backend import DiffusersBackend
from generation.videos.options import DiffusersOptions
from gvvad_jax.command import UserError
from tests.support import tiny_newer_pipelines as tiny
from tests.support.tiny_pipelines import make_backend

pytestmark = pytest.mark.usefixtures("one_thread")
NEEDS_TORCHVISION = ("cosmos2.5", "kandinsky5")
# What only the tiny models need: sizes without bins; a block that they have.
ARGUMENTS = {
    "sana": {"use_resolution_binning": False},
    "ltx2": {"spatio_temporal_guidance_blocks": [0]},
}


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """Folders of the tiny models; each is saved when first used."""
    root = tmp_path_factory.mktemp("newer")

    class Folders(dict):
        def __missing__(self, name):
            return self.setdefault(name, tiny.SAVERS[name](root / name))

    return Folders()


class _NoChecks:
    """Stands in for NVIDIA's safety checker, whose weights aren't here."""

    def to(self, *_):
        return self

    def check_text_safety(self, _):
        return True

    def check_video_safety(self, video):
        return video


def make(name, folder, **options):
    options = {"num_frames": tiny.FRAMES[name]} | options
    arguments = json.dumps(ARGUMENTS.get(name, {}))
    return make_backend(folder, tiny.SIZES[name], pipeline_arguments=arguments, **options)


@pytest.mark.parametrize("name", tiny.SAVERS)
def test_a_video_of_the_requested_size_and_length(newer, name, descriptions, tmp_path, monkeypatch):
    if name in NEEDS_TORCHVISION and importlib.util.find_spec("torchvision") is None:
        pytest.skip("needs torchvision")
    if name == "cosmos2.5":
        module = "diffusers.pipelines.cosmos.pipeline_cosmos2_5_predict"
        monkeypatch.setattr(f"{module}.CosmosSafetyChecker", _NoChecks)
    backend = make(name, newer[name])
    backend.examine(descriptions[:2], None, False)
    backend.prepare(descriptions[:2], tmp_path)
    size = tiny.SIZES[name]
    for video in backend(descriptions[:2]):
        assert not isinstance(video, Exception), video
        assert video.frames_TxHxWx3.shape == (tiny.FRAMES[name], size, size, 3)


def test_wan22_takes_two_guidance_scales_and_one_that_is_given_counts_for_both():
    def call(**options):
        return DiffusersBackend(DiffusersOptions(generator="wan2.2-a14b", **options)).settings[
            "call"
        ]

    assert (call()["guidance_scale"], call()["guidance_scale_2"]) == (4.0, 3.0)
    assert call(guidance=5.0)["guidance_scale"] == 5.0
    assert "guidance_scale_2" not in call(guidance=5.0)


def test_both_transformers_of_wan22_are_quantised(newer, descriptions, tmp_path):
    index = json.loads((pathlib.Path(newer["wan2.2"]) / "model_index.json").read_text())
    assert loading.transformer_names(index) == ["transformer", "transformer_2"]
    # Where there is no second one, its entry is [null, null].
    assert loading.transformer_names(
        {"transformer_2": [None, None], "transformer": ["a", "b"]}
    ) == ["transformer"]
    pytest.importorskip("torchao")
    backend = make("wan2.2", newer["wan2.2"], quantize="int8")
    backend.prepare(descriptions[:1], tmp_path)
    for name in ("transformer", "transformer_2"):
        weight = getattr(backend._pipeline, name).blocks[0].attn1.to_q.weight
        assert type(weight).__name__ == "Int8Tensor"


def test_a_flag_that_a_pipeline_cant_take_is_an_error(newer, descriptions, tmp_path):
    said = "--guidance: expected none for HunyuanVideo15Pipeline, .* no guidance_scale, found 5.0"
    with pytest.raises(UserError, match=said):
        make("hunyuan1.5", newer["hunyuan1.5"], guidance=5.0).prepare(descriptions, tmp_path)


def test_cosmos_weights_lie_on_a_branch():
    def revision(**options):
        return DiffusersBackend(DiffusersOptions(**options)).settings["revision"]

    branch = "diffusers/base/post-trained"
    assert revision(generator="cosmos-predict2.5-2b") == branch
    assert revision(model="nvidia/Cosmos-Predict2.5-2B") == branch
    assert revision(generator="cosmos-predict2.5-2b", revision="mine") == "mine"
    assert revision(generator="cosmos-predict2.5-2b", model="other/weights") is None


def test_the_numbers_of_presets_are_their_pipelines_defaults():
    import inspect

    import diffusers

    pipelines = {
        "ltx-2": "LTX2Pipeline",
        "hunyuanvideo1.5-480p": "HunyuanVideo15Pipeline",
        "kandinsky5-lite": "Kandinsky5T2VPipeline",
        "sana-video-480p": "SanaVideoPipeline",
        "cosmos-predict2.5-2b": "Cosmos2_5_PredictBasePipeline",
    }
    for name, pipeline in pipelines.items():
        preset = presets.PRESETS[name]
        call = inspect.signature(getattr(diffusers, pipeline).__call__).parameters
        numbers = {
            "height": preset.height, "width": preset.width,
            "num_inference_steps": preset.steps, "guidance_scale": preset.guidance,
        }  # fmt: skip
        (frames,) = set(presets.FRAME_ARGUMENTS) & set(call)
        numbers[frames] = preset.num_frames
        for argument, number in numbers.items():
            default = call[argument].default if argument in call else None
            assert default in (None, number), (name, argument)
        assert preset.any_rate == ("frame_rate" in call)
