"""The filter's files: whole, its own, and read without surprises."""

import json
import os
import subprocess
import sys
import time

import pytest

from generation.filter.deciding import FilterOptions, decide
from generation.filter.decisions import load_decisions, require_own, save_decisions
from generation.filter.evidence import Evidence
from gvvad_jax.command import UserError
from gvvad_jax.store import annotations
from gvvad_jax.store.writer import StoreWriter
from tests.support.stores import make_manifest

SOUND = {"decoded_share": 1.0, "black_share": 0.0, "blank_share": 0.0, "frozen_share": 0.0,
         "cut_ratio": 1.0, "cut_change": 0.1}  # fmt: skip


def _save(path, ids="ab", **scores):
    evidence = Evidence(
        dict.fromkeys(ids, SOUND | scores), dict.fromkeys(ids, 1), real={"motion": [1]}
    )
    options = FilterOptions(preset="light")
    save_decisions(path, decide(evidence, options), evidence, options)
    return path


def _command(*flags):
    command = [sys.executable, "-m", "generation.filter", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_video_decided_twice_is_named_with_both_lines(tmp_path):
    path = _save(tmp_path / "d.jsonl")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[0].replace("true", "false")]) + "\n")
    with pytest.raises(UserError, match="found 'a' decided on line 1 and on line 3; remove one"):
        load_decisions(path)


def test_thresholds_of_other_scores_are_refused(tmp_path):
    """As a filter that was killed between its two files leaves them."""
    path = _save(tmp_path / "d.jsonl")
    other = _save(tmp_path / "other.jsonl", motion=3.0)
    (tmp_path / "other.thresholds.json").rename(tmp_path / "d.thresholds.json")
    with pytest.raises(UserError, match=r"d.thresholds.json: .*found those of other scores"):
        load_decisions(path)
    # What someone decided by hand has no influence on deciding again.
    other = _save(tmp_path / "other.jsonl")
    other.write_text(other.read_text().replace("true", "false"))
    assert not any(decision.keep for decision in load_decisions(other)[0])


def test_a_byte_order_mark_and_other_line_ends_change_nothing(tmp_path):
    path = _save(tmp_path / "d.jsonl")
    expected = load_decisions(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_decisions(path) == expected


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "a", "keep": true, "label": 2}',
        '{"id": "a", "keep": 1, "label": 1}',
        '{"id": "a", "keep": true, "label": true}',
        '{"id": "a", "keep": true, "label": 1, "scores": {"motion": NaN}}',
        '{"id": "a", "keep": true, "label": 1, "scores": {"motion": true}}',
        '{"id": "a", "keep": true, "label": 1, "near": {"b": "0.9"}}',
        '{"id": "a", "keep": true, "label": 1, "reasons": "blur"}',
        '{"id": "a", "keep": true, "label": 1, "reson": []}',
        '{"id": "a", "id": "b", "keep": true, "label": 1}',
        "[" * 100_000,
        "null",
    ],
)
def test_a_line_of_another_type_is_named(tmp_path, line):
    path = tmp_path / "d.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"d\.jsonl: line 1: expected a decision") as caught:
        load_decisions(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 + len(str(path))


@pytest.mark.parametrize(
    "content",
    ['{"real": {"motion": 3}, "not_judged": {}}', '{"real": {"motion": ["a"]}, "not_judged": {}}',
     '{"real": {}, "not_judged": {"a": 1}}', '{"real": {}}', "3", ""],
)  # fmt: skip
def test_thresholds_of_another_type_are_named(tmp_path, content):
    path = _save(tmp_path / "d.jsonl")
    (tmp_path / "d.thresholds.json").write_text(content)
    with pytest.raises(UserError, match=r"d\.thresholds\.json: expected"):
        load_decisions(path)


def test_files_that_are_not_decisions_are_left_alone(tmp_path):
    scores = _save(tmp_path / "scores.jsonl")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"id": "a", "phrase": "a man walks"}\n')
    (tmp_path / "notes.thresholds.json").write_text('{"mine": 1}')
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    for name in ("prompts.jsonl", "notes.jsonl", "folder", "pipe"):
        with pytest.raises(UserError, match=f"--out=.*{name}: expected a new file or decisions"):
            require_own(tmp_path / name)
    done = _command(f"--scores={scores}", f"--out={prompts}", "--preset=light")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_damaged_or_empty_decisions_are_written_again(tmp_path):
    path = _save(tmp_path / "d.jsonl")
    content = path.read_text()
    path.write_text(content[:30])
    require_own(path)
    path.write_text(content)
    (tmp_path / "d.thresholds.json").write_text("{")
    require_own(path)
    (tmp_path / "empty.jsonl").touch()
    require_own(tmp_path / "empty.jsonl")
    require_own(tmp_path / "new.jsonl")
    (tmp_path / "d.jsonl").write_text("{")
    with pytest.raises(UserError, match="expected a new file or decisions"):
        require_own(path)


def test_files_of_killed_runs_are_removed(tmp_path):
    scores = _save(tmp_path / "scores.jsonl")
    for name in (".d.jsonl.0123.partial", ".d.thresholds.json.4567.partial", ".mine.partial"):
        (tmp_path / name).write_text("{")
        os.utime(tmp_path / name, (time.time() - 60, time.time() - 60))
    done = _command(f"--scores={scores}", f"--out={tmp_path / 'd.jsonl'}", "--preset=light")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.glob(".*")] == [".mine.partial"]


def test_a_store_without_rows_is_status_1_and_writes_nothing(tmp_path):
    entries = {name: {"file": f"{name}.mp4", "label": 1, "split": "train"} for name in "ab"}
    listed = annotations.from_json({"videos": entries}, "videos.json")
    writer = StoreWriter(tmp_path / "syn", make_manifest(dim=1), listed)
    for name in entries:
        writer.quarantine(name, "damaged")
    assert writer.pack()
    done = _command(
        f"--store={tmp_path / 'syn'}", f"--out={tmp_path / 'd.jsonl'}", "--preset=light"
    )
    assert done.returncode == 1 and done.stdout == ""
    assert "syn: expected generated videos to decide about, found none among 2" in done.stderr
    assert not (tmp_path / "d.jsonl").exists()
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "empty.thresholds.json").write_text(json.dumps({"real": {}, "not_judged": {}}))
    again = _command(f"--scores={tmp_path / 'empty.jsonl'}", f"--out={tmp_path / 'd.jsonl'}")
    assert again.returncode == 1 and "found no video that could be encoded" in again.stderr
