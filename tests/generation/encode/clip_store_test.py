"""Encoding with CLIP, chunk by chunk: rows, text, damage, resuming and ranks."""

import dataclasses
import json
import os
import pathlib
import shutil

import numpy as np
import pydantic
import pytest
import torch

from generation.chat import client
from generation.chat.options import ChatOptions
from generation.encode import decode_ahead, encoding
from generation.encode.recipe import EncodeOptions
from generation.encoders import banks, captions
from generation.encoders.options import TEXT_ENCODERS, CaptionOptions, TextOptions
from generation.encoders.text import HashedTextEncoder, make_text_encoder
from generation.media import pixels, reading
from generation.media.writing import write_video
from generation.prompts.descriptions import save_descriptions
from generation.prompts.grammar import write_grammar
from gvvad_jax.command import UserError
from gvvad_jax.store import alignment
from gvvad_jax.store.format import STAND_IN
from gvvad_jax.store.reader import Store, require_agreement
from tests.support import killing, streaming, tiny_clip
from tests.support.chat_server import ChatServer
from tests.support.started import python
from tests.support.tiny_transformers import save_bert, save_git
from tests.support.tiny_videos import moving, write_damaged, write_list

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT_ENCODER = HashedTextEncoder()
# Half of a hundred frames by the policy, and a last snippet that is short.
SNIPPET = {"snippet_frames": 8, "snippet_stride": 8}


def _options(weights, **changes):
    fields = {"encoder": "clip-l14", "weights": weights, "captioner": "none"} | SNIPPET
    return EncodeOptions(**(fields | changes))


def _encode(videos, out, made, **settings):
    assert encoding.encode(videos, out, made, progress=False, **settings)
    opened = Store(out)
    assert opened.faults() == []
    return opened


def _files(path):
    return {p.name: p.read_bytes() for p in pathlib.Path(path).iterdir() if p.name != ".lock"}


@pytest.mark.parametrize("fps_policy", ["native", "6"])
def test_rows_are_those_of_whole_videos(videos_folder, weights, tmp_path, monkeypatch, fps_policy):
    monkeypatch.setattr(decode_ahead, "CHUNK_FRAMES", 20)
    made = _options(weights, crops="ten", pooling="mean", fps_policy=fps_policy, dtype="float16")
    opened = _encode(videos_folder / "videos.json", tmp_path / "s", made)
    assert opened.manifest.crops["count"] == 10 and opened.manifest.crops["resize"] == 18
    encoder = tiny_clip.make_encoder(weights, crops="ten", pooling="mean")
    for name in "abcd":
        row, frames = opened.rows[name], reading.read(videos_folder / f"{name}.mp4").frames_TxHxWx3
        assert row.num_frames == row.decoded_frames == row.declared_frames == len(frames)
        assert row.pixel_statistics["decoded_share"] == 1
        shown = streaming.pictures(frames)
        looked = [encoder.prepare_whole(shown[i]) for i in pixels.wanted_frames(len(frames), 10.0)]
        expected = pytest.approx(encoder.consistency(looked), abs=1e-5)
        assert row.feature_statistics == {"consistency": expected}
        if fps_policy != "native":
            frames = frames[alignment.resampled_frames(len(frames), 10.0, 6.0)]
        spans = alignment.snippet_spans(len(frames), 8, 8)
        expected_TxNxD = streaming.encode(encoder, frames, spans, 10.0)
        np.testing.assert_allclose(opened.visual(name), expected_TxNxD, atol=2e-3)


def test_stores_computed_in_other_dtypes_agree(videos_folder, weights, tmp_path):
    full = _encode(videos_folder / "videos.json", tmp_path / "full", _options(weights))
    half = _options(weights, compute_dtype="bfloat16", source="synthetic")
    half = _encode(videos_folder / "videos.json", tmp_path / "half", half)
    require_agreement([full, half])
    for name, dtype in (("full", "float32"), ("half", "bfloat16")):
        noted = json.loads((tmp_path / name / "encoding.json").read_text())
        assert noted["computed_in"] == [dtype]
    assert not np.array_equal(full.visual("a"), half.visual("a"))
    # A store may be resumed in another dtype; both are noted.
    _encode(write_list(videos_folder, "abc"), tmp_path / "mixed", _options(weights))
    mixed = _options(weights, compute_dtype="bfloat16")
    mixed = _encode(write_list(videos_folder, "abcd"), tmp_path / "mixed", mixed)
    noted = json.loads((tmp_path / "mixed" / "encoding.json").read_text())
    assert noted["computed_in"] == ["bfloat16", "float32"]
    np.testing.assert_array_equal(mixed.visual("a"), full.visual("a"))
    np.testing.assert_array_equal(mixed.visual("d"), half.visual("d"))


