"""Decoding ahead gives the frames of whole videos but keeps few of them in memory."""

import gc
import threading
import time
import weakref

import numpy as np
import pytest

from generation.encode import decode_ahead
from generation.encode.recipe import Recipe
from generation.encoders.captions import SnippetCaptioner
from generation.encoders.motion import MotionEncoder
from generation.media import pixels, reading
from generation.media.writing import write_video
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment, annotations
from tests.support import streaming, tiny_clip, tiny_videos
from tests.support.tiny_videos import (
    moving,
    write_damaged,
    write_faststart,
    write_image,
    write_uneven,
)

pytestmark = pytest.mark.usefixtures("one_thread")


class FewFrames(SnippetCaptioner):
    """A captioner that reports the mean colours of the first and last frame."""

    id = "few-frames"

    def frames_of(self, start, end):
        return sorted({start, end - 1})

    def caption_snippets(self, snippets):
        return [str(np.round(snippet.mean(axis=(1, 2, 3)), 3).tolist()) for snippet in snippets]


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
            rows += message.plan.features.take(message.features)
            captions += message.plan.captions.take(message.captions)
            chunks += 1
            continue
        frames = reading.read(videos_folder / message.plan.video.file).frames_TxHxWx3
        shown = dict(reading.Reader(videos_folder / message.plan.video.file).frames(range(100)))
        meter = pixels.Meter(len(frames), 10.0)
        for index in meter.wanted:
            meter.add(shown[index].scaled(96, 64, "gray"))
        assert message.pixel_statistics == meter.statistics(len(frames), len(frames))
        assert message.plan.num_frames == message.declared_frames == len(frames)
        assert message.decoded_frames == len(frames) and message.faults == []
        probes = [encoder.prepare_whole(shown[index]) for index in meter.wanted]
        np.testing.assert_array_equal(np.stack(message.probes), np.stack(probes))
        if fps_policy != "native":
            frames = frames[alignment.resampled_frames(len(frames), 10.0, fps_policy)]
        spans = alignment.snippet_spans(len(frames), 8, stride)
        np.testing.assert_array_equal(message.plan.spans_Tx2, spans)
        expected = streaming.encode(encoder, frames, spans, message.plan.rate)
        np.testing.assert_allclose(np.stack(rows), expected, atol=1e-5)
        asked = [frames[captioner.frames_of(start, end)] for start, end in spans.tolist()]
        assert captions == captioner.caption_snippets(asked)
        rows, captions = [], []
    assert chunks > 3, "more than a chunk a video"


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
    assert ending.decoded_frames == count and ending.declared_frames == 50
    # Lost frames leave the others where they are: the frame before them is shown longer.
    shown = streaming.shown(tmp_path / "bad.mp4", 10.0)
    assert ending.plan.num_frames == ending.plan.spans_Tx2[-1, 1] == len(shown) > count
    # The encoder's bytes differ from run to run, so that the cut may happen to be between two
    # frames: none is damaged then.
    assert expected.damaged or damage == "cut short"
    if expected.damaged:
        assert "damaged; the decodable frames are encoded" in ending.faults[0]
    assert ending.pixel_statistics["decoded_share"] == pytest.approx(count / 50, abs=1e-3)
    plans = {id(m.plan): m.plan for m in messages if isinstance(m, decode_ahead.Chunk)}
    assert len(plans) > 2, "a first one that failed, and those of the two videos"
    chunks = [m for m in messages if isinstance(m, decode_ahead.Chunk) and m.plan is ending.plan]
    rows = [row for chunk in chunks for row in ending.plan.features.take(chunk.features)]
    frames = expected.frames_TxHxWx3[shown]
    whole = streaming.encode(encoder, frames, ending.plan.spans_Tx2, 10.0)
    np.testing.assert_allclose(rows, whole, atol=1e-6)
    assert unreadable.video.id == "rubbish" and unreadable.reason.startswith("rubbish.mp4: ")
    assert sound.plan.num_frames == 50 and sound.faults == []


def test_uneven_frames_are_reported(weights, tmp_path):
    write_uneven(tmp_path / "v.mp4")
    *_, ending = _messages(_videos(tmp_path, "v"), _recipe(tiny_clip.make_encoder(weights)))
    assert len(ending.faults) == 1
    assert "up to 1.5 s from where 4 fps puts them" in ending.faults[0]


def test_a_frame_rate_is_required(weights, tmp_path):
    for number, image in enumerate(moving(3)):
        (tmp_path / "a.mp4").mkdir(exist_ok=True)
        write_image(tmp_path / "a.mp4" / f"{number}.png", image)
    (message,) = _messages(_videos(tmp_path, "a"), _recipe(tiny_clip.make_encoder(weights)))
    assert "video 'a': expected fps, found none" in message.reason


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


@pytest.mark.parametrize("name", ["clip", "motion"])
def test_a_long_video_is_never_in_memory_as_a_whole(weights, tmp_path, monkeypatch, name):
    monkeypatch.setattr(decode_ahead, "CHUNK_FRAMES", 8)
    write_video(tmp_path / "v.mp4", moving(1200), fps=10)
    videos = _videos(tmp_path, "v")
    prepared = _Counter()
    encoder = tiny_clip.make_encoder(weights, pooling="mean") if name == "clip" else MotionEncoder()
    begin = encoder.begin

    def watched(*video):
        stream = begin(*video)
        prepare = stream.prepare
        stream.prepare = lambda picture: prepared.watch(prepare(picture).view())
        return stream

    if name == "clip":
        prepare = encoder.prepare
        monkeypatch.setattr(encoder, "prepare", lambda frame: prepared.watch(prepare(frame)))
    else:
        monkeypatch.setattr(encoder, "begin", watched)
    source = decode_ahead.Source(videos, _recipe(encoder))
    messages = decode_ahead.ahead(
        source.messages(videos.videos.values()), decode_ahead.CHUNKS_ALIVE
    )
    snippets = 0
    for message in messages:
        if isinstance(message, decode_ahead.Chunk):
            time.sleep(0.002)  # Decoding is faster.
            snippets += len(message.plan.features.take(message.features))
        del message
    gc.collect()
    assert snippets == 150 and prepared.total == 1200
    # One chunk is being filled, beside those that are complete; a stream keeps a few frames.
    assert prepared.most <= 8 * (decode_ahead.CHUNKS_ALIVE + 2)
    assert prepared.alive <= 1


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
    (message,) = _messages(_videos(videos_folder, "a"), made)
    assert "video 'a': expected at most 16777216 frames" in message.reason


def test_another_rate_than_the_files_is_reported(weights, tmp_path):
    write_video(tmp_path / "a.mp4", moving(20), fps=10)
    videos = annotations.load(tiny_videos.write_list(tmp_path, ["a"], fps=25))
    *_, ending = _messages(videos, _recipe(tiny_clip.make_encoder(weights)))
    assert ending.plan.fps == 25
    assert ending.faults == ["the file says 10 fps; 25 fps are used, as asked for"]
