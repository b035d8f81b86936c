"""When frames are shown: rates, time stamps, hidden frames, and what a cut file declares."""

import numpy as np
import pytest

from generation.media import reading
from generation.media.containers import UnreadableError
from gvvad_jax.store import alignment
from tests.support.stamped_videos import rewrite, strip_timing, write_levels
from tests.support.tiny_videos import moving, write_image


def _complete(path, **options):
    """Returns a reader after a complete pass."""
    reader = reading.Reader(path, **options)
    for threads in (True, False):
        assert list(reader.frames([], threads=threads)) == []
    return reader


def _levels(reader):
    """Returns the number of each frame, by its level."""
    frames = [picture.scaled(1, 1)[0, 0] for _, picture in reader.frames(range(10**6))]
    return np.round(np.array(frames, np.float64) / 4).astype(int)


@pytest.mark.parametrize(
    ("name", "codec", "own"),
    [
        ("v.h264", "libx264", 10),
        ("v.hevc", "libx265", 10),
        ("v.m4v", "mpeg4", 10),
        ("v.m2v", "mpeg2video", 24),
        ("v.mjpeg", "mjpeg", None),
    ],
)
def test_a_raw_stream_has_the_lists_rate_then_the_codecs(tmp_path, name, codec, own):
    write_levels(tmp_path / name, range(20), fps=own or 10, codec=codec)
    reader = _complete(tmp_path / name)
    assert (reader.fps, reader.num_frames, reader.declared_frames) == (own, 20, 20)
    assert (reader.decoded_frames, reader.damaged) == (20, 0)
    if own is None:
        assert reader.times_F is None and reader.seconds is None
        with pytest.raises(ValueError, match="fps: expected a frame rate"):
            reader.shown_at(10)
    listed = _complete(tmp_path / name, fps=8.0)
    assert (listed.fps, listed.file_fps, listed.seconds) == (8.0, own, 2.5)
    np.testing.assert_array_equal(listed.times_F, np.arange(20) / 8)
    np.testing.assert_array_equal(listed.shown_at(8.0), np.arange(20))


def test_a_raw_stream_without_timing_has_no_rate(tmp_path):
    path = tmp_path / "v.h264"
    write_levels(path, range(20), options={"profile": "baseline"})
    assert reading.Reader(path).fps == 10
    strip_timing(path)
    reader = _complete(path)
    assert (reader.fps, reader.num_frames, reader.decoded_frames) == (None, 20, 20)
    assert reading.Reader(path, fps=12.5).seconds == 1.6


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts", "v.avi", "v.flv", "v.webm", "v.wmv"])
def test_evenly_spaced_frames_follow_the_rate(tmp_path, name):
    codec = {"v.webm": "libvpx-vp9", "v.wmv": "wmv2", "v.avi": "mpeg4"}.get(name, "libx264")
    write_levels(tmp_path / name, range(50), fps=30, codec=codec)
    for listed, fps in ((None, 30.0), (25.0, 25.0)):
        reader = _complete(tmp_path / name, fps=listed)
        assert reader.fps == pytest.approx(fps) and reader.num_frames == 50
        assert reader.file_fps == pytest.approx(30) and reader.uneven_seconds < 0.001
        np.testing.assert_array_equal(reader.shown_at(reader.fps), np.arange(50))
        assert reader.seconds == pytest.approx(50 / fps)
        for rate in (4.0, 7.5, 29.97, 60.0):
            expected = alignment.resampled_frames(50, reader.fps, rate)
            np.testing.assert_array_equal(reader.shown_at(rate), expected)
        assert (reader.declared_frames, reader.decoded_frames, reader.damaged) == (50, 50, 0)


@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_dropped_frames_of_an_avi_keep_events_in_place(tmp_path, codec):
    # Frame 38 comes after twelve empty chunks, at tick 50.
    ticks = [*range(38), *range(50, 72)]
    write_levels(tmp_path / "v.avi", ticks, codec=codec)
    reader = _complete(tmp_path / "v.avi")
    assert (reader.fps, reader.seconds) == (10, 7.2)
    assert (reader.num_frames, reader.declared_frames, reader.damaged) == (60, 60, 0)
    np.testing.assert_allclose(reader.times_F, np.array(ticks) / 10, atol=1e-9)
    expected = [*range(38), *[37] * 12, *range(38, 60)]
    np.testing.assert_array_equal(reader.shown_at(10), expected)
    np.testing.assert_array_equal(reader.shown_at(5), expected[1::2])


