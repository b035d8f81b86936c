import subprocess
import sys

from generation.videos import presets
from generation.videos.diffusers_backend import DiffusersBackend
from generation.videos.options import DiffusersOptions


def settings_of(**options):
    return DiffusersBackend(DiffusersOptions(**options)).settings


def test_presets_and_what_overrides_them():
    steps = {"cogvideox": 8, "cogvideox1.5": 16, "wan2.1": 4, "ltx": 8}
    for name, preset in presets.PRESETS.items():
        assert preset.num_frames % steps[name.rsplit("-", 1 + name.endswith("i2v"))[0]] == 1
        assert preset.height % 16 == preset.width % 16 == 0
    settings = settings_of(generator="wan2.1-1.3b", denoising_steps=20, width=480)
    assert settings["call"] | {"width": 832, "num_inference_steps": 50} == {
        **{"num_frames": 81, "video_length": 81, "height": 480, "width": 832, "frame_rate": 16},
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
