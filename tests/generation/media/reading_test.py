"""Reading video files frame by frame: counts, damage, rotation, time stamps."""

import av
import numpy as np
import pytest

from generation.media import reading
from generation.media.writing import write_video
from tests.support.tiny_videos import moving, write_damaged, write_faststart, write_uneven


@pytest.fixture(scope="module")
def video_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "v.mp4"
    write_video(path, moving(50), fps=12.5)
    return path


def test_single_frames_equal_those_of_the_whole_video(video_path):
    whole = reading.read(video_path)
    reader = reading.Reader(video_path)
    assert (reader.num_frames, reader.declared_frames, reader.fps) == (50, 50, 12.5)
    assert (reader.height, reader.width) == (64, 96)
    wanted = [0, 7, 8, 31, 49, 50, 99]
    frames = list(reader.frames(wanted))
    assert [index for index, _ in frames] == [0, 7, 8, 31, 49]
    for index, picture in frames:
        np.testing.assert_array_equal(picture.rgb(), whole.frames_TxHxWx3[index])
    assert (reader.decoded_frames, reader.damaged) == (50, 0)
    assert [index for index, _ in reader.frames([3])] == [3]
    assert whole.uneven_seconds == reader.uneven_seconds == pytest.approx(0, abs=1e-6)


def test_only_wanted_frames_are_converted(video_path, monkeypatch):
    converted = []
    convert = reading.upright_rgb
    monkeypatch.setattr(
        reading, "upright_rgb", lambda frame, size: converted.append(1) or convert(frame, size)
    )
    pictures = reading.Reader(video_path).frames(range(5, 50, 16))
    assert len([picture.rgb() for _, picture in pictures]) == len(converted) == 3


def test_a_file_cut_short_has_fewer_packets_than_it_declares(tmp_path):
    noisy = np.random.default_rng(0).integers(0, 255, (40, 64, 80, 3), dtype=np.uint8)
    write_faststart(tmp_path / "v.mp4", noisy)
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(whole[: len(whole) // 2])
    reader = reading.Reader(tmp_path / "v.mp4")
    assert reader.declared_frames == 40 and 1 <= reader.num_frames < 40
    frames = [picture.rgb() for _, picture in reader.frames(range(40), threads=False)]
    assert len(frames) == reader.decoded_frames <= reader.num_frames
    video = reading.read(tmp_path / "v.mp4")
    assert len(video.frames_TxHxWx3) == reader.decoded_frames and video.declared_frames == 40


def test_damaged_files_read_the_same_every_time(video_path, tmp_path):
    write_damaged(video_path, tmp_path / "bad.mp4")
    video = reading.read(tmp_path / "bad.mp4")
    assert video.damaged and len(video.frames_TxHxWx3) <= 50 == video.declared_frames
    for _ in range(3):
        again = reading.read(tmp_path / "bad.mp4")
        np.testing.assert_array_equal(again.frames_TxHxWx3, video.frames_TxHxWx3)
    reader = reading.Reader(tmp_path / "bad.mp4")
    frames = [picture.rgb() for _, picture in reader.frames(range(50), threads=False)]
    np.testing.assert_array_equal(frames, video.frames_TxHxWx3)
    assert reader.damaged == video.damaged


def test_frames_are_rotated_upright(tmp_path):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255  # top left
    for angle, bright in ((-90, (0, 1)), (90, (1, 0)), (180, (1, 1)), (0, (0, 0))):
        with av.open(str(tmp_path / "v.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            # Counterclockwise; a phone held upright writes -90.
            stream.set_display_rotation(angle)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
        frame = reading.read(tmp_path / "v.mp4").frames_TxHxWx3[0]
        assert frame.shape[:2] == ((96, 64) if angle % 180 else (64, 96))
        row, column = (
            (frame.shape[0] // 4, 3 * frame.shape[0] // 4),
            (
                frame.shape[1] // 4,
                3 * frame.shape[1] // 4,
            ),
        )
        levels = frame[np.ix_(row, column)].mean(axis=2)
        assert np.unravel_index(levels.argmax(), (2, 2)) == bright
        ((_, shown),) = reading.Reader(tmp_path / "v.mp4").frames([0])
        streamed = shown.rgb()
        np.testing.assert_array_equal(streamed, frame)


def test_uneven_time_stamps_are_reported(tmp_path):
    write_uneven(tmp_path / "v.mp4")
    reader = reading.Reader(tmp_path / "v.mp4")
    # 20 frames in 5 s: frame 9 at 0.9 s is 1.35 s ahead of 9 / 4, frame 10 at 4 s 1.5 s behind.
    assert reader.fps == pytest.approx(4, abs=0.1)
    assert reader.uneven_seconds == pytest.approx(1.5, abs=0.15)
    assert reading.read(tmp_path / "v.mp4").uneven_seconds == reader.uneven_seconds


def test_a_stream_that_changes_its_size_keeps_the_first(tmp_path):
    data = b""
    for number, (height, width) in enumerate(((64, 96), (48, 64))):
        part = tmp_path / f"{number}.ts"
        with av.open(str(part), "w", format="mpegts") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            for image in moving(6, height, width):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode())
        data += part.read_bytes()
    (tmp_path / "v.ts").write_bytes(data)
    assert reading.read(tmp_path / "v.ts").frames_TxHxWx3.shape == (12, 64, 96, 3)
