"""A run's encoder, built again: the rows are those of its store, and others are refused."""

import dataclasses
import types

import numpy as np
import pytest

from generation.encode import decode_ahead, encoding
from generation.encode.recipe import EncodeOptions
from gvvad_jax.command import UserError
from gvvad_jax.store.reader import Store
from tests.support import tiny_videos
from tests.support.stores import make_manifest
from tools.adapting import footage
from tools.watching import features
from tools.watching.features import Facts, Piece, RunFeatures, UnreadableVideo

OPTIONS = EncodeOptions(snippet_frames=6, snippet_stride=4, dtype="float16")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """Four videos, one of them damaged, and their store with text, by `encode`."""
    folder = tmp_path_factory.mktemp("videos")
    tiny_videos.write_videos(folder)
    tiny_videos.write_damaged(folder / "d.mp4", folder / "e.mp4")
    listed = tiny_videos.write_list(folder, [*tiny_videos.LENGTHS, "e"])
    encoding.encode(listed, folder / "store", OPTIONS, progress=False)
    return folder, Store(folder / "store")


def test_rows_are_those_of_the_store_bit_for_bit(encoded):
    folder, store = encoded
    options = features.encode_options(store.manifest, True, "W")
    opened = RunFeatures(options.recipe(), store.manifest)
    assert len(store) == 5
    for video_id, video in store.items():
        visual_TxNxD, text_TxE, times_Tx2, facts = opened.of_file(folder / f"{video_id}.mp4")
        assert visual_TxNxD.dtype == text_TxE.dtype == np.float16
        np.testing.assert_array_equal(visual_TxNxD, video.visual_TxNxD)
        np.testing.assert_array_equal(text_TxE, video.text_TxE)
        np.testing.assert_array_equal(times_Tx2, video.times_Tx2)
        assert (facts.num_frames, facts.fps) == (video.row.num_frames, video.row.fps)


def test_a_damaged_video_begins_again_and_says_so(encoded, monkeypatch, capsys):
    monkeypatch.setattr(decode_ahead, "CHUNK_FRAMES", 8)
    folder, store = encoded
    opened = RunFeatures(OPTIONS.recipe(), store.manifest)
    *messages, ending = opened.pieces(folder / "e.mp4")
    kinds = [type(message) for message in messages]
    assert kinds.count(Facts) == 2 and kinds[0] is Facts and kinds[-1] is Piece
    assert any("damaged" in fault for fault in ending.faults)
    *_, ending = opened.pieces(folder / "a.mp4")
    assert ending.faults == []
    # Calibration says so, too.
    monkeypatch.setattr(RunFeatures, "open", lambda *_: opened)
    footage.encoder("W", None, None)(folder / "e.mp4")
    footage.encoder("W", None, None)(folder / "a.mp4")
    said = capsys.readouterr().err
    assert said.startswith("e.mp4: ") and "damaged" in said and "a.mp4" not in said


def test_what_holds_no_video_affects_itself_alone(encoded):
    folder, store = encoded
    opened = RunFeatures(OPTIONS.recipe(), store.manifest)
    (folder / "text.mp4").write_text("nothing")
    with pytest.raises(UnreadableVideo, match=r"^text\.mp4: expected a video file"):
        opened.of_file(folder / "text.mp4")


def test_options_come_from_the_manifest(encoded):
    assert features.encode_options(encoded[1].manifest, True, "W") == dataclasses.replace(
        OPTIONS, crops="whole"
    )
    without = features.encode_options(encoded[1].manifest, False, "W")
    assert (without.captioner, without.encoder) == ("none", "motion")


def test_a_shared_runs_answers_of_a_server_need_a_folder(encoded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = encoded[1].manifest.text | {"captioner": "chat:some-model@1"}
    model = types.SimpleNamespace(
        manifest=dataclasses.replace(encoded[1].manifest, text=text),
        config=types.SimpleNamespace(uses_text=True),
    )
    with pytest.raises(UserError, match=r"^--cache: .*because hf:me/camera is no folder"):
        RunFeatures.open("hf:me/camera", model)
    assert not list(tmp_path.iterdir())


def manifest(encoder_id, weights, **changes):
    encoder = {"id": encoder_id, "weights": weights, "pooling": "mean", "normalised": False}
    crops = {"count": 10, "order": features._crop_orders()["ten"], "resize": 256}
    snippet = {"frames": 16, "stride": 16, "pooling": "mean"}
    return make_manifest(**{"encoder": encoder, "crops": crops, "snippet": snippet} | changes)


def test_published_encoders_are_told_by_their_checkpoint():
    clip = manifest("clip-clip-vit-base-patch16", "clip-vit-base-patch16", fps_policy=25.0)
    options = features.encode_options(clip, False, "W")
    assert (options.encoder, options.crops, options.resize, options.stride) == (
        *("clip-b16", "ten", 256), 16,
    )  # fmt: skip
    assert options.fps_policy == "25.0"
    own = manifest("clip-tuned", "tuned")
    with pytest.raises(UserError, match="--weights: expected the checkpoint 'tuned', by which"):
        features.require_checkpoints(features.encode_options(own, False, "W"), own, "W")


@pytest.mark.parametrize(
    ("found", "text", "problem"),
    [
        (make_manifest(), False, "W: expected a run trained on features of generation.encode"),
        (manifest("i3d", "unknown"), False, "found 'i3d' of top left, .*import-features"),
        (manifest("clip-x", "x", crops={"count": "unknown"}), False, "of unknown crops"),
        (manifest("clip-x", "x"), True, "captions come from pixels .*found 'None' .*--feature_g"),
        (
            manifest("clip-x", "x", text={"encoder": "hashed-ngrams-v1", "dim": 256,
                     "normalised": True, "captioner": "description"}),
            True, "found the descriptions of generated videos",
        ),
    ],
)  # fmt: skip
def test_features_that_can_not_be_made_here_are_refused(found, text, problem):
    with pytest.raises(UserError, match=problem) as error:
        features.encode_options(found, text, "W")
    assert "\n" not in str(error.value)