def test_a_finished_store_is_recognised_without_its_models(videos_folder, weights, tmp_path):
    folder = tmp_path / "tiny-clip"
    shutil.copytree(weights, folder)
    made = _options(str(folder), pooling="middle")
    _encode(videos_folder / "videos.json", tmp_path / "s", made)
    before = _files(tmp_path / "s")
    # Other weights under the same name are told apart.
    other = dataclasses.replace(made, weights=tiny_clip.save(tmp_path / "b/tiny-clip", scale=2))
    with pytest.raises(UserError, match="the same settings, found encoder digest .* instead of"):
        encoding.encode(videos_folder / "videos.json", tmp_path / "s", other, progress=False)
    shutil.rmtree(folder)
    # The location of the weights and the device do not matter.
    moved = dataclasses.replace(made, weights="elsewhere/tiny-clip", device="cuda")
    assert encoding.encode(videos_folder / "videos.json", tmp_path / "s", moved, progress=False)
    assert _files(tmp_path / "s") == before
    for other in ({"pooling": "mean"}, {"snippet_stride": 4}, {"captioner": "description"}):
        with pytest.raises(UserError, match="expected a CLIP checkpoint"):
            encoding.encode(
                videos_folder / "videos.json", tmp_path / "s", dataclasses.replace(made, **other)
            )


