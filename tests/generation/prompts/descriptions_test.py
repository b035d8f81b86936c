import json
import subprocess
import sys

import pytest

from generation.prompts.descriptions import (
    Description,
    load_descriptions,
    save_descriptions,
)
from generation.prompts.grammar import write_grammar
from gvvad_jax.command import UserError
from gvvad_jax.store.files import write_atomically


def test_save_and_load_give_the_same(tmp_path):
    descriptions = write_grammar(5, seed=0)
    path = tmp_path / "new" / "prompts.jsonl"
    save_descriptions(path, descriptions)
    assert load_descriptions(path) == descriptions
    line = json.loads(path.read_text().splitlines()[0])
    assert line["class"] == "Abuse" and line["id"] == "Abuse-0000-abnormal" and "cls" not in line


def test_a_text_may_hold_line_separators_of_unicode(tmp_path):
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
        ({"label": 2}, "line 1: .*Invalid enum value 2 - at `label`"),
        ({"label": True}, "line 1: .*`label`"),
        ({"id": "../escape"}, "line 1: .*id: can't name a file of at most 230 bytes"),
        ({"id": ".."}, "line 1: .*id: can't name a file"),
        ({"id": "/etc/passwd"}, "line 1: .*id: can't name a file"),
        ({"id": ""}, "line 1: .*id: can't name a file"),
        ({"id": "x" * 231}, "line 1: .*id: can't name a file"),
        ({"id": "\u00e9" * 116}, "line 1: .*id: can't name a file"),
        ({"id": "a\0b"}, "line 1: .*id: can't name a file"),
        ({"id": "a\nb"}, "line 1: .*id: can't name a file"),
        ({"id": "a\ud800b"}, "line 1: .*id: half of a surrogate pair"),
        ({"phrase": "a\ud800b"}, "line 1: .*phrase: half of a surrogate pair"),
        ({"seed": "5"}, "line 1: .*Expected `int`, got `str` - at `seed`"),
        ({"seed": -1}, "line 1: .*`seed`"),
        ({"description": None}, "line 1: .*`description`"),
        ({"mood": "dark"}, "line 1: .*unknown field `mood`"),
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
    done = run("--num_pairs=2", "--classes=Fighting", f"--out={tmp_path / 'p.jsonl'}")
    assert done.returncode == 0 and "4  Fighting (2 abnormal, 2 normal)" in done.stderr
    assert load_descriptions(tmp_path / "p.jsonl") == write_grammar(2, 0, ("Fighting",))
    for mistake, named in (
        ("--num_pairs=0", "--num_pairs"),
        ("--out=", "--out: "),
        ("--classes=Fight", "--classes: expected names of Abuse, "),
    ):
        wrong = run(mistake)
        assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
        assert wrong.stderr.startswith(f"error: {named}")


def test_the_command_overwrites_descriptions_alone(tmp_path):
    def run(out):
        command = [sys.executable, "-m", "generation.prompts", "--num_pairs=1", f"--out={out}"]
        return subprocess.run(command, capture_output=True, text=True)

    out = tmp_path / "p.jsonl"
    for content in ("my notes\n", "{}\n", '{"id": "a"}\n'):
        out.write_text(content)
        refused = run(out)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert "--out: expected an absent file or one of descriptions" in refused.stderr
        assert out.read_text() == content
    assert run(tmp_path).returncode == 2
    save_descriptions(out, write_grammar(2, seed=5))
    assert run(out).returncode == 0
    assert load_descriptions(out) == write_grammar(1, seed=0)


def test_a_byte_order_mark_and_other_line_ends_do_not_matter(tmp_path):
    descriptions = write_grammar(2, seed=0)
    save_descriptions(tmp_path / "p.jsonl", descriptions)
    text = (tmp_path / "p.jsonl").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "p.jsonl").write_bytes(b"\xef\xbb\xbf" + text)
    assert load_descriptions(tmp_path / "p.jsonl") == descriptions
