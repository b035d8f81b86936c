"""Folders of images: order, broken images, rotation."""

import os

import numpy as np
import pytest

from generation.media import reading
from generation.media.containers import UnreadableError
from generation.media.image_folders import frame_order
from tests.support.tiny_videos import moving, write_image


def test_broken_images_are_left_out(tmp_path):
    images = moving(6)
    for number, image in enumerate(images):
        write_image(tmp_path / f"{number:03d}.png", image)
    (tmp_path / "000.png").write_bytes(b"no picture")
    (tmp_path / "004.png").write_bytes(b"no picture")
    readable = images[[1, 2, 3, 5]]
    video = reading.read(tmp_path)
    np.testing.assert_array_equal(video.frames_TxHxWx3, readable)
    assert (video.declared_frames, video.damaged, video.fps) == (6, 2, None)
    reader = reading.Reader(tmp_path)
    assert (reader.num_frames, reader.declared_frames) == (6, 6)
    assert len(list(reader.frames([0, 1]))) == 1
    assert (reader.decoded_frames, reader.damaged) == (4, 2)
    frames = [(index, picture.rgb()) for index, picture in reader.frames(range(4))]
    np.testing.assert_array_equal([frame for _, frame in frames], readable)
    assert (reader.decoded_frames, reader.damaged) == (4, 0)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no picture")
    for read in (reading.read, reading.Reader):
        with pytest.raises(UnreadableError, match="expected 6 frames, decoded none"):
            read(tmp_path)


def test_frames_are_ordered_by_their_numbers(tmp_path):
    images = moving(12)
    for number, image in enumerate(images):
        write_image(tmp_path / f"{number}.png", image)
    np.testing.assert_array_equal(reading.read(tmp_path).frames_TxHxWx3, images)
    frames = [(n, p.rgb()) for n, p in reading.Reader(tmp_path).frames(range(12))]
    np.testing.assert_array_equal([frame for _, frame in frames], images)
    padded = ["a.png", "a01.png", "a10.png", "b001_02.png", "b001_10.png", "b002_01.png", "é1.png"]
    assert sorted(padded, key=frame_order) == padded == sorted(padded)
    mixed = ["2-9.png", "2-10.png", "10-1.png"]
    assert sorted(mixed, key=frame_order) == mixed


def test_rotated_photos_get_the_size_of_the_first(tmp_path):
    PIL_Image = pytest.importorskip("PIL.Image")
    for number, orientation in enumerate((6, 1, 6, 3)):  # 6 means a quarter turn.
        exif = PIL_Image.Exif()
        exif[0x0112] = orientation
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[:, 48:] = 255  # At the bottom after the turn.
        PIL_Image.fromarray(picture).save(tmp_path / f"{number}.jpg", exif=exif)
    frames_TxHxWx3 = reading.read(tmp_path).frames_TxHxWx3
    assert frames_TxHxWx3.shape == (4, 96, 64, 3)
    for turned in frames_TxHxWx3[[0, 2]]:
        assert turned[:44].max() < 20 and turned[52:].min() > 235
    assert frames_TxHxWx3[1, :, :28].max() < 20 and frames_TxHxWx3[1, :, 36:].min() > 235
    assert frames_TxHxWx3[3, :, :28].min() > 235 and frames_TxHxWx3[3, :, 36:].max() < 20
    streamed = [picture.rgb() for _, picture in reading.Reader(tmp_path).frames(range(4))]
    np.testing.assert_array_equal(streamed, frames_TxHxWx3)


def test_a_folder_that_cannot_be_read_is_unreadable(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "iterdir", refused)
    with pytest.raises(UnreadableError, match="can't be read .Permission denied"):
        reading.read(tmp_path)


@pytest.mark.parametrize("name", ["a%2d.png", "a%d.png", "a%03d.png", "a*.png", "a%%.png"])
def test_the_name_of_an_image_is_not_a_pattern(tmp_path, name):
    first, second = moving(2)
    (tmp_path / "cam%20door").mkdir()
    write_image(tmp_path / "1.png", first)
    (tmp_path / "1.png").rename(tmp_path / "cam%20door" / name)
    write_image(tmp_path / "2.png", second)
    (tmp_path / "2.png").rename(tmp_path / "cam%20door" / "a01.png")
    video = reading.read(tmp_path / "cam%20door")
    np.testing.assert_array_equal(video.frames_TxHxWx3, [first, second])


def test_hidden_files_are_no_frames(tmp_path):
    images = moving(3)
    for number, image in enumerate(images):
        write_image(tmp_path / f"{number}.png", image)
    for name in ("._0.png", "._1.jpg", ".DS_Store", ".hidden.png", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"no picture")
    video = reading.read(tmp_path)
    np.testing.assert_array_equal(video.frames_TxHxWx3, images)
    assert (video.declared_frames, video.damaged) == (3, 0)


def test_a_frame_that_links_out_of_its_folder_is_refused(tmp_path):
    first, second = moving(2)
    folder, elsewhere = tmp_path / "frames", tmp_path / "elsewhere"
    for path in (folder, elsewhere, folder / "kept"):
        path.mkdir()
    write_image(elsewhere / "1.png", second)
    write_image(folder / "kept" / "0.png", first)
    (folder / "0.png").symlink_to("kept/0.png")
    np.testing.assert_array_equal(reading.read(folder).frames_TxHxWx3, [first])
    (folder / "1.png").symlink_to(elsewhere / "1.png")
    for read in (reading.read, reading.Reader):
        with pytest.raises(UnreadableError, match="frames: .* 1.png, a link to .*; copy it"):
            read(folder)
    # The folder itself may be a link.
    (tmp_path / "linked").symlink_to(elsewhere)
    np.testing.assert_array_equal(reading.read(tmp_path / "linked").frames_TxHxWx3, [second])


def test_frames_of_the_hubs_snapshots_are_links(tmp_path):
    folder = tmp_path / "datasets--x" / "snapshots" / "revision" / "frames"
    (tmp_path / "datasets--x" / "blobs").mkdir(parents=True)
    folder.mkdir(parents=True)
    (image,) = moving(1)
    write_image(tmp_path / "a.png", image)
    (tmp_path / "a.png").rename(tmp_path / "datasets--x" / "blobs" / "1f3a")
    (folder / "0.png").symlink_to("../../../blobs/1f3a")
    np.testing.assert_array_equal(reading.read(folder).frames_TxHxWx3, [image])


def test_pipes_and_folders_are_damaged_frames(tmp_path):
    (image,) = moving(1)
    write_image(tmp_path / "0.png", image)
    os.mkfifo(tmp_path / "1.png")
    (tmp_path / "2.png").mkdir()
    video = reading.read(tmp_path)
    assert (len(video.frames_TxHxWx3), video.declared_frames, video.damaged) == (1, 3, 2)