def test_decodable_frames_of_damaged_videos_are_encoded(
    videos_folder, weights, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(decode_ahead, "CHUNK_FRAMES", 2)
    for name in "ab":
        shutil.copy(videos_folder / f"{name}.mp4", tmp_path / f"{name}.mp4")
    write_damaged(videos_folder / "d.mp4", tmp_path / "bad.mp4")
    (tmp_path / "rubbish.mp4").write_bytes(b"no video at all" * 100)
    (tmp_path / "folder.mp4").mkdir()
    videos = write_list(tmp_path, ["a", "bad", "rubbish", "b", "folder"])
    opened = _encode(videos, tmp_path / "s", _options(weights, pooling="middle"))
    assert sorted(opened.rows) == ["a", "b", "bad"]
    assert sorted(opened.quarantined) == ["folder", "rubbish"]
    decoded = reading.read(tmp_path / "bad.mp4")
    row = opened.rows["bad"]
    assert (row.declared_frames, row.decoded_frames) == (57, len(decoded.frames_TxHxWx3))
    spans = alignment.snippet_spans(row.num_frames, 8, 8)
    encoder = tiny_clip.make_encoder(weights)
    frames = decoded.frames_TxHxWx3[streaming.shown(tmp_path / "bad.mp4", 10.0)]
    expected = streaming.encode(encoder, frames, spans, 10.0)
    np.testing.assert_allclose(opened.visual("bad"), expected, atol=1e-5)
    errors = capsys.readouterr().err
    assert f"bad: {decoded.damaged} packets or frames are damaged" in errors
    assert "rubbish: not encoded: rubbish.mp4: expected a video file" in errors
    again = _encode(videos, tmp_path / "again", _options(weights, pooling="middle"))
    np.testing.assert_array_equal(again.visual("bad"), opened.visual("bad"))


def test_descriptions_stand_in_for_captions(videos_folder, weights, tmp_path):
    records = write_grammar(1, 0)
    for record in records:
        shutil.copy(videos_folder / "a.mp4", tmp_path / f"{record.id}.mp4")
    videos = write_list(tmp_path, [record.id for record in records])
    save_descriptions(tmp_path / "prompts.jsonl", records)
    made = _options(weights, captioner="description", source="synthetic", bank="xd_violence")
    given = {"prompts_path": tmp_path / "prompts.jsonl"}
    opened = _encode(videos, tmp_path / "s", made, **given)
    for record in records:
        row = opened.rows[record.id]
        assert (row.description, row.twin, row.seed) == (
            record.description,
            record.twin,
            record.seed,
        )
        expected = np.repeat(TEXT_ENCODER([record.phrase]), row.num_snippets, axis=0)
        np.testing.assert_array_equal(opened.text(record.id), expected)
    assert opened.manifest.text["captioner"] == STAND_IN
    bank = json.loads((tmp_path / "s" / "bank.json").read_text())
    assert (bank["bank"], bank["vocabulary"]) == ("xd_violence", "plain")
    save_descriptions(tmp_path / "fewer.jsonl", records[:1])
    for wrong in ({}, {"prompts_path": tmp_path / "fewer.jsonl"}):
        with pytest.raises(UserError, match="--prompts: expected a description of each video"):
            encoding.encode(videos, tmp_path / "t", made, **wrong)
    other = dataclasses.replace(made, captioner="rules")
    with pytest.raises(UserError, match="the same settings, found text"):
        encoding.encode(videos, tmp_path / "s", other, **given)


def test_captions_and_their_embeddings_by_pretrained_models(
    videos_folder, weights, tmp_path, monkeypatch
):
    monkeypatch.setattr(captions._PretrainedCaptioner, "max_new_tokens", 5)
    monkeypatch.setattr(decode_ahead, "CHUNK_BYTES", 20 * 64 * 96 * 3)
    git, bert = save_git(tmp_path / "tiny-git"), save_bert(tmp_path / "tiny-bert")
    made = _options(
        weights, captioner="git", caption_weights=str(git), text_encoder="simcse",
        text_weights=str(bert),
    )  # fmt: skip
    videos = write_list(videos_folder, "ab")
    opened = _encode(videos, tmp_path / "s", made)
    captioner = captions.make_captioner(CaptionOptions(captioner="git", caption_weights=str(git)))
    embed = make_text_encoder(TextOptions(text_encoder="simcse", text_weights=str(bert)))
    assert opened.manifest.text == {
        "encoder": embed.id, "dim": 16, "normalised": False, "captioner": captioner.id
    }  # fmt: skip
    for name in "ab":
        frames = reading.read(videos_folder / f"{name}.mp4").frames_TxHxWx3
        spans = alignment.snippet_spans(len(frames), 8, 8).tolist()
        asked = [frames[captioner.frames_of(start, end)] for start, end in spans]
        said = captioner.caption_snippets(asked)
        assert len(set(said)) > 1
        np.testing.assert_allclose(opened.text(name), embed(said), atol=1e-5)
    assert json.loads((tmp_path / "s" / "bank.json").read_text())["encoder"] == embed.id
    noted = json.loads((tmp_path / "s" / "encoding.json").read_text())
    assert set(noted["weights"]) == {"weights", "caption_weights", "text_weights"}
    half = dataclasses.replace(made, compute_dtype="bfloat16").recipe()
    assert half.captioner.dtype == "bfloat16" and half.manifest() == opened.manifest
    assert half.text_encoder._model.dtype == torch.float32
    # Rows of another text encoder are not comparable with this bank.
    other = dataclasses.replace(made, text_encoder="transformer")
    with pytest.raises(UserError, match="the same settings, found text"):
        encoding.encode(videos, tmp_path / "s", other)


class _Seen(pydantic.BaseModel):
    caption: str


class ServerCaptioner(captions.SnippetCaptioner):
    """Captions by a chat server that gets a snippet's mean colour."""

    id = "by-server"

    def __init__(self, url):
        self._server = client.Server(ChatOptions(chat_model="m", base_url=url, attempts=1))

    def frames_of(self, start, end):
        return [start, end - 1]

    def caption_snippets(self, snippets):
        colours = [str(snippet.mean(axis=(0, 1, 2)).round(2).tolist()) for snippet in snippets]
        requests = [
            client.Request("a snippet", [{"role": "user", "content": text}], _Seen)
            for text in colours
        ]
        answers = self._server.ask_all(requests, progress=False)
        for answer in answers:
            if isinstance(answer, client.Failed):
                raise answer
        return [answer.value.caption for answer in answers]


def test_a_video_whose_caption_failed_is_encoded_by_the_next_run(
    videos_folder, weights, tmp_path, capsys
):
    videos = write_list(videos_folder, "abcd")
    with ChatServer(lambda body: {"caption": body["messages"][0]["content"]}) as server:
        made = _options(weights).recipe()
        made = dataclasses.replace(
            made, captioner=ServerCaptioner(server.url), text_encoder=TEXT_ENCODER
        )
        frames = reading.read(videos_folder / "b.mp4").frames_TxHxWx3
        colour = str(frames[[8, 15]].mean(axis=(0, 1, 2)).round(2).tolist())
        server.fail(colour, "500")
        with pytest.raises(UserError, match=r"found 1 that couldn't be captioned: b; run the same"):
            encoding.encode(videos, tmp_path / "s", made, progress=False)
        assert "b: not encoded: a snippet: HTTP 500" in capsys.readouterr().err
        asked = len(server.asked)
        opened = _encode(videos, tmp_path / "s", made)
        # The other three videos are not encoded again.
        assert len(server.asked) - asked == opened.rows["b"].num_snippets
    np.testing.assert_array_equal(opened.text("b")[1:2], TEXT_ENCODER([colour]))
    # An error that affects every video ends the run.
    wrong = dataclasses.replace(made, captioner=ServerCaptioner("http://127.0.0.1:9/v1"))
    with pytest.raises(UserError, match="expected an OpenAI-compatible server"):
        encoding.encode(videos, tmp_path / "t", wrong, progress=False)


def _command(videos, weights, out):
    return [
        *(*python("torch"), "-m", "generation.encode", f"--videos={videos}", f"--out={out}"),
        *("--encoder=clip-l14", f"--weights={weights}", "--crops=ten", "--pooling=middle"),
        *("--captioner=none", "--snippet_frames=8", "--snippet_stride=8"),
    ]


def test_killed_runs_and_ranks_give_the_same_rows(weights, tmp_path, monkeypatch):
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", moving(10 + 5 * number, seed=number), fps=10)
    names = [f"v{number:02d}" for number in range(16)]
    for number, name in enumerate(names):
        shutil.copy(tmp_path / f"{number % 3}.mp4", tmp_path / f"{name}.mp4")
    videos = write_list(tmp_path, names)
    made = _options(weights, crops="ten", pooling="middle")
    assert encoding.encode(videos, tmp_path / "whole", made, progress=False)
    expected = _files(tmp_path / "whole")

    command = _command(videos, weights, tmp_path / "killed")
    killing.run(command, "parts/*.json", 2, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert len(list((tmp_path / "killed").glob("parts/*.json"))) == 2
    assert encoding.encode(videos, tmp_path / "killed", made, progress=False)
    assert _files(tmp_path / "killed") == expected

    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in ("2", "0", "1"):
        monkeypatch.setenv("RANK", rank)
        finished = encoding.encode(videos, tmp_path / "ranks", made, progress=False)
        assert finished == (rank == "1")
    assert _files(tmp_path / "ranks") == expected


def test_options_offer_existing_choices(weights):
    choices = {field.name: field.metadata for field in dataclasses.fields(EncodeOptions)}
    assert STAND_IN in choices["captioner"]["choices"]
    assert choices["text_encoder"]["choices"] == TEXT_ENCODERS
    assert choices["bank"]["choices"] == banks.BANKS
    assert EncodeOptions().stride == 4 and _options(weights, snippet_stride=None).stride == 16
    for wrong, message in (
        ({"captioner": "oracle"}, "--captioner: expected one of rules"),
        ({"fps_policy": "fast"}, "--fps_policy"),
        ({"crops": "five"}, "--crops"),
        ({"compute_dtype": "int8"}, "--compute_dtype"),
        ({"encoder": "motion"}, "--weights: expected clip-b32 or clip-b16 or clip-l14"),
        ({"caption_weights": "git"}, "--caption_weights: expected git or blip"),
        ({"bank": "ucfcrime"}, "--bank: expected one of ucf_crime"),
        ({"captioner": "rules", "text_encoder": "word2vec"}, "--text_encoder: expected one of"),
        ({"captioner": "chat"}, "--chat_model"),
    ):
        with pytest.raises(UserError, match=message):
            _options(weights, **wrong).recipe()
    for wrong in ({"pooling": "middle"}, {"crops": "ten"}):
        with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
            EncodeOptions(**wrong).recipe()
    with pytest.raises(AssertionError, match="can't go to workers"):
        encoding.encode("videos.json", "s", EncodeOptions().recipe(), ray_workers=2)