def test_a_single_dropped_frame_does_not_change_the_rate(tmp_path):
    write_levels(tmp_path / "v.avi", [*range(30), *range(31, 60)], codec="mpeg4")
    reader = reading.Reader(tmp_path / "v.avi")
    assert (reader.fps, reader.num_frames, reader.seconds) == (10, 59, 6.0)
    np.testing.assert_array_equal(reader.shown_at(10), [*range(30), 29, *range(30, 59)])


def test_an_avi_that_ends_in_dropped_frames_is_not_cut(tmp_path):
    path = tmp_path / "v.avi"
    write_levels(path, [*range(20), 39], codec="mpeg4")
    data = path.read_bytes()
    reader = reading.Reader(path)
    assert (reader.num_frames, reader.declared_frames, reader.seconds) == (21, 21, 4.0)
    # The last chunk with a picture becomes an empty one.
    place = data.rindex(b"00dc", 0, data.rindex(b"idx1"))
    size = int.from_bytes(data[place + 4 : place + 8], "little")
    emptied = bytearray(data)
    emptied[place : place + 4] = b"JUNK"
    index = data.index(size.to_bytes(4, "little"), len(data) - 16)
    emptied[index - 12 : index - 8] = b"JUNK"
    path.write_bytes(emptied)
    reader = reading.Reader(path)
    assert (reader.num_frames, reader.declared_frames, reader.seconds) == (20, 20, 4.0)
    assert reader.shown_at(10).tolist() == [*range(20), *[19] * 20]
    for _ in range(30):
        place = data.rindex(b"00dc", 0, place)
    path.write_bytes(data[:place])
    cut = reading.Reader(path)
    assert (cut.num_frames, cut.declared_frames, cut.seconds) == (9, 40, 0.9)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv", "v.ts", "v.flv", "v.wmv"])
def test_a_variable_rate_is_shown_by_the_clock(tmp_path, name):
    # Three seconds of ten frames each, then nine of two frames each.
    ticks = [*range(30), *range(30, 120, 5)]
    write_levels(tmp_path / name, ticks, codec="wmv2" if name == "v.wmv" else "libx264")
    reader = _complete(tmp_path / name)
    np.testing.assert_allclose(reader.times_F, np.array(ticks) / 10, atol=1e-3)
    assert reader.seconds == pytest.approx(11.5 + 0.1, abs=0.01)
    at_10 = np.searchsorted(ticks, np.arange(116), side="right") - 1
    np.testing.assert_array_equal(reader.shown_at(10), at_10)
    assert len(reader.shown_at(reader.fps)) == round(reader.seconds * reader.fps)
    # The list's rate is that of the clock.
    listed = reading.Reader(tmp_path / name, fps=20)
    assert listed.fps == 20 and listed.seconds == reader.seconds
    np.testing.assert_array_equal(listed.shown_at(20), np.repeat(at_10, 2))


def test_jitter_below_half_a_frame_is_ignored(tmp_path):
    rng = np.random.default_rng(0)
    ticks = 40 * np.arange(50) + rng.integers(-19, 20, 50) * (np.arange(50) > 0)
    write_levels(tmp_path / "v.mkv", ticks.tolist(), fps=1000)
    reader = reading.Reader(tmp_path / "v.mkv", fps=25)
    assert (reader.num_frames, reader.fps, reader.seconds) == (50, 25, 2.0)
    np.testing.assert_array_equal(reader.shown_at(25), np.arange(50))


def test_joined_recordings_follow_each_other(tmp_path):
    for number in range(2):
        write_levels(tmp_path / f"{number}.ts", range(15))
    joined = b"".join((tmp_path / f"{number}.ts").read_bytes() for number in range(2))
    (tmp_path / "v.ts").write_bytes(joined)
    reader = _complete(tmp_path / "v.ts")
    assert reader.num_frames == reader.decoded_frames == 30
    assert (np.diff(reader.times_F) > 0).all() and reader.seconds == pytest.approx(3, abs=0.21)
    np.testing.assert_array_equal(_levels(reader), [*range(15)] * 2)


