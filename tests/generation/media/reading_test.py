"""Reading H.264 files frame by frame: counts, damage, rotation, time stamps, folders."""

import struct

import av
import numpy as np
import pytest

from generation.media import reading
from generation.media.writing import write_video
from gvvad_jax.command import UserError
from tests.support.tiny_videos import moving, write_damaged, write_faststart, write_uneven


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "v.mp4"
    write_video(path, moving(50), fps=12.5)
    return path


def test_chosen_frames_are_those_of_the_whole_video(clip):
    whole = reading.read(clip)
    reader = reading.Reader(clip)
    assert (reader.num_frames, reader.declared_frames, reader.fps) == (50, 50, 12.5)
    assert (reader.height, reader.width) == (64, 96)
    wanted = [0, 7, 8, 31, 49, 50, 99]
    found = list(reader.frames(wanted))
    assert [index for index, _ in found] == [0, 7, 8, 31, 49]
    for index, frame in found:
        np.testing.assert_array_equal(frame, whole.frames_TxHxWx3[index])
    assert (reader.decoded_frames, reader.damaged) == (50, 0)
    assert [index for index, _ in reader.frames([3])] == [3]
    assert whole.uneven_seconds == reader.uneven_seconds == pytest.approx(0, abs=1e-6)


def test_only_wanted_frames_are_converted(clip, monkeypatch):
    converted = []
    real = reading._rgb
    monkeypatch.setattr(
        reading, "_rgb", lambda frame, size: converted.append(1) or real(frame, size)
    )
    assert len(list(reading.Reader(clip).frames(range(5, 50, 16)))) == len(converted) == 3


