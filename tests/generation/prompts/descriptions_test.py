import collections
import hashlib
import json
import subprocess
import sys

import pytest

from generation.prompts.descriptions import (
    CLASSES,
    Description,
    coverage,
    load_descriptions,
    save_descriptions,
)
from generation.prompts.grammar import capacity, write_grammar
from generation.prompts.words import VIEWPOINTS
from gvvad_jax.command import UserError
from gvvad_jax.store.files import write_atomically


def test_twins_share_everything_but_the_event():
    descriptions = write_grammar(26, seed=1)
    by_id = {d.id: d for d in descriptions}
    assert len(by_id) == 52
    for d in descriptions:
        twin = by_id[d.twin]
        assert twin.twin == d.id and twin.label == 1 - d.label and twin.cls == d.cls
        shared = (d.viewpoint, d.location, d.subject, d.seed)
        assert shared == (twin.viewpoint, twin.location, twin.subject, twin.seed)
        assert d.event != twin.event


def test_balanced_over_classes_viewpoints_and_locations():
    # 13 classes x 5 viewpoints x 6 locations: each combination exactly once for each label.
    descriptions = write_grammar(13 * 30, seed=0)
    cells = collections.Counter((d.cls, d.label, d.viewpoint, d.location) for d in descriptions)
    assert len(cells) == 2 * 13 * 30 and set(cells.values()) == {1}
    assert set(coverage(descriptions)["viewpoint"].values()) == {156}
    assert len(VIEWPOINTS) == 5 and len(CLASSES) == 13


def test_all_that_the_grammar_holds_is_without_duplicates():
    descriptions = write_grammar(capacity(), seed=0)
    elements = {(d.cls, d.viewpoint, d.location, d.subject, d.event) for d in descriptions}
    assert capacity() == 13 * 5 * 6 * 4 * 4
    assert len(elements) == len(descriptions)
    assert max(len(d.phrase.split()) for d in descriptions) <= 30
    with pytest.raises(UserError, match="holds no more"):
        write_grammar(capacity() + 1, seed=0)


def test_a_function_of_number_and_seed_and_stable_in_its_prefix():
    few, many = write_grammar(20, seed=3), write_grammar(45, seed=3)
    assert many[:40] == few
    assert write_grammar(20, seed=4) != few


def test_what_the_grammar_writes_never_changes(tmp_path):
    # Published results name their descriptions by number and seed alone.
    save_descriptions(tmp_path / "p.jsonl", write_grammar(130, seed=0))
    digest = hashlib.sha256((tmp_path / "p.jsonl").read_bytes()).hexdigest()
    assert digest == "c39d2332611e5f1dbd344555018049ad2ec3a6716732820eb44530d1d915922e"


def test_save_and_load_give_the_same(tmp_path):
    descriptions = write_grammar(5, seed=0)
    path = tmp_path / "new" / "prompts.jsonl"
    save_descriptions(path, descriptions)
    assert load_descriptions(path) == descriptions
    line = json.loads(path.read_text().splitlines()[0])
    assert line["class"] == "Abuse" and line["id"] == "Abuse-0000-abnormal" and "cls" not in line


def test_a_text_may_hold_ends_of_lines_that_are_none_to_json(tmp_path):
    first, second = (d.to_json() for d in write_grammar(1, seed=0))
    lines = [first | {"description": "A street.\u2028At night.\u0085"}, second]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (tmp_path / "p.jsonl").write_text(text, encoding="utf-8")
    assert [d.to_json() for d in load_descriptions(tmp_path / "p.jsonl")] == lines


def test_the_longest_id_names_all_files(tmp_path):
    first, _ = (d.to_json() for d in write_grammar(1, seed=0))
    name = Description.from_json(first | {"id": "x" * 230}).id
    write_atomically(tmp_path / f"{name}.json", b"")
    (tmp_path / f".{name}.01234567.partial.mp4").touch()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "line 1: expected label 0 or 1"),
        ({"id": "../escape"}, "line 1: expected an id that can name a file"),
        ({"id": ""}, "line 1: expected an id that can name a file"),
        ({"id": "x" * 231}, "line 1: expected an id that can name a file"),
        ({"id": "\u00e9" * 116}, "line 1: expected an id that can name a file"),
        ({"id": "a\0b"}, "line 1: expected an id that can name a file"),
        ({"id": "a\ud800b"}, "line 1: expected an id that can name a file"),
        ({"seed": "5"}, "line 1: expected seed of type int"),
        ({"mood": "dark"}, "line 1: expected no field 'mood'"),
        ({"id": "Abuse-0000-normal"}, "'Abuse-0000-normal' twice"),
    ],
)
def test_wrong_lines_are_named(tmp_path, change, message):
    first, second = (d.to_json() for d in write_grammar(1, seed=0))
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(first | change) + "\n" + json.dumps(second) + "\n")
    with pytest.raises(UserError, match=message):
        load_descriptions(path)


def test_command(tmp_path):
    def run(*arguments):
        command = [sys.executable, "-m", "generation.prompts", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    done = run("--num_pairs=3", "--seed=2", f"--out={tmp_path / 'p.jsonl'}")
    assert done.returncode == 0 and json.loads(done.stdout)["descriptions"] == 6
    assert "a high corner security camera" in done.stderr
    assert load_descriptions(tmp_path / "p.jsonl") == write_grammar(3, 2)
    for mistake, named in (("--num_pairs=0", "--num_pairs"), ("--out=", "--out: ")):
        wrong = run(mistake)
        assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
        assert wrong.stderr.startswith(f"error: {named}")
