"""One flagfile for all commands, and what a flag's name means in each of them."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

from gvvad_jax import flagfiles
from gvvad_jax.__main__ import MODULES
from tests.support import flag_table

ROOT = pathlib.Path(__file__).parents[2]
# Names that each command uses in its own sense, so that a flagfile for several commands sets them
# for one of them by a prefix, e.g. --encode.out.
OWN = {
    "out", "seed", "seeds", "json", "store", "scores", "split", "videos", "source", "detector",
    "fusion", "crops", "weights", "fps", "height", "width", "steps", "segments", "clips", "pairs",
    "peak_tflops", "repeats", "generator", "test_pairs", "generated_pairs", "workdir", "prompts",
    "checkpoint", "annotations", "snippet_frames", "snippet_stride", "defect_share", "preset",
    "abnormal_train", "normal_train", "num_frames", "text", "train_pairs", "visual", "dtype",
    "encoder", "text_encoder", "format",
}  # fmt: skip


def run(module, *arguments, **options):
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)


@pytest.fixture(scope="module")
def defined():
    """Every command's own flags as {name: (type, default, help)}, from a process that runs none."""
    code = (
        "import json\\nfrom gvvad_jax.__main__ import MODULES\\n"
        "from tests.support.flag_table import defined_flags\\n"
        "print(json.dumps({m: {n: [f.flag_type(), f.default, f.help] for n, f in "
        "defined_flags(m).items()} for m in MODULES}))"
    ).replace("\\n", "\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_table_holds_what_the_commands_define(defined):
    expected = {module: sorted(names) for module, names in defined.items()}
    assert json.loads(flag_table.PATH.read_text()) == expected, (
        "run python -m tests.support.flag_table"
    )


def test_a_shared_name_means_one_thing(defined):
    meanings = {}
    for names in defined.values():
        for name, (kind, _, text) in names.items():
            meanings.setdefault(name, set()).add((kind, text))
    several = {name: texts for name, texts in meanings.items() if len(texts) > 1}
    assert set(several) - OWN == set(), {name: several[name] for name in set(several) - OWN}


def test_every_help_is_a_sentence(defined):
    wrong = {
        f"{module} --{name}": text
        for module, names in defined.items()
        for name, (_, _, whole) in names.items()
        # What absl adds to a flag that may be repeated.
        for text in [whole.partition(";\n")[0]]
        # A flag of some models alone begins with their names.
        if not (text[:1].isupper() or text[:1].isdigit() or ": " in text) or text[-1:] not in ".)"
    }
    assert wrong == {}


def test_a_flagfile_may_hold_other_commands_flags(tmp_path):
    path = tmp_path / "all.flags"
    path.write_text(
        "# For every command.\n--snippet_frames=12\n--noclip_tokenizer=x\n--encode.out=E\n"
        "--evaluate.workdir=W\n--scores=S.npz\n--ground_truth=G.npz\n"
    )
    argv = ["program", f"--flagfile={path}"]
    flags = [
        argument
        for line in path.read_text().splitlines()[1:]
        for argument in flagfiles._of_command(line, "gvvad_jax.evaluate", str(path))
    ]
    assert flags == ["--workdir=W", "--scores=S.npz", "--ground_truth=G.npz"]
    assert flagfiles.expand(argv[:1], "gvvad_jax.evaluate") == ["program"]


def test_a_typo_in_a_flagfile_is_refused(tmp_path):
    path = tmp_path / "typo.flags"
    path.write_text("--snipet_frames=12\n")
    done = run("gvvad_jax.train", f"--flagfile={path}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert f"{path}: --snipet_frames: expected a flag, found an unknown one" in done.stderr


def test_a_foreign_flag_on_the_command_line_is_an_error():
    done = run("gvvad_jax.train", "--snippet_frames=12")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "--snippet_frames: expected a flag of this command, found one of" in done.stderr
    done = run("gvvad_jax.train", "--learning_rat=1")
    assert "did you mean --learning_rate?" in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.flags")), ids=lambda p: p.stem)
def test_every_config_serves_every_stage(path):
    lines = flagfiles._flags_in(str(path), ())
    for module in ("gvvad_jax.train", "generation.encode", "generation.pipeline", "tools.study"):
        for line in lines:
            flagfiles._of_command(line, module, str(path))


def test_the_console_script_lists_and_starts_commands():
    listed = run("gvvad_jax", "--help").stdout
    for command in ("train", "encode", "import-checkpoint", "demo"):
        assert re.search(rf"^  {command} +[A-Z]", listed, re.M)
    for name, module in (("train", "gvvad_jax.train"), ("encode", "generation.encode")):
        alone = run(module, "--help").stdout
        assert run("gvvad_jax", name, "--help").stdout == alone.replace(
            f"python -m {module}", f"gvvad {name}"
        )
    assert re.match(r"gvvad-jax \d+\.\d+\.\d+\n$", run("gvvad_jax", "--version").stdout)
    done = run("gvvad_jax", "trian")
    assert done.returncode == 2 and "did you mean train?" in done.stderr
    assert run("gvvad_jax", "train", "--steps=0").returncode == 2


def test_every_command_of_the_project_is_listed():
    commands = [
        path for folder in ("gvvad_jax", "generation", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^if __name__(.|\n)* run_command\(main", path.read_text(), re.M)
    ]  # fmt: skip
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in commands
    }
    # What only developers run isn't listed.
    developers = {
        "tools.bench.sparse_store", "tools.bench.sparse_features", "tools.bench.ten_crops",
        "tools.pages.picture",
    }  # fmt: skip
    assert names - developers == set(MODULES)


def test_flagfiles_have_either_line_end_a_mark_and_comments_and_name_others(tmp_path):
    inner, outer = tmp_path / "inner.flags", tmp_path / "outer.flags"
    outer.write_bytes(f"\ufeff# One\r\n--steps=5\r\n  --flagfile={inner}\r\n// Two\r\n".encode())
    inner.write_text("--store=a b\n")
    argv = ["x", f"--flagfile={outer}", "--steps=6"]
    expected = ["x", "--steps=5", "--store=a b", "--steps=6"]
    assert flagfiles.expand(argv, "gvvad_jax.train") == expected
    outer.write_text("--steps=5\n--flagfile=inner.flags\n")  # Beside it.
    assert flagfiles.expand(argv, "gvvad_jax.train") == expected
    inner.write_text(f"--flagfile={outer}\n")
    with pytest.raises(flagfiles.FlagError, match="outer.flags: .*, itself"):
        flagfiles.expand(argv, "gvvad_jax.train")
    outer.write_bytes(b"--steps=\xff")
    with pytest.raises(flagfiles.FlagError, match="outer.flags: .*no UTF-8"):
        flagfiles.expand(argv, "gvvad_jax.train")
