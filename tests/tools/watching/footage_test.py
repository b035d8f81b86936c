"""The video for a page: played as it is where browsers can, else encoded again; events cut out."""

import av
import numpy as np
import pytest

from gvvad_jax.events import Event
from tests.support import tiny_videos, watched_runs
from tools.watching import footage
from tools.watching.features import Ending, Facts
from tools.watching.scoring import Scores
from tools.watching.sources import VideoFile

FPS = 10.0


def scores_of(num_frames, fps=FPS, faults=()):
    times_Tx2 = np.array([[0.0, num_frames / fps]])
    return Scores(Facts(num_frames, fps, times_Tx2), np.zeros(1), None, [], None, Ending([*faults]))


def write(path, codec, pixels="yuv420p", seconds=3):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        for image in watched_runs.scene(seconds=seconds):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    return path


def facts_of(path):
    """Codec, pixels, frames and seconds of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        name, pixels = stream.codec_context.codec.canonical_name, stream.pix_fmt
    return name, pixels, frames


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "kept"),
    [
        ("a.mp4", "libx264", "yuv420p", "mp4"),
        ("a.mov", "libx264", "yuv420p", "mp4"),
        ("a.webm", "libvpx", "yuv420p", "webm"),
        ("a.mp4", "libx264", "yuv444p", None),
        ("a.mp4", "mpeg4", "yuv420p", None),
        ("a.avi", "mpeg4", "yuv420p", None),
        ("a.mkv", "libx264", "yuv420p", None),
    ],
)
def test_what_browsers_play_is_kept_and_all_else_encoded_again(tmp_path, name, codec, pixels, kept):
    path, folder = write(tmp_path / name, codec, pixels), tmp_path / "out"
    folder.mkdir()
    reader = footage.opened(VideoFile(path=path, given=""))
    played, kind = footage.for_page(reader, scores_of(30), folder)
    assert kind == f"video/{kept or 'mp4'}" and list(folder.iterdir()) == [played]
    assert (played.read_bytes() == path.read_bytes()) is (kept is not None)
    if not kept:
        assert facts_of(played) == ("h264", "yuv420p", 30)


def test_a_damaged_video_or_one_of_another_clock_is_encoded_again(tmp_path):
    path, folder = watched_runs.write_scene(tmp_path / "a.mp4", seconds=9), tmp_path / "out"
    folder.mkdir()
    reader = footage.opened(VideoFile(path=path, given=""))
    played, _ = footage.for_page(reader, scores_of(90, faults=["other"]), folder)
    assert facts_of(played) == ("h264", "yuv420p", 90)
    assert played.read_bytes() != path.read_bytes()
    tiny_videos.write_damaged(path, tmp_path / "d.mp4")
    reader = footage.opened(VideoFile(path=tmp_path / "d.mp4", given=""), ["damaged"])
    scores = scores_of(len(reader.times_F), faults=["damaged"])
    played, _ = footage.for_page(reader, scores, folder)
    assert facts_of(played)[0] == "h264"


def event(start, end):
    values = {"peak": 0.9, "peak_time": start, "mean": 0.8, "threshold": 0.5}
    return Event(video="v", start=start, end=end, **values)


def test_events_are_cut_out_with_a_second_more(tmp_path):
    path = watched_runs.write_scene(tmp_path / "a.mp4", seconds=12, moves=(4, 6))
    found = [event(0.5, 2.0), event(8.0, 12.0)]
    paths = [tmp_path / "one.mp4", tmp_path / "two.mp4"]
    reader = footage.opened(VideoFile(path=path, given=""))
    footage.cut(reader, found, scores_of(120), paths)
    # From 0 to 3 seconds, and from 7 to the end.
    assert [facts_of(each)[2] for each in paths] == [30, 50]


def test_a_folder_of_frames_becomes_a_video(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    for number, image in enumerate(watched_runs.scene(seconds=0.5, height=33, width=51)):
        tiny_videos.write_image(frames / f"{number:03d}.png", image)
    (tmp_path / "out").mkdir()
    reader = footage.reading.Reader(frames, fps=10)
    played, _ = footage.for_page(reader, scores_of(5), tmp_path / "out")
    assert facts_of(played) == ("h264", "yuv420p", 5)
