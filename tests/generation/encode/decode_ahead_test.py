"""Decoding ahead gives the frames of whole videos but keeps few of them in memory."""

import dataclasses
import gc
import threading
import time
import weakref

import numpy as np
import pytest

from generation.encode import decode_ahead
from generation.encode.recipe import Recipe
from generation.media import pixels, reading
from generation.media.writing import write_video
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations
from tests.support import tiny_clip, tiny_videos
from tests.support.tiny_videos import (
    moving,
    write_damaged,
    write_faststart,
    write_image,
    write_uneven,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class FewFrames:
    """A captioner that reports the mean colours of the first and last frame."""

    id, whole_video, vocabulary = "few-frames", False, "plain"

    def frames_of(self, start, end):
        return sorted({start, end - 1})

    def caption_snippets(self, snippets):
        return [str(np.round(snippet.mean(axis=(1, 2, 3)), 3).tolist()) for snippet in snippets]


class WholeVideo:
    """An encoder or captioner that needs whole videos."""

    id, whole_video, vocabulary = "whole", True, "motion"


def _videos(folder, *names):
    return annotations.load(tiny_videos.write_list(folder, names))


def _recipe(encoder, **changes):
    fields = {"encoder": encoder, "snippet_frames": 8, "snippet_stride": 8}
    return Recipe(**(fields | changes))


def _messages(videos, made, **settings):
    source = decode_ahead.Source(videos, made, **settings)
    return list(decode_ahead.ahead(source.messages(videos.videos.values()), 100))


@pytest.mark.parametrize(
    ("fps_policy", "pooling", "stride"),
    [("native", "mean", 3), ("native", "middle", 8), (4.0, "mean", 3), (15.0, "middle", 8)],
)
def test_chunks_give_what_the_whole_video_gives(
    weights, videos_folder, monkeypatch, fps_policy, pooling, stride
):
    monkeypatch.setattr(decode_ahead, "CHUNK_FRAMES", 10)
    monkeypatch.setattr(decode_ahead, "CHUNK_BYTES", 5 * 64 * 96 * 3)
    videos = _videos(videos_folder, "a", "b", "c")
    encoder, captioner = tiny_clip.make_encoder(weights, pooling=pooling, crops="ten"), FewFrames()
    made = _recipe(encoder, captioner=captioner, fps_policy=fps_policy, snippet_stride=stride)
    rows, captions, chunks = [], [], 0
    for message in _messages(videos, made):
        if isinstance(message, decode_ahead.Chunk):
            rows.append(encoder.encode_snippets(message.prepared))
            captions += captioner.caption_snippets(message.pictures)
            chunks += 1
            continue
        frames = reading.read(videos_folder / message.plan.video.file).frames_TxHxWx3
        statistics = pixels.pixel_statistics(frames, 10.0, len(frames))
        assert message.pixel_statistics == statistics and message.faults == []
        assert message.plan.num_frames == message.declared_frames == len(frames)
        assert message.frames_FxHxWx3 is None
        probes = [encoder.prepare_whole(frames[i]) for i in pixels.wanted_frames(len(frames), 10.0)]
        np.testing.assert_array_equal(np.stack(message.probes), np.stack(probes))
        if fps_policy != "native":
            frames = frames[alignment.resampled_frames(len(frames), 10.0, fps_policy)]
        spans = alignment.snippet_spans(len(frames), 8, stride)
        np.testing.assert_array_equal(message.plan.spans_Tx2, spans)
        expected = encoder.encode_video(frames, spans, message.plan.rate)
        np.testing.assert_allclose(np.concatenate(rows), expected, atol=1e-5)
        asked = [frames[captioner.frames_of(start, end)] for start, end in spans.tolist()]
        assert captions == captioner.caption_snippets(asked)
        rows, captions = [], []
    assert chunks > 3, "more than a chunk a video"


def test_whole_videos_are_given_where_they_are_needed(weights, videos_folder):
    videos = _videos(videos_folder, "a", "b")
    encoder = tiny_clip.make_encoder(weights)
    made = _recipe(encoder, captioner=WholeVideo(), fps_policy=5.0)
    messages = _messages(videos, made)
    streamed = _messages(videos, dataclasses.replace(made, captioner=None))
    assert [type(message) for message in messages] == [type(message) for message in streamed]
    for message, other in zip(messages, streamed, strict=True):
        if isinstance(message, decode_ahead.Chunk):
            assert str(message.prepared) == str(other.prepared)
            continue
        frames = reading.read(videos_folder / message.plan.video.file).frames_TxHxWx3
        chosen = alignment.resampled_frames(len(frames), 10.0, 5.0)
        np.testing.assert_array_equal(message.frames_FxHxWx3, frames[chosen])
        assert message.pixel_statistics == other.pixel_statistics


@pytest.mark.parametrize("damage", ["bytes", "cut short"])
def test_damage_makes_a_new_plan_for_the_decodable_frames(weights, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(decode_ahead, "CHUNK_FRAMES", 2)
    if damage == "bytes":
        write_video(tmp_path / "v.mp4", moving(50), fps=10)
        seeds = iter(range(100))
        while True:  # Until frames are lost.
            write_damaged(tmp_path / "v.mp4", tmp_path / "bad.mp4", next(seeds))
            if len(reading.read(tmp_path / "bad.mp4").frames_TxHxWx3) < 45:
                break
    else:
        # Here several threads lose more frames than one.
        write_faststart(tmp_path / "v.mp4", moving(50))
        whole = (tmp_path / "v.mp4").read_bytes()
        (tmp_path / "bad.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    expected = reading.read(tmp_path / "bad.mp4")
    count = len(expected.frames_TxHxWx3)
    (tmp_path / "rubbish.mp4").write_bytes(b"no video at all" * 100)
    videos = _videos(tmp_path, "bad", "rubbish", "v")
    encoder = tiny_clip.make_encoder(weights)
    messages = _messages(videos, _recipe(encoder, snippet_frames=4, snippet_stride=4))
    ending, unreadable, sound = (m for m in messages if not isinstance(m, decode_ahead.Chunk))
    assert ending.plan.num_frames == count and ending.declared_frames == 50
    assert ending.plan.spans_Tx2[-1, 1] == count
    assert "damaged; the decodable frames are encoded" in ending.faults[0]
    assert ending.pixel_statistics["decoded_share"] == pytest.approx(count / 50, abs=1e-3)
    plans = {id(m.plan): m.plan for m in messages if isinstance(m, decode_ahead.Chunk)}
    assert len(plans) > 2, "a first one that failed, and those of the two videos"
    chunks = [m for m in messages if isinstance(m, decode_ahead.Chunk) and m.plan is ending.plan]
    rows = np.concatenate([encoder.encode_snippets(chunk.prepared) for chunk in chunks])
    whole = encoder.encode_video(expected.frames_TxHxWx3, ending.plan.spans_Tx2, 10.0)
    np.testing.assert_allclose(rows, whole, atol=1e-6)
    assert unreadable.video.id == "rubbish" and unreadable.reason.startswith("rubbish.mp4: ")
    assert sound.plan.num_frames == 50 and sound.faults == []


def test_uneven_frames_are_reported(weights, tmp_path):
    write_uneven(tmp_path / "v.mp4")
    *_, ending = _messages(_videos(tmp_path, "v"), _recipe(tiny_clip.make_encoder(weights)))
    assert len(ending.faults) == 1
    assert "up to 1.5 s from the assumed 4 fps" in ending.faults[0]


def test_a_frame_rate_is_required(weights, tmp_path):
    for number, image in enumerate(moving(3)):
        (tmp_path / "a.mp4").mkdir(exist_ok=True)
        write_image(tmp_path / "a.mp4" / f"{number}.png", image)
    with pytest.raises(UserError, match="video 'a': expected fps"):
        _messages(_videos(tmp_path, "a"), _recipe(tiny_clip.make_encoder(weights)))


class _Counter:
    """Counts how many objects of a kind are alive, were alive at most, and existed at all."""

    def __init__(self):
        self.alive = self.most = self.total = 0

    def watch(self, thing):
        self.alive += 1
        self.total += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(thing, self._gone)
        return thing

    def _gone(self):
        self.alive -= 1


def test_a_long_video_is_never_in_memory_as_a_whole(weights, tmp_path, monkeypatch):
    monkeypatch.setattr(decode_ahead, "CHUNK_FRAMES", 8)
    write_video(tmp_path / "v.mp4", moving(1200), fps=25)
    videos = _videos(tmp_path, "v")
    pictures, prepared = _Counter(), _Counter()
    convert = reading.upright_rgb
    monkeypatch.setattr(
        reading, "upright_rgb", lambda frame, size: pictures.watch(convert(frame, size))
    )
    encoder = tiny_clip.make_encoder(weights, pooling="mean")
    prepare = encoder.prepare
    monkeypatch.setattr(encoder, "prepare", lambda frame: prepared.watch(prepare(frame)))
    source = decode_ahead.Source(videos, _recipe(encoder))
    messages = decode_ahead.ahead(
        source.messages(videos.videos.values()), decode_ahead.CHUNKS_ALIVE
    )
    snippets = 0
    for message in messages:
        if isinstance(message, decode_ahead.Chunk):
            time.sleep(0.002)  # Decoding is faster.
            snippets += len(message.prepared)
        del message
    gc.collect()
    assert snippets == 150 and prepared.total == pictures.total == 1200
    # One chunk is being filled, beside those that are complete.
    assert prepared.most <= 8 * (decode_ahead.CHUNKS_ALIVE + 1)
    assert pictures.most <= 2, "no picture outlives what was made of it"
    assert prepared.alive == pictures.alive == 0


def test_at_most_two_whole_videos_are_in_memory(tmp_path, monkeypatch):
    names = [f"v{number}" for number in range(6)]
    for name in names:
        write_video(tmp_path / f"{name}.mp4", moving(4), fps=10)
    videos = _videos(tmp_path, *names)
    counter, read_video = _Counter(), reading.read

    def read(path, **settings):
        video = read_video(path, **settings)
        counter.watch(video.frames_TxHxWx3)
        return video

    monkeypatch.setattr(reading, "read", read)
    source = decode_ahead.Source(videos, _recipe(WholeVideo()))
    for message in decode_ahead.ahead(
        source.messages(videos.videos.values()), decode_ahead.VIDEOS_ALIVE
    ):
        time.sleep(0.02)
        del message
    # How far the thread gets ahead varies; how many videos are alive does not.
    assert counter.total == 6 and counter.most <= 2


def test_ahead_works_while_its_items_are_processed():
    made = []

    def items():
        for number in range(10):
            made.append(number)
            yield number

    found = []
    for number in decode_ahead.ahead(items(), 4):
        deadline = time.monotonic() + 10
        while len(made) < min(number + 4, 10):  # Fails unless items are made meanwhile.
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert len(made) <= number + 4
        found.append(number)
    assert found == list(range(10))


def _alive():
    return [thread for thread in threading.enumerate() if thread.name == "decode"]


def test_ahead_passes_errors_on_and_ends_its_thread():
    closed = threading.Event()

    def items(fails):
        try:
            yield 1
            if fails:
                raise UserError("a file is gone")
            while True:
                yield 2
        finally:
            closed.set()

    failing = decode_ahead.ahead(items(fails=True), 3)
    assert next(failing) == 1
    with pytest.raises(UserError, match="a file is gone"):
        next(failing)
    assert closed.is_set() and not _alive()
    closed.clear()
    endless = decode_ahead.ahead(items(fails=False), 3)
    assert next(endless) == 1
    endless.close()
    assert closed.is_set() and not _alive()


def test_an_impossible_rate_is_reported_with_its_video(weights, videos_folder):
    made = _recipe(tiny_clip.make_encoder(weights), fps_policy=1e12)
    with pytest.raises(UserError, match="videos.json: video 'a': expected at most 16777216 frames"):
        _messages(_videos(videos_folder, "a"), made)
