"""Which containers are opened and what they declare."""

import os
import struct

import av
import numpy as np
import pytest

from generation.media import reading
from generation.media.containers import UnreadableError
from tests.support.tiny_videos import moving, write_faststart


def _write_video(path, frames, codec="libx264", pix_fmt="yuv420p"):
    path.parent.mkdir(exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def _write_with_cover(path, codec, frames):
    """Writes video frames or sound after a cover picture."""
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


def test_cover_pictures_are_not_videos(tmp_path):
    frames = [av.VideoFrame.from_ndarray(image, "rgb24") for image in moving(12)]
    _write_with_cover(tmp_path / "film.mp4", "libx264", frames)
    assert reading.read(tmp_path / "film.mp4").frames_TxHxWx3.shape == (12, 64, 96, 3)
    silence = av.AudioFrame.from_ndarray(np.zeros((2, 1152), np.float32), "fltp", "stereo")
    silence.sample_rate = 44100
    _write_with_cover(tmp_path / "song.mp3", "libmp3lame", [silence])
    for read in (reading.read, reading.Reader):
        with pytest.raises(UnreadableError, match="song.mp3: .* only a cover picture"):
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
def test_common_formats_are_read(tmp_path, name, codec, pix_fmt):
    _write_video(tmp_path / name, moving(12), codec, pix_fmt)
    video = reading.read(tmp_path / name)
    assert video.frames_TxHxWx3.shape == (12, 64, 96, 3) and video.declared_frames == 12


@pytest.mark.parametrize("name", ["v.m3u8", "v.ffconcat", "v.mp4", "v.sdp"])
def test_a_file_cannot_make_another_file_be_read(tmp_path, name):
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
    for read in (reading.read, reading.Reader):
        with pytest.raises(UnreadableError, match="a format that is not accepted"):
            read(tmp_path / "list" / name)


def test_other_kinds_of_files_are_refused(tmp_path):
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
            with pytest.raises(UnreadableError, match=message):
                read(tmp_path / name)


@pytest.mark.parametrize(
    ("start", "seconds", "left"), [(20, 4, 40), (0, 3, 30), (20, 2, 20)], ids=str
)
def test_frames_cut_off_by_an_edit_list_are_not_declared(tmp_path, start, seconds, left):
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
        # Lost frames are still declared.
        path.write_bytes(data[: len(data) // 2])
        assert len(reading.read(path).frames_TxHxWx3) < reading.read(path).declared_frames == left


def test_a_tag_that_is_not_utf_8_is_read(tmp_path):
    for name in ("v.mp4", "v.mkv", "v.avi", "v.flv"):
        with av.open(str(tmp_path / name), "w") as container:
            container.metadata["title"] = "Cafe-bar"
            codec = "mpeg4" if name == "v.avi" else "libx264"
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
            for image in moving(12):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode())
        data = (tmp_path / name).read_bytes()
        assert b"Cafe-bar" in data
        (tmp_path / name).write_bytes(data.replace(b"Cafe-bar", b"Caf\xe9-bar"))
        assert reading.read(tmp_path / name).frames_TxHxWx3.shape == (12, 64, 96, 3)


@pytest.mark.parametrize("name", ["pipe.mp4", "device.mp4", "long", "nul\0.mp4", "absent.mp4"])
def test_what_is_no_file_is_refused_without_waiting(tmp_path, name):
    if name == "pipe.mp4":
        os.mkfifo(tmp_path / name)
    elif name == "device.mp4":
        (tmp_path / name).symlink_to("/dev/zero")
    path = tmp_path / (300 * "a" if name == "long" else name)
    for read in (reading.read, reading.Reader):
        with pytest.raises(UnreadableError, match="expected a video file, found") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_a_name_with_a_colon_is_no_protocol(tmp_path, monkeypatch):
    _write_video(tmp_path / "v.mp4", moving(12))
    (tmp_path / "v.mp4").rename(tmp_path / "concat:12.30.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(reading.read("concat:12.30.mp4").frames_TxHxWx3) == 12


@pytest.mark.parametrize("name", ["v.ts", "v.mkv", "v.mp4", "v.avi", "v.mjpeg"])
def test_a_damaged_file_raises_no_other_error(tmp_path, name):
    codec, pix_fmt = {"v.mjpeg": ("mjpeg", "yuvj420p"), "v.avi": ("mpeg4", "yuv420p")}.get(
        name, ("libx264", "yuv420p")
    )
    _write_video(tmp_path / "whole" / name, moving(12), codec, pix_fmt)
    whole = (tmp_path / "whole" / name).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 3000), 20):
            data[place] = rng.integers(256)
        (tmp_path / name).write_bytes(data)
        try:
            reader = reading.Reader(tmp_path / name, fps=25)
            pictures = [p.rgb() for _, p in reader.frames(range(12), threads=False)]
            reader.shown_at(10)
        except UnreadableError:
            continue
        assert len(pictures) == min(12, reader.decoded_frames)
        assert len(reader.times_F) == reader.decoded_frames


def test_a_stream_that_damage_makes_up_does_not_end_the_video(tmp_path):
    _write_video(tmp_path / "v.ts", moving(60))
    data = bytearray((tmp_path / "v.ts").read_bytes())
    # One packet in the middle, where a picture of stream 256 begins, says that it is of another.
    starts = [at for at in range(0, len(data), 188) if data[at + 1 : at + 3] == b"\x41\0"]
    data[starts[30] + 2] = 0x75
    (tmp_path / "v.ts").write_bytes(data)
    with av.open(str(tmp_path / "v.ts")) as container, pytest.raises(IndexError):
        list(container.demux(container.streams.video[0]))
    reader = reading.Reader(tmp_path / "v.ts")
    assert reader.num_frames == 59
    list(reader.frames([], threads=False))
    assert reader.decoded_frames >= 50 and reader.damaged >= 1
    # The other pictures keep their times.
    assert reader.seconds == pytest.approx(60 / 25, abs=0.05)
