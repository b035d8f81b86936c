"""Published vision models by name: preprocessing and rows against their own processors."""

import importlib.util

import numpy as np
import pytest
import torch

from generation.encode.recipe import EncodeOptions
from generation.encoders import preprocessing
from generation.encoders.families import FAMILIES
from generation.encoders.options import VisualOptions
from generation.encoders.protocols import FrameEncoder
from generation.encoders.visual import make_encoder
from gvvad_jax.command import UserError
from tests.support import tiny_vision
from tests.support.streaming import encode, pictures

pytestmark = pytest.mark.usefixtures("one_thread")
HAS_TIMM = importlib.util.find_spec("timm") is not None
needs_timm = pytest.mark.skipif(not HAS_TIMM, reason="needs the extra timm")
KINDS = [
    pytest.param(kind, marks=needs_timm) if kind == "pe-core" else kind
    for kind in tiny_vision.KINDS
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of tiny models by kind, saved when first used."""
    root = tmp_path_factory.mktemp("vision")

    class Folders(dict):
        def __missing__(self, kind):
            return self.setdefault(kind, tiny_vision.save(kind, root / kind))

    return Folders()


def tiny_encoder(kind, folder, **settings):
    return make_encoder(
        VisualOptions(encoder=tiny_vision.ENCODERS[kind], weights=str(folder), **settings)
    )


def _normalised(processing, frame):
    """Returns a frame as `processing` alone makes it, for the processor's own crops."""
    if processing.short_side:
        grey_3xHxW = processing.centre(frame, processing.short_side)
    else:
        grey_3xHxW = processing.resize(frame, processing.size, processing.size)
    mean, scale = (torch.tensor(v)[:, None, None] for v in (processing.mean, processing.scale))
    return ((grey_3xHxW.float() - mean) * scale).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_preprocessing_is_the_processors_own(folders, kind):
    encoder = tiny_encoder(kind, folders[kind])
    golden = np.load(tiny_vision.GOLDEN)
    for number, frame in enumerate(tiny_vision.frames_of_sizes()):
        prepared = encoder.prepare(pictures([frame])[0])
        (actual,) = (batch[0, 0].numpy() for batch in encoder._batches([prepared], False))
        np.testing.assert_allclose(actual, golden[f"{kind}/{number}"], atol=1e-5)


def test_timms_preprocessing_needs_no_timm():
    colours = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    shape = {"input_size": [3, 16, 16], "interpolation": "bicubic", "crop_pct": 1.0}
    config = {"pretrained_cfg": shape | colours | {"crop_mode": "center"}}
    processing = preprocessing.read("pe-core", "tiny", config)
    golden = np.load(tiny_vision.GOLDEN)
    for number, frame in enumerate(tiny_vision.frames_of_sizes()):
        expected = golden[f"pe-core/{number}"]
        np.testing.assert_allclose(_normalised(processing, frame), expected, atol=1e-5)
    with pytest.raises(UserError, match="crop_mode center"):
        preprocessing.read("pe-core", "tiny", {"pretrained_cfg": shape | {"crop_mode": "squash"}})


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="processors need torchvision"
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_recorded_pixels_are_todays(folders, kind):
    golden = np.load(tiny_vision.GOLDEN)
    for number, frame in enumerate(tiny_vision.frames_of_sizes()):
        actual = tiny_vision.processed(kind, folders[kind], frame)
        np.testing.assert_allclose(actual, golden[f"{kind}/{number}"], atol=1e-6)


def _reference(kind, folder, pixels):
    """Returns what the real class makes of the processor's pixels [F, 3, S, S]."""
    import transformers

    family = FAMILIES[tiny_vision.ENCODERS[kind]]
    model = getattr(transformers, family.model).from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        if kind == "vjepa2":
            return model(torch.from_numpy(pixels)[None]).last_hidden_state.mean(dim=1).numpy()
        output = model(pixel_values=torch.from_numpy(pixels))
    name = {"clip": "image_embeds", "pe-core": "logits"}.get(kind, "pooler_output")
    return output[name].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_models_output_of_the_processors_pixels(folders, kind):
    golden = np.load(tiny_vision.GOLDEN)
    encoder = tiny_encoder(kind, folders[kind])
    frames = tiny_vision.frames_of_sizes()
    for number, frame in enumerate(frames):
        still = np.stack([frame] * 4)
        row_1xNxD = encode(encoder, still, np.array([[0, 4]]), 10.0)
        pixels = golden[f"{kind}/{number}"][None]
        expected = _reference(kind, folders[kind], np.repeat(pixels, 4, axis=0))
        assert row_1xNxD.shape == (1, 1, encoder.dim) and row_1xNxD.dtype == np.float32
        np.testing.assert_allclose(row_1xNxD[0, 0], expected.mean(axis=0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_manifest_says_what_a_row_is(folders, kind):
    encoder = tiny_encoder(kind, folders[kind])
    manifest = encoder.manifest
    assert encoder.id == manifest["id"] == f"{kind}-{kind}"
    assert manifest["normalised"] is False and len(manifest["digest"]) == 12
    assert manifest.get("output", "") == ("" if kind == "clip" else _output(kind))
    assert manifest["pooling"] == ("window" if kind == "vjepa2" else "mean")
    own = {"siglip2": "whole", "dinov3": "whole"}.get(kind, "centre")
    assert encoder.crops == {"count": 1, "order": own}
    # Only what embeds single frames can say how alike they are.
    assert isinstance(encoder, FrameEncoder) == (kind != "vjepa2")


def _output(kind):
    return FAMILIES[tiny_vision.ENCODERS[kind]].output


@pytest.mark.parametrize("kind", KINDS)
def test_ten_crops_are_ten_rows(folders, kind):
    encoder = tiny_encoder(kind, folders[kind], crops="ten")
    frames = np.stack([tiny_vision.picture(48, 64, seed) for seed in range(4)])
    rows_TxNxD = encode(encoder, frames, np.array([[0, 4]]), 10.0)
    assert rows_TxNxD.shape == (1, 10, encoder.dim)
    # The mirrored frame's crops are those of the frame, with left and right changed.
    mirrored = encode(encoder, frames[:, :, ::-1].copy(), np.array([[0, 4]]), 10.0)
    np.testing.assert_allclose(mirrored[:, 5:], rows_TxNxD[:, :5], atol=0.05)


def test_a_window_sees_the_order_of_its_frames_and_fills_up_the_last_one(folders):
    encoder = tiny_encoder("vjepa2", folders["vjepa2"])
    frames = np.stack([tiny_vision.picture(48, 64, seed) for seed in range(7)])
    spans = np.array([[0, 4], [4, 7]])
    rows = encode(encoder, frames, spans, 10.0)
    filled = np.concatenate([frames, frames[-1:]])
    np.testing.assert_allclose(rows, encode(encoder, filled, np.array([[0, 4], [4, 8]]), 10.0))
    backwards = encode(encoder, frames[3::-1].copy(), np.array([[0, 4]]), 10.0)
    assert np.abs(backwards - rows[:1]).max() > 0.01
    # Batches of windows change nothing but the last bits.
    small = tiny_encoder("vjepa2", folders["vjepa2"], crops_at_once=1)
    np.testing.assert_allclose(encode(small, frames, spans, 10.0), rows, atol=1e-5)


def test_what_doesnt_fit_is_an_error(folders, tmp_path):
    with pytest.raises(UserError, match="--pooling: expected mean for --encoder=vjepa2"):
        tiny_encoder("vjepa2", folders["vjepa2"], pooling="middle")
    with pytest.raises(UserError, match="expected a DINOv3 ViT checkpoint, found one of siglip"):
        tiny_encoder("dinov3", folders["siglip2"])
    naflex = tmp_path / "naflex"
    naflex.mkdir()
    (naflex / "config.json").write_text('{"model_type": "siglip2"}')
    with pytest.raises(UserError, match="SigLIP 2 checkpoint of fixed size, found one of siglip2"):
        tiny_encoder("siglip2", naflex)
    if not HAS_TIMM:
        with pytest.raises(UserError, match="--encoder=pe-core: expected timm"):
            tiny_encoder("pe-core", folders["dinov3"])


def test_every_family_has_a_stride_and_a_fingerprint(folders):
    for name, family in FAMILIES.items():
        options = EncodeOptions(encoder=name, captioner="none")
        assert options.stride == 16 and options.needs_torch
        assert options.fingerprint()["names"] == {"weights": family.weights.rpartition("/")[2]}
