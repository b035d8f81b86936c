"""A video's rows depend on that video alone: first, last and alone in a list, and however long."""

import json
import subprocess
import sys

import pytest

from generation.encode import decode_ahead, encoding
from generation.encode.recipe import EncodeOptions
from generation.media.writing import write_video
from gvvad_jax.store.reader import Store
from tests.support.textures import moving
from tests.support.tiny_transformers import save_bert, save_git
from tests.support.tiny_videos import write_image

pytestmark = pytest.mark.usefixtures("one_thread")
# Height, width and number of frames. OpenCV's flow takes coarser scales at 45 pixels and less.
VIDEOS = {
    "usual": (96, 144, 24),
    "small": (44, 44, 24),
    "least": (16, 16, 9),
    "portrait": (160, 90, 12),
    "single": (96, 144, 1),
    "pair": (48, 64, 2),
    "wide": (24, 320, 10),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The videos above, and a folder of images of 45x45."""
    folder = tmp_path_factory.mktemp("odd")
    for number, (name, (height, width, count)) in enumerate(VIDEOS.items()):
        frames = moving(step=1 + number % 3, frames=count, shape=(height, 320))[:, :, :width]
        write_video(folder / f"{name}.mp4", frames, fps=10)
    (folder / "odd").mkdir()
    for number, image in enumerate(moving(frames=12, shape=(45, 45))):
        write_image(folder / "odd" / f"{number}.png", image)
    return folder


def _store(folder, names, out, options):
    """Encodes some of the videos in this order."""
    files = {name: name if name == "odd" else f"{name}.mp4" for name in names}
    entries = {
        name: {"file": file, "label": 0, "split": "train", "fps": 10}
        for name, file in files.items()
    }
    path = folder / "videos.json"
    path.write_text(json.dumps({"videos": entries}))
    assert encoding.encode(path, out, options, progress=False)
    return Store(out)


def _rows(store, name):
    row = store.rows[name]
    statistics = row.pixel_statistics, row.feature_statistics
    return store.visual(name).tobytes(), store.text(name).tobytes(), statistics


@pytest.fixture(scope="module")
def models(weights, tmp_path_factory):
    """Checkpoints of a captioner and of a text encoder."""
    folder = tmp_path_factory.mktemp("models")
    return {
        "weights": weights,
        "caption_weights": str(save_git(folder / "tiny-git")),
        "text_weights": str(save_bert(folder / "tiny-bert")),
    }


@pytest.mark.parametrize("encoder", ["motion", "clip-l14"])
def test_rows_are_the_same_first_last_and_alone(folder, models, tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(decode_ahead, "CHUNK_FRAMES", 10)
    options = EncodeOptions(snippet_frames=8, snippet_stride=4)
    if encoder == "clip-l14":
        options = EncodeOptions(
            encoder=encoder, pooling="mean", crops="ten", captioner="git", text_encoder="simcse",
            snippet_frames=8, snippet_stride=4, **models,
        )  # fmt: skip
    names = ["odd", *VIDEOS]
    forwards = _store(folder, names, tmp_path / "forwards", options)
    backwards = _store(folder, names[::-1], tmp_path / "backwards", options)
    for name in names:
        alone = _rows(_store(folder, [name], tmp_path / name, options), name)
        assert alone == _rows(forwards, name) == _rows(backwards, name), name


_PEAK = """
import json, pathlib, resource, sys
from generation.encode import encoding
from generation.encode.recipe import EncodeOptions
folder, out, *options = sys.argv[1:]
made = EncodeOptions(**json.loads(options[0]))
encoding.encode(pathlib.Path(folder) / "videos.json", out, made, progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _peak_bytes(tmp_path, count, options):
    folder = tmp_path / str(count)
    folder.mkdir()
    frames = moving(step=1, frames=64, shape=(96, 128))
    write_video(folder / "v.mp4", (frames[i % 64] for i in range(count)), fps=5)
    entry = {"v": {"file": "v.mp4", "label": 0, "split": "train"}}
    (folder / "videos.json").write_text(json.dumps({"videos": entry}))
    command = [sys.executable, "-c", _PEAK, folder, folder / "s", json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return 1024 * int(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("encoder", ["motion", pytest.param("clip-l14", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_a_videos_length(weights, tmp_path, encoder):
    """Both with the captioner of rules; a chunk is full in the shorter video too."""
    options = {"encoder": encoder, "snippet_stride": 16}
    if encoder == "clip-l14":
        options["weights"] = weights
    short, long = (_peak_bytes(tmp_path, count, options) for count in (320, 1600))
    # The frames between are 47 MB, and 74 MB as the captioner takes them.
    assert long - short < 25 << 20
