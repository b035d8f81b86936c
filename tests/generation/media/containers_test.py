"""Which containers are opened and what they declare."""

import struct

import av
import numpy as np
import pytest

from generation.media import reading
from generation.media.containers import UnreadableError
from tests.support.tiny_videos import moving, write_faststart


def _write_video(path, frames, codec="libx264", pix_fmt="yuv420p"):
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
