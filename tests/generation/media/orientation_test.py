"""Pictures are upright as players show them: eight orientations of images and of videos."""

import av
import numpy as np
import pytest

from generation.media import reading
from tests.support.tiny_videos import write_image

# By EXIF orientation: the upright picture, from the stored one.
UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}
# The same as display matrices [a b; c d]: a pixel at (x, y) is shown at (ax + cy, bx + dy).
MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}


def _stored():
    """Returns a picture whose quarters differ."""
    quarters = np.array([[250, 170], [90, 10]], np.uint8)
    return np.kron(quarters, np.ones((32, 48), np.uint8))[..., None].repeat(3, 2)


def _check(path, expected):
    """Checks all the ways in which the first picture is read."""
    np.testing.assert_allclose(reading.read(path).frames_TxHxWx3[0], expected, atol=6)
    ((_, picture),) = reading.Reader(path).frames([0])
    height, width = expected.shape[:2]
    assert (picture.width, picture.height) == (width, height)
    np.testing.assert_allclose(picture.rgb(), expected, atol=6)
    small = expected[8::16, 8::16]
    for form, wanted in (("gray", small[..., 0]), ("rgb24", small)):
        scaled = picture.scaled(width // 16, height // 16, form)
        assert scaled.flags.c_contiguous and scaled.dtype == np.uint8
        np.testing.assert_allclose(scaled, wanted, atol=6)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_images_follow_their_exif_orientation(tmp_path, ending, orientation):
    PIL_Image = pytest.importorskip("PIL.Image")
    PIL_ImageOps = pytest.importorskip("PIL.ImageOps")
    exif = PIL_Image.Exif()
    exif[0x0112] = orientation
    PIL_Image.fromarray(_stored()).save(tmp_path / f"0.{ending}", exif=exif, quality=95)
    upright = UPRIGHT[orientation](_stored())
    with PIL_Image.open(tmp_path / f"0.{ending}") as image:
        shown = np.asarray(PIL_ImageOps.exif_transpose(image))
    np.testing.assert_allclose(shown, upright, atol=6)
    _check(tmp_path, upright)


@pytest.mark.parametrize("orientation", MATRICES)
@pytest.mark.parametrize("name", ["v.mp4", "v.mov"])
def test_videos_follow_their_display_matrix(tmp_path, name, orientation):
    a, b, c, d = (65536 * value for value in MATRICES[orientation])
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(_stored(), "rgb24")))
        container.mux(stream.encode())
    _check(tmp_path / name, UPRIGHT[orientation](_stored()))


def test_pictures_are_scaled_by_area_averaging(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 96), dtype=np.uint8)
    write_image(tmp_path / "0.png", np.repeat(noise[..., None], 3, axis=2))
    ((_, picture),) = reading.Reader(tmp_path).frames([0])
    means = noise.reshape(8, 8, 12, 8).mean(axis=(1, 3))
    np.testing.assert_allclose(picture.scaled(12, 8, "rgb24")[..., 1], means, atol=1.5)
    np.testing.assert_allclose(picture.scaled(12, 8), means, atol=1.5)
