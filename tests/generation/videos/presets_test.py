import subprocess
import sys

import pytest

from generation.videos import presets
from generation.videos.diffusers_backend import DiffusersBackend
from generation.videos.options import DiffusersOptions
from gvvad_jax.command import UserError


def settings_of(**options):
    return DiffusersBackend(DiffusersOptions(**options)).settings


def test_presets_and_what_overrides_them():
    steps = {"cogvideox-": 8, "cogvideox1.5": 16, "ltx": 8}
    for name, preset in presets.PRESETS.items():
        assert preset.frame_step == next((s for n, s in steps.items() if name.startswith(n)), 4)
        assert preset.num_frames % preset.frame_step == 1
        assert preset.height % 16 == preset.width % 16 == 0
    settings = settings_of(generator="wan2.1-1.3b", denoising_steps=20, width=480)
    assert settings["call"] | {"width": 832, "num_inference_steps": 50} == {
        **dict.fromkeys(presets.FRAME_ARGUMENTS, 81),
        **{"height": 480, "width": 832, "frame_rate": 16},
        **{"num_inference_steps": 50, "guidance_scale": 5.0},
    }
    assert settings["call"]["num_inference_steps"] == 20 and settings["call"]["width"] == 480
    assert (settings["dtype"], settings["vae_dtype"], settings["fps"]) == (
        "bfloat16",
        "float32",
        16,
    )
    # A preset with other weights, a published model by its Hub id, and a model without a preset.
    assert settings_of(model="folder", generator="ltx-video")["fps"] == 24
    by_id = settings_of(model="THUDM/CogVideoX-2b")
    assert by_id == settings_of(generator="cogvideox-2b") == settings_of()
    assert by_id["dtype"] == "float16"
    assert settings_of(model="folder")["call"] == {"frame_rate": 8.0}


def test_settings_need_no_library():
    code = (
        "import pickle, sys; from generation.videos.diffusers_backend import DiffusersBackend; "
        "from generation.videos.options import DiffusersOptions; "
        "backend = DiffusersBackend(DiffusersOptions(generator='ltx-video')); "
        "pickle.loads(pickle.dumps(backend)).settings['fps']; "
        "print([m for m in ('torch', 'diffusers', 'transformers', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("owner", ["zai-org", "THUDM", "thudm", "ZAI-org"])
def test_a_model_keeps_its_preset_under_every_name_of_its_owner(owner):
    for name, preset in (("CogVideoX-5b", "cogvideox-5b"), ("cogvideox1.5-5b", "cogvideox1.5-5b")):
        settings = settings_of(model=f"{owner}/{name}")
        assert settings == settings_of(generator=preset)
        assert settings["call"]["num_frames"] == presets.PRESETS[preset].num_frames


def test_other_models_have_no_preset():
    for model in ("someone/CogVideoX-5b", "zai-org/CogVideoX-5b-lora", "5b"):
        assert presets.find_preset("", model) is None
    with pytest.raises(UserError, match="--generator: expected one of cogvideox-2b, .*'cog'"):
        presets.find_preset("cog", "")


@pytest.mark.parametrize(
    "folder",
    [
        "LTX-Video",
        "weights/ltx-video/",
        "hub/models--Lightricks--LTX-Video/snapshots/0123456789abcdef",
    ],
)
def test_a_folder_called_like_a_published_model_has_its_preset(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    assert presets.find_preset("", f"{tmp_path}/{folder}") == presets.PRESETS["ltx-video"]
    (tmp_path / "ideo").mkdir()
    assert presets.find_preset("", f"{tmp_path}/ideo") is None