def test_a_file_cut_short_has_fewer_packets_than_it_declares(tmp_path):
    noisy = np.random.default_rng(0).integers(0, 255, (40, 64, 80, 3), dtype=np.uint8)
    write_faststart(tmp_path / "v.mp4", noisy)
    whole = (tmp_path / "v.mp4").read_bytes()
    (tmp_path / "v.mp4").write_bytes(whole[: len(whole) // 2])
    reader = reading.Reader(tmp_path / "v.mp4")
    assert reader.declared_frames == 40 and 1 <= reader.num_frames < 40
    frames = [frame for _, frame in reader.frames(range(40), threads=False)]
    assert len(frames) == reader.decoded_frames <= reader.num_frames
    video = reading.read(tmp_path / "v.mp4")
    assert len(video.frames_TxHxWx3) == reader.decoded_frames and video.declared_frames == 40


def test_damage_is_counted_and_reads_the_same_every_time(clip, tmp_path):
    write_damaged(clip, tmp_path / "bad.mp4")
    video = reading.read(tmp_path / "bad.mp4")
    assert video.damaged and len(video.frames_TxHxWx3) <= 50 == video.declared_frames
    for _ in range(3):
        again = reading.read(tmp_path / "bad.mp4")
        np.testing.assert_array_equal(again.frames_TxHxWx3, video.frames_TxHxWx3)
    reader = reading.Reader(tmp_path / "bad.mp4")
    found = [frame for _, frame in reader.frames(range(50), threads=False)]
    np.testing.assert_array_equal(found, video.frames_TxHxWx3)
    assert reader.damaged == video.damaged


def test_frames_come_upright(tmp_path):
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
        ((_, streamed),) = reading.Reader(tmp_path / "v.mp4").frames([0])
        np.testing.assert_array_equal(streamed, frame)


def test_uneven_time_stamps_are_told(tmp_path):
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


def _write_image(path, image):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("png", rate=1)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def test_a_folder_without_its_broken_images(tmp_path):
    images = moving(6)
    for number, image in enumerate(images):
        _write_image(tmp_path / f"{number:03d}.png", image)
    (tmp_path / "000.png").write_bytes(b"no picture")
    (tmp_path / "004.png").write_bytes(b"no picture")
    sound = images[[1, 2, 3, 5]]
    video = reading.read(tmp_path)
    np.testing.assert_array_equal(video.frames_TxHxWx3, sound)
    assert (video.declared_frames, video.damaged, video.fps) == (6, 2, None)
    reader = reading.Reader(tmp_path)
    assert (reader.num_frames, reader.declared_frames) == (6, 6)
    assert len(list(reader.frames([0, 1]))) == 1
    assert (reader.decoded_frames, reader.damaged) == (4, 2)
    found = list(reader.frames(range(4)))
    np.testing.assert_array_equal([frame for _, frame in found], sound)
    assert (reader.decoded_frames, reader.damaged) == (4, 0)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no picture")
    for read in (reading.read, reading.Reader):
        with pytest.raises(reading.UnreadableError, match="expected 6 frames, decoded none"):
            read(tmp_path)


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    images = moving(12)
    for number, image in enumerate(images):
        _write_image(tmp_path / f"{number}.png", image)
    np.testing.assert_array_equal(reading.read(tmp_path).frames_TxHxWx3, images)
    found = list(reading.Reader(tmp_path).frames(range(12)))
    np.testing.assert_array_equal([frame for _, frame in found], images)
    padded = ["a.png", "a01.png", "a10.png", "b001_02.png", "b001_10.png", "b002_01.png", "é1.png"]
    assert sorted(padded, key=reading.in_order) == padded == sorted(padded)
    mixed = ["2-9.png", "2-10.png", "10-1.png"]
    assert sorted(mixed, key=reading.in_order) == mixed


def test_turned_photos_are_brought_to_the_size_of_the_first(tmp_path):
    PIL_Image = pytest.importorskip("PIL.Image")
    for number, orientation in enumerate((6, 1, 6, 3)):  # 6: to be turned by a quarter.
        exif = PIL_Image.Exif()
        exif[0x0112] = orientation
        picture = np.zeros((64, 96, 3), np.uint8)
        picture[:, 48:] = 255  # At the bottom once it is turned.
        PIL_Image.fromarray(picture).save(tmp_path / f"{number}.jpg", exif=exif)
    frames_TxHxWx3 = reading.read(tmp_path).frames_TxHxWx3
    assert frames_TxHxWx3.shape == (4, 96, 64, 3)
    for turned in frames_TxHxWx3[[0, 2]]:
        assert turned[:44].max() < 20 and turned[52:].min() > 235
    assert frames_TxHxWx3[1, :, :28].max() < 20 and frames_TxHxWx3[1, :, 36:].min() > 235
    assert frames_TxHxWx3[3, :, :28].min() > 235 and frames_TxHxWx3[3, :, 36:].max() < 20
    streamed = [frame for _, frame in reading.Reader(tmp_path).frames(range(4))]
    np.testing.assert_array_equal(streamed, frames_TxHxWx3)


def test_a_folder_that_cannot_be_read_is_unreadable(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "iterdir", refused)
    with pytest.raises(reading.UnreadableError, match="can't be read .Permission denied"):
        reading.read(tmp_path)


@pytest.mark.parametrize(
    ("start", "seconds", "left"), [(20, 4, 40), (0, 3, 30), (20, 2, 20)], ids=str
)
def test_what_an_edit_list_cuts_off_is_not_declared(tmp_path, start, seconds, left):
    path = tmp_path / "v.mp4"
    write_faststart(path, moving(60))
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") + 12
    _, first = struct.unpack_from(">Ii", data, place)
    # Duration in milliseconds, start in the stream's time base.
    struct.pack_into(">Ii", data, place, 1000 * seconds, first + 1024 * start)
    path.write_bytes(data)
    video, reader = reading.read(path), reading.Reader(path)
    assert len(video.frames_TxHxWx3) == video.declared_frames == left
    assert reader.num_frames == reader.declared_frames == left
    if not start:
        # What is lost is still declared.
        path.write_bytes(data[: len(data) // 2])
        assert len(reading.read(path).frames_TxHxWx3) < reading.read(path).declared_frames == left


def _write_video(path, frames, codec="libx264", pix_fmt="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def _write_with_cover(path, codec, frames):
    """Video frames or sound, after a cover picture."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream(codec, rate=44100 if codec == "libmp3lame" else 25)
        if stream.type == "video":
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        black = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        container.mux([*cover.encode(black), *cover.encode()])
        for frame in frames:
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_the_cover_of_music_is_no_video(tmp_path):
    frames = [av.VideoFrame.from_ndarray(image, "rgb24") for image in moving(12)]
    _write_with_cover(tmp_path / "film.mp4", "libx264", frames)
    assert reading.read(tmp_path / "film.mp4").frames_TxHxWx3.shape == (12, 64, 96, 3)
    silence = av.AudioFrame.from_ndarray(np.zeros((2, 1152), np.float32), "fltp", "stereo")
    silence.sample_rate = 44100
    _write_with_cover(tmp_path / "song.mp3", "libmp3lame", [silence])
    for read in (reading.read, reading.Reader):
        with pytest.raises(reading.UnreadableError, match="song.mp3: .* only a cover picture"):
            read(tmp_path / "song.mp3")


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        *((f"v.{end}", "libx264", "yuv420p") for end in ("mov", "mkv", "ts", "flv", "h264", "f4v")),
        *((f"v.{end}", "mpeg4", "yuv420p") for end in ("avi", "3gp", "m4v", "asf", "nut")),
        *((f"v.{end}", "mpeg2video", "yuv420p") for end in ("mpg", "vob", "m2v", "mxf")),
        ("v.webm", "libvpx-vp9", "yuv420p"),
        ("v.ivf", "libvpx-vp9", "yuv420p"),
        ("v.hevc", "libx265", "yuv420p"),
        ("v.wmv", "wmv2", "yuv420p"),
        ("v.gif", "gif", "rgb8"),
        ("v.mjpeg", "mjpeg", "yuvj420p"),
        ("v.y4m", "wrapped_avframe", "yuv420p"),
    ],
)
def test_the_usual_formats_are_read(tmp_path, name, codec, pix_fmt):
    _write_video(tmp_path / name, moving(12), codec, pix_fmt)
    video = reading.read(tmp_path / name)
    assert video.frames_TxHxWx3.shape == (12, 64, 96, 3) and video.declared_frames == 12


@pytest.mark.parametrize("name", ["v.m3u8", "v.ffconcat", "v.mp4", "v.sdp"])
def test_no_file_leads_to_another(tmp_path, name):
    _write_video(tmp_path / "secret.ts", moving(12))
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / name).write_text(
        {
            "v.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:1,\n{tmp_path}/secret.ts\n"
            "#EXT-X-ENDLIST\n",
            "v.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
            "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        }.get(name, "ffconcat version 1.0\nfile ../secret.ts\n")
    )
    for read in (reading.read, reading.Reader, reading.probe):
        with pytest.raises(reading.UnreadableError, match="a format that isn't read"):
            read(tmp_path / "list" / name)


def test_the_name_of_an_image_is_no_pattern(tmp_path):
    first, second = moving(2)
    (tmp_path / "cam%20door").mkdir()
    _write_image(tmp_path / "1.png", first)
    (tmp_path / "1.png").rename(tmp_path / "cam%20door" / "a%2d.png")
    _write_image(tmp_path / "2.png", second)
    (tmp_path / "2.png").rename(tmp_path / "cam%20door" / "a01.png")
    video = reading.read(tmp_path / "cam%20door")
    np.testing.assert_array_equal(video.frames_TxHxWx3, [first, second])


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "rubbish.mp4").write_bytes(b"no video at all" * 100)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
    for name, message in (
        ("empty", "expected a folder of frames"),
        ("rubbish.mp4", "can't open"),
        ("sound.wav", "expected a video stream"),
    ):
        for read in (reading.read, reading.Reader):
            with pytest.raises(reading.UnreadableError, match=message):
                read(tmp_path / name)
    with pytest.raises(UserError):
        reading.probe(tmp_path / "sound.wav")


def test_writing_is_whole_or_not_at_all(tmp_path):
    for frames, message in (([], "at least one frame"), (moving(2)[:, :63], "found 63x96")):
        with pytest.raises(UserError, match=message):
            write_video(tmp_path / "v.mp4", frames, fps=10)
    assert not list(tmp_path.iterdir())
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, moving(10), fps=29.97)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert reading.probe(tmp_path / "a.mp4").fps == pytest.approx(29.97, abs=1e-3)
