import json
import shutil

import av
import numpy as np
import pytest

from generation.media.writing import write_video
from generation.prompts.grammar import write_grammar
from generation.videos.first_frames import FirstFrames
from gvvad_jax.command import UserError
from tests.support.tiny_videos import write_with_keyframes

PIL_Image = pytest.importorskip("PIL.Image")
LEVELS = range(10, 250, 10)  # Frame i is grey, 10 * (i + 1) bright.


def grey(level, height=32, width=64):
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """A normal training video, and entries of missing ones, which must not be opened."""
    write_with_keyframes(tmp_path / "a.mp4", [grey(v) for v in LEVELS], 8)
    entries = {
        "a": {"file": "a.mp4", "label": 0, "split": "train", "group": "gate"},
        "b": {"file": "b.mp4", "label": 1, "split": "train"},
        "c": {"file": "c.mp4", "label": 0, "split": "test"},
        "d": {"file": "d.mp4", "label": 0, "split": "validation"},
    }
    (tmp_path / "videos.json").write_text(json.dumps({"videos": entries}))
    return tmp_path


def frame_number(image):
    return round(np.asarray(image).mean() / 10) - 1


def test_the_frame_is_at_the_drawn_position(folder):
    frames = FirstFrames(folder / "videos.json", seed=0)
    descriptions = write_grammar(20, seed=0)
    places = set()
    for abnormal, normal in zip(descriptions[::2], descriptions[1::2], strict=True):
        assert frames.draw(abnormal) == frames.draw(normal)
        video_id, place = frames.draw(abnormal)
        assert frames.group(video_id) == "gate"
        image = frames.read(abnormal, 32, 64)
        # It is the first frame at or after the drawn time, whatever the key frames.
        assert video_id == "a"
        assert frame_number(image) == min(np.ceil(place * len(LEVELS)), len(LEVELS) - 1)
        places.add(place)
    assert len(places) == 20 and min(places) < 0.2 and max(places) > 0.8
    assert FirstFrames(folder / "videos.json", seed=1).draw(descriptions[0]) != frames.draw(
        descriptions[0]
    )


def test_the_frame_is_cropped_and_not_distorted(folder):
    # White left and right of a black square: a crop about the centre shows only black.
    image_HxWx3 = grey(255)
    image_HxWx3[:, 16:48] = 0
    write_video(folder / "a.mp4", [image_HxWx3] * 3, fps=10, crf=1)
    frames = FirstFrames(folder / "videos.json", seed=0)
    description = write_grammar(1, seed=0)[0]
    square = frames.read(description, 64, 64)
    assert square.size == (64, 64) and np.asarray(square)[:, 4:-4].max() < 30
    wide = np.asarray(frames.read(description, 24, 48))
    assert wide.shape == (24, 48, 3) and wide[:, :8].min() > 225 and wide[:, 16:32].max() < 30


@pytest.mark.parametrize("digits", [1, 3])
def test_a_folder_of_images_is_a_video_too(folder, digits):
    (folder / "a.mp4").unlink()
    (folder / "a.mp4").mkdir()
    for number, level in enumerate(LEVELS):
        PIL_Image.fromarray(grey(level)).save(folder / "a.mp4" / f"{number:0{digits}d}.png")
    frames = FirstFrames(folder / "videos.json", seed=0)
    for description in write_grammar(10, seed=0)[::2]:
        _, place = frames.draw(description)
        assert frame_number(frames.read(description, 32, 64)) == int(place * len(LEVELS))


@pytest.mark.parametrize("form", ["mpegts", "flv", "h264"])
def test_files_without_seeking_give_frames_everywhere(folder, form):
    with av.open(str(folder / "a.mp4"), "w", format=form) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.gop_size, stream.options = 8, {"crf": "1"}
        for level in LEVELS:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(level), "rgb24")))
        container.mux(stream.encode())
    frames = FirstFrames(folder / "videos.json", seed=0)
    for description in write_grammar(20, seed=0)[::2]:
        _, place = frames.draw(description)
        # Seeking may lead past the position, to the next key frame at most.
        assert 0 <= frame_number(frames.read(description, 32, 64)) - int(place * len(LEVELS)) <= 8


