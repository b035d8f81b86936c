"""CLIP: crops by hand, preprocessing and features against the checkpoint's own PIL processor."""

import functools
import pathlib
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from generation.encoders import pretrained
from generation.encoders.images import CROPS, ten_crops
from generation.encoders.preprocessing import resized_size
from generation.media import reading
from generation.media.writing import write_video
from gvvad_jax.command import UserError
from tests.support import tiny_clip
from tests.support.streaming import encode, pictures
from tests.support.tiny_clip import make_encoder

pytestmark = pytest.mark.usefixtures("one_thread")
SPANS = np.array([[0, 4], [2, 6], [4, 6]])


@pytest.fixture(scope="module")
def large_input(tmp_path_factory):
    """A checkpoint whose input is CLIP's 224 pixels."""
    return tiny_clip.save(tmp_path_factory.mktemp("weights") / "clip-224", 224, 32)


def picture(height, width, seed=0):
    """Returns a picture with large and small structure and hard edges."""
    rng = np.random.default_rng(seed)
    coarse = np.kron(rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))
    fine = rng.normal(0, 12, (height, width, 3))
    return np.clip(coarse[:height, :width] + fine, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Six decoded H.264 frames of 48x64."""
    path = tmp_path_factory.mktemp("clip") / "v.mp4"
    write_video(path, [picture(48, 64, seed) for seed in range(6)], fps=10)
    return reading.read(path).frames_TxHxWx3


@functools.cache
def _loaded(weights):
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    model = CLIPVisionModelWithProjection.from_pretrained(weights, dtype=torch.float32)
    return CLIPImageProcessorPil.from_pretrained(weights), model.eval()


def _reference(weights, images, **settings):
    """Returns the results of the checkpoint's own processor and model [F, dim]."""
    processor, model = _loaded(weights)
    pixels = processor(images=images, return_tensors="pt", **settings)["pixel_values"]
    with torch.inference_mode():
        return model(pixel_values=pixels).image_embeds.numpy()


def _assert_close(actual, expected):
    # Two grey levels of 256 in the pixels.
    np.testing.assert_allclose(actual, expected, atol=0.02 * np.abs(expected).max())


def test_ten_crops_lie_where_torchvision_puts_them():
    image_7x9 = np.arange(63).reshape(7, 9)
    mirrored_7x9 = image_7x9[:, ::-1]
    # Halves are rounded to even: (7 - 4) / 2 = 1.5 to 2, (9 - 4) / 2 = 2.5 to 2.
    places = [(0, 0), (0, 5), (3, 0), (3, 5), (2, 2)]
    expected = [
        image[top : top + 4, left : left + 4]
        for image in (image_7x9, mirrored_7x9)
        for top, left in places
    ]
    crops = ten_crops(torch.from_numpy(image_7x9), 4)
    np.testing.assert_array_equal(np.stack(crops), expected)
    # The mirrored frame's top left is the frame's top right, mirrored.
    np.testing.assert_array_equal(crops[5], np.fliplr(crops[1]))
    count, order = CROPS["ten"]
    assert count == 10 and order.startswith(
        "top left, top right, bottom left, bottom right, centre"
    )


def test_the_short_side_is_resized_and_the_long_side_rounded_down():
    assert resized_size(240, 320, 256) == (256, 341)
    assert resized_size(320, 240, 256) == (341, 256)
    assert resized_size(360, 480, 224) == (224, 298)
    assert resized_size(100, 100, 224) == (224, 224)


@pytest.mark.parametrize(
    ("height", "width"), [(240, 320), (214, 120), (360, 640), (24, 32), (18, 100), (224, 224)]
)
def test_the_centre_crop_is_the_processors_within_two_grey_levels(
    large_input, tmp_path, height, width
):
    from transformers import CLIPImageProcessorPil

    write_video(tmp_path / "v.mp4", [picture(height, width)], fps=10)
    frame = reading.read(tmp_path / "v.mp4").frames_TxHxWx3[0]
    actual = make_encoder(large_input).prepare(pictures([frame])[0])
    assert actual.shape == (3, 224, 224) and actual.dtype == torch.uint8
    processor = CLIPImageProcessorPil.from_pretrained(large_input)
    pixels = processor(images=Image.fromarray(frame), do_normalize=False, do_rescale=False)
    difference = np.abs(actual.numpy().astype(int) - pixels["pixel_values"][0].astype(int))
    assert difference.max() <= 2 and difference.mean() < 0.05


@pytest.mark.parametrize("crops", ["centre", "whole", "ten"])
def test_features_are_the_checkpoints_own(weights, frames, crops):
    images = [Image.fromarray(frame) for frame in frames]
    if crops == "centre":
        expected_NxFxD = [_reference(weights, images)]
    elif crops == "whole":
        squeezed = [image.resize((16, 16), Image.Resampling.BICUBIC) for image in images]
        expected_NxFxD = [_reference(weights, squeezed)]
    else:
        # 48x64 with a short side of 18 is 18x24; crops of 16.
        small = [image.resize((24, 18), Image.Resampling.BICUBIC) for image in images]
        places = [(0, 0), (0, 8), (2, 0), (2, 8), (1, 4)]
        expected_NxFxD = [
            _reference(
                weights,
                [turn(image).crop((left, top, left + 16, top + 16)) for image in small],
                do_resize=False,
                do_center_crop=False,
            )
            for turn in (lambda image: image, ImageOps.mirror)
            for top, left in places
        ]
    encoder = make_encoder(weights, pooling="mean", crops=crops)
    actual = encode(encoder, frames, SPANS, 10.0)
    assert actual.dtype == np.float32 and encoder.dim == 6
    expected_FxNxD = np.stack(expected_NxFxD, axis=1)
    _assert_close(actual, [expected_FxNxD[start:end].mean(axis=0) for start, end in SPANS])
    assert encoder.crops == {"count": len(expected_NxFxD), "order": CROPS[crops][1]} | (
        {"resize": 18} if crops == "ten" else {}
    )


def test_pooling(weights, frames):
    single = np.stack([np.arange(6), np.arange(1, 7)], axis=1)
    rows = encode(make_encoder(weights), frames, single, 10.0)
    middle = encode(make_encoder(weights, pooling="middle"), frames, SPANS, 10.0)
    np.testing.assert_allclose(middle, rows[[1, 3, 4]], atol=1e-5)
    mean = encode(make_encoder(weights, pooling="mean"), frames, SPANS, 10.0)
    expected = [rows[:4].mean(axis=0), rows[2:].mean(axis=0), rows[4:].mean(axis=0)]
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    assert not np.allclose(mean, middle, atol=1e-2)


def test_a_shared_frame_is_embedded_once_and_batches_are_full(weights, frames):
    encoder = make_encoder(weights, pooling="mean", crops="ten", crops_at_once=40)
    expected = encode(make_encoder(weights, pooling="mean", crops="ten"), frames, SPANS, 10.0)
    sizes = []
    encoder.model.register_forward_hook(
        lambda module, arguments, kwargs, output: sizes.append(len(kwargs["pixel_values"])),
        with_kwargs=True,
    )
    actual = encode(encoder, frames, SPANS, 10.0)
    # Twelve uses of six frames; four frames a batch.
    assert sizes == [40, 20]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_does_not_change_the_manifest(weights, frames, dtype):
    full = make_encoder(weights, pooling="mean", crops="ten")
    half = make_encoder(weights, pooling="mean", crops="ten", compute_dtype=dtype)
    assert (full.dtype, half.dtype) == ("float32", dtype)
    assert half.manifest == full.manifest and half.crops == full.crops
    expected, actual = (encode(e, frames, SPANS, 10.0) for e in (full, half))
    assert actual.dtype == np.float32
    tolerance = {"float16": 0.005, "bfloat16": 0.04}[dtype]
    np.testing.assert_allclose(actual, expected, atol=tolerance * np.abs(expected).max())


def test_overflow_is_an_error(frames, tmp_path):
    large = tiny_clip.save(tmp_path / "large", scale=1e6)
    with pytest.raises(UserError, match="--compute_dtype=float16: expected finite features"):
        encode(make_encoder(large, compute_dtype="float16"), frames, SPANS, 10.0)
    assert np.isfinite(encode(make_encoder(large), frames, SPANS, 10.0)).all()


def test_consistency_by_hand(weights, frames):
    encoder = make_encoder(weights, crops="whole")
    single = np.stack([np.arange(3), np.arange(1, 4)], axis=1)
    a, b, c = encode(encoder, frames, single, 10.0)[:, 0]
    prepared = [encoder.prepare_whole(frame) for frame in pictures(frames[:3])]

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    expected = (cosine(b, a) + (cosine(c, b) + cosine(c, a)) / 2) / 2
    assert encoder.consistency(prepared) == pytest.approx(expected, abs=1e-5)
    assert encoder.consistency(prepared[:1]) == 1.0
    assert encoder.consistency(prepared[:1] * 3) == pytest.approx(1.0)
    # It uses whole frames, whatever the crops.
    assert make_encoder(weights, crops="ten").consistency(prepared) == pytest.approx(expected)


def test_a_checkpoint_of_both_towers_works(weights, frames, tmp_path):
    """Published checkpoints hold both towers in one file."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection

    vision = CLIPVisionModelWithProjection.from_pretrained(weights)
    text = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 50}
    config = CLIPConfig(
        vision_config=vision.config.to_dict(),
        text_config=text | {"num_attention_heads": 2, "projection_dim": 6},
        projection_dim=6,
    )
    both = CLIPModel(config)
    both.load_state_dict(vision.state_dict(), strict=False)
    both.save_pretrained(tmp_path / "both")
    tiny_clip.save_processor(tmp_path / "both", 16)
    actual = encode(make_encoder(str(tmp_path / "both")), frames, SPANS, 10.0)
    expected = encode(make_encoder(weights), frames, SPANS, 10.0)
    np.testing.assert_array_equal(actual, expected)


def test_weights_are_read_when_they_are_first_needed(tmp_path):
    folder = tiny_clip.save(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"cut short")
    encoder = make_encoder(folder)
    assert encoder.dim == 6 and encoder.id == "clip-clip"
    with pytest.raises(UserError, match="expected a CLIP checkpoint"):
        encoder.load()


def test_checkpoints_of_one_name_are_told_apart(tmp_path):
    folders = [tiny_clip.save(tmp_path / name / "clip", scale=1 + (name == "b")) for name in "abc"]
    a, b, c = (make_encoder(folder).manifest for folder in folders)
    assert a == c and a["weights"] == b["weights"] == "clip" and a["digest"] != b["digest"]


def test_a_hubs_name_and_a_copy_have_one_digest(tmp_path, monkeypatch):
    from transformers import CLIPVisionModelWithProjection

    folder = pathlib.Path(tiny_clip.save(tmp_path / "clip"))
    model = CLIPVisionModelWithProjection.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="4KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    expected = make_encoder(str(folder)).manifest["digest"]
    cached = tmp_path / "hub" / "models--org--clip"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("f00d")
    shutil.copytree(folder, cached / "snapshots" / "f00d")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(
        "huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub")
    )
    assert pretrained.known_digest("org/clip", pretrained.IMAGES) == expected
    # Other weights under the same name; then one part is missing.
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-1] + b"x")
    assert pretrained.known_digest(str(folder), pretrained.IMAGES) != expected
    last.unlink()
    assert pretrained.known_digest(str(folder), pretrained.IMAGES) is None
    with pytest.raises(UserError, match="clip: expected a CLIP checkpoint, found no config.json"):
        make_encoder(str(folder))


def test_wrong_options_are_errors(weights, tmp_path):
    from transformers import BertConfig, CLIPImageProcessorPil

    with pytest.raises(UserError, match="expected a CLIP checkpoint"):
        make_encoder(str(tmp_path / "none"))
    BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="expected a CLIP checkpoint, found one of bert"):
        make_encoder(str(tmp_path / "bert"))
    other = tiny_clip.save(tmp_path / "other")
    CLIPImageProcessorPil(size={"shortest_edge": 20}).save_pretrained(other)
    with pytest.raises(UserError, match="crops 16 pixels"):
        make_encoder(other)
    for wrong, message in (
        ({"pooling": "max"}, "--pooling"),
        ({"crops": "five"}, "--crops"),
        ({"compute_dtype": "int8"}, "--compute_dtype"),
        ({"resize": 20}, "--resize: expected none for --crops=centre"),
        ({"crops": "ten", "resize": 12}, "short side of at least 16"),
        ({"device": "cuda:7"}, "expected a device of this machine"),
    ):
        with pytest.raises(UserError, match=message):
            make_encoder(weights, **wrong)