def test_absurd_stamps_affect_only_their_video(tmp_path):
    path = tmp_path / "v.mp4"
    write_levels(path, range(200), options={"bf": "0"})
    data = bytearray(path.read_bytes().replace(b"edts", b"free"))
    place = data.index(b"stts") + 16
    assert int.from_bytes(data[place : place + 4], "big") == 1024
    data[place : place + 4] = b"\x10\0\0\0"  # Seven hours a frame.
    path.write_bytes(data)
    with pytest.raises(UnreadableError, match="v.mp4: expected at most 16777216 frames"):
        reading.Reader(path).shown_at(25)
    assert reading.Reader(path, fps=10).seconds == 20


def _hide(hidden, bit):
    def change(number, data):
        if number in hidden:
            data[0] &= ~bit
        return bytes(data)

    return change


@pytest.mark.parametrize("name", ["v.webm", "v.ivf", "v.avi"])
@pytest.mark.parametrize(("codec", "bit"), [("libvpx", 0x10), ("libvpx-vp9", 0x02)])
def test_hidden_packets_are_no_frames(tmp_path, name, codec, bit):
    if (name, codec) == ("v.avi", "libvpx-vp9"):
        pytest.skip("VP9 is not stored in AVI")
    # As alternate references are: decoded, but not shown. Frames between them are kept.
    options = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0"}
    write_levels(tmp_path / name, range(40), codec=codec, options=options)
    hidden = {5, 17, 30}
    rewrite(tmp_path / name, tmp_path / f"hidden-{name}", _hide(hidden, bit))
    reader = _complete(tmp_path / f"hidden-{name}")
    assert (reader.num_frames, reader.declared_frames) == (37, 37)
    assert (reader.decoded_frames, reader.damaged) == (37, 0)
    kept = [n for n in range(40) if n not in hidden]
    np.testing.assert_allclose(reader.times_F, np.array(kept) / 10, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "codec", "container"),
    [
        ("v.mkv", "libx264", {}),
        ("v.webm", "libvpx", {}),
        ("v.flv", "libx264", {}),
        ("v.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("v.ivf", "libvpx", {}),
        ("v.mxf", "mpeg2video", {}),
    ],
)
def test_a_cut_file_declares_what_it_lost(tmp_path, name, codec, container):
    fps = 25 if name == "v.mxf" else 10
    write_levels(tmp_path / name, range(180), codec=codec, container=container, fps=fps)
    whole = _complete(tmp_path / name)
    assert (whole.num_frames, whole.declared_frames, whole.decoded_frames) == (180, 180, 180)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    cut = _complete(tmp_path / name)
    assert 5 < cut.num_frames < 140 and cut.declared_frames == pytest.approx(180, abs=2)
    assert cut.decoded_frames <= cut.num_frames and cut.seconds < 18 * 10 / fps


def test_a_cut_transport_stream_is_damaged(tmp_path):
    # It declares no duration, so that only the packet that is cut in two shows the damage.
    write_levels(tmp_path / "v.ts", range(60))
    assert _complete(tmp_path / "v.ts").damaged == 0
    data = (tmp_path / "v.ts").read_bytes()
    (tmp_path / "v.ts").write_bytes(data[: len(data) // 2 // 188 * 188 + 99])
    cut = _complete(tmp_path / "v.ts")
    assert cut.damaged >= 1 and 10 < cut.decoded_frames < 50


def test_damaged_images_leave_the_times_of_others(tmp_path):
    for number, image in enumerate(moving(6)):
        write_image(tmp_path / f"{number}.png", image)
    (tmp_path / "2.png").write_bytes(b"no picture")
    reader = reading.Reader(tmp_path, fps=2.0)
    for _ in range(2):
        assert len(list(reader.frames(range(6)))) == 5
        np.testing.assert_array_equal(reader.times_F, np.array([0, 1, 3, 4, 5]) / 2)
        np.testing.assert_array_equal(reader.shown_at(2.0), [0, 1, 1, 2, 3, 4])
        assert (reader.seconds, reader.decoded_frames, reader.declared_frames) == (3.0, 5, 6)