def test_a_rotated_video_is_upright(folder):
    # Bright at the top, but stored on its side with a rotation.
    image_HxWx3 = grey(0)
    image_HxWx3[:, 32:] = 200
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.set_display_rotation(90)
        for packet in stream.encode(av.VideoFrame.from_ndarray(image_HxWx3, "rgb24")):
            container.mux(packet)
        container.mux(stream.encode())
    frames = FirstFrames(folder / "videos.json", seed=0)
    image = frames.read(write_grammar(1, seed=0)[0], 64, 32)
    assert image.size == (32, 64)
    assert np.asarray(image)[:24].mean() > 150


def test_the_digest_covers_ids_and_files_but_not_the_path(folder, tmp_path_factory):
    content = json.loads((folder / "videos.json").read_text())
    other = tmp_path_factory.mktemp("other") / "else.json"
    other.write_text(json.dumps(content))
    shutil.copy(folder / "a.mp4", other.parent)
    digest = FirstFrames(folder / "videos.json", seed=0).digest
    assert FirstFrames(other, seed=0).digest == digest
    # Another file of the same name and size; any byte counts.
    data = bytearray((folder / "a.mp4").read_bytes())
    for place in (-1, len(data) // 2):
        data[place] ^= 1
        (other.parent / "a.mp4").write_bytes(data)
        assert FirstFrames(other, seed=0).digest != digest
        data[place] ^= 1
    # So does any image of a folder, whose size is the same.
    (other.parent / "a.mp4").unlink()
    (other.parent / "a.mp4").mkdir()
    images = set()
    for level in (10, 20):
        PIL_Image.fromarray(grey(level)).save(other.parent / "a.mp4" / "0.bmp")
        images.add(FirstFrames(other, seed=0).digest)
    assert len(images) == 2
    shutil.rmtree(other.parent / "a.mp4")
    shutil.copy(folder / "a.mp4", other.parent)
    shutil.copy(folder / "a.mp4", other.parent / "e.mp4")
    content["videos"]["e"] = {"file": "e.mp4", "label": 0, "split": "train"}
    other.write_text(json.dumps(content))
    assert FirstFrames(other, seed=0).digest != digest


def test_videos_without_a_readable_frame(folder):
    description = write_grammar(1, seed=0)[0]
    (folder / "a.mp4").write_bytes(b"no video at all")
    frames = FirstFrames(folder / "videos.json", seed=0)
    for _ in range(2):
        with pytest.raises(UserError, match="a.mp4: expected a video"):
            frames.read(description, 32, 32)
        (folder / "a.mp4").unlink(missing_ok=True)
    with pytest.raises(UserError, match="a.mp4: expected a video to take first frames from"):
        FirstFrames(folder / "videos.json", seed=0)
    with av.open(str(folder / "a.mp4"), "w", format="wav") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
    with pytest.raises(UserError, match="a.mp4: expected a video stream"):
        FirstFrames(folder / "videos.json", seed=0).read(description, 32, 32)
    (folder / "a.mp4").write_text("ffconcat version 1.0\nfile b.mp4\n")
    with pytest.raises(UserError, match="a.mp4: expected a video file, found a format that is not"):
        FirstFrames(folder / "videos.json", seed=0).read(description, 32, 32)
    (folder / "a.mp4").unlink()
    (folder / "a.mp4").mkdir()
    with pytest.raises(UserError, match="a.mp4: expected"):
        FirstFrames(folder / "videos.json", seed=0)
    content = json.loads((folder / "videos.json").read_text())
    del content["videos"]["a"]
    (folder / "videos.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="expected normal videos in split train, found none"):
        FirstFrames(folder / "videos.json", seed=0)
    content["videos"]["a"] = {"file": "../../a.mp4", "label": 0, "split": "train"}
    (folder / "videos.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="inside the json's folder"):
        FirstFrames(folder / "videos.json", seed=0)
