"""How commands end: 0, 1 or 2, and one line for a user's mistake."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
STEP = "import sys; from gvvad_jax.command import UserError, run_command; from absl import flags; "


def _run(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT, check=False
    )


def _assert_one_line(done, *named):
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    for text in named:
        assert str(text) in lines[0]


def _ending(body, *arguments):
    code = (
        f"{STEP}flags.DEFINE_integer('n', 1, 'number', 0)\n{body}\nrun_command(main, usage='Use')"
    )
    return _run("-c", code, *arguments)


def test_success_and_help_end_with_0():
    done = _ending("def main(_): print(flags.FLAGS.n)", "--n=3")
    assert (done.returncode, done.stdout.strip()) == (0, "3")
    done = _ending("def main(_): raise SystemError", "--help")
    assert done.returncode == 0 and done.stdout.startswith("Use")


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("gvvad_jax.train", ["store", "lambda_mode", "seed"]),
        ("gvvad_jax.score", ["workdir", "visual"]),
        ("generation.pipeline", ["out", "preset"]),
        ("tools.demo", ["out", "lambda_mode", "seeds"]),
        ("tools.import_checkpoint", ["source", "fusion"]),
    ],
)
def test_help_lists_the_flags_of_a_command(module, names):
    done = _run("-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert [name for name in names if f"\n  --{name}:" not in done.stdout] == []


def test_help_says_each_fact_of_a_flag_once():
    """Choices, bounds and defaults in plain form, without what absl adds to a help."""
    done = _ending(
        "from gvvad_jax.command import define_flags, option\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Options:\n"
        "  seed: int = option(0, 'Random seed.', low=0, high=2**31 - 1)\n"
        "  dtype: str = option('', 'Format.', choices=('', 'float16'))\n"
        "define_flags(Options)\n"
        "flags.DEFINE_enum('kind', 'a', ['a', 'b'], 'Kind.')\n"
        "flags.DEFINE_multi_string('run', [], 'Runs.')\n"
        "main = None",
        "--help",
    )
    said = dict(re.findall(r"  --(\w+):\n      (.*)\n", done.stdout))
    assert said == {
        "n": "number (at least 0; default: 1)",
        "seed": "Random seed. (0 to 2147483647; default: 0)",
        "dtype": "Format. (one of float16)",
        "kind": "Kind. (one of a, b; default: a)",
        "run": "Runs.",
    }


def test_what_a_command_sets_itself_stands_in_flagfiles_alone(tmp_path):
    body = (
        "from gvvad_jax.command import define_flags\n"
        "from gvvad_jax.config import TrainConfig\n"
        "define_flags(TrainConfig, set_here=('store',))\n"
        "def main(_): print(flags.FLAGS.store)"
    )
    (tmp_path / "a.flags").write_text("--store=S\n")
    assert _ending(body, f"--flagfile={tmp_path / 'a.flags'}").stdout == "S\n"
    _assert_one_line(_ending(body, "--store=S"), "--store: expected none, because this command")
    assert "--store:" not in _ending(body, "--help").stdout


def test_help_calls_a_command_as_it_was_started():
    assert "\n    gvvad score --workdir=W" in _run("-m", "gvvad_jax", "score", "--help").stdout
    alone = _run("-m", "gvvad_jax.score", "--help").stdout
    assert "\n    python -m gvvad_jax.score --workdir=W" in alone


@pytest.mark.parametrize(
    "body",
    [
        "raise KeyboardInterrupt",
        "os.kill(os.getpid(), signal.SIGINT)",
        # Where something else catches it.
        "try: os.kill(os.getpid(), signal.SIGINT)\n  except BaseException: raise ImportError",
        "try: os.kill(os.getpid(), signal.SIGINT)\n  except BaseException: pass\n"
        "  command.raise_if_interrupted()",
        # In the middle of an import, which ends first.
        "import slow\n  assert slow.DONE; time.sleep(9); print('lost')",
    ],
)
def test_interrupting_is_one_line_that_says_how_to_go_on(body, tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.3)\nDONE = 1"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    imports = "import os, signal, sys, time\nfrom gvvad_jax import command"
    done = _ending(f"{imports}\ndef main(_):\n  {body}")
    assert done.stdout == ""
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 and "run the same command again" in done.stderr


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("-m gvvad_jax --help", 0),
        ("-m gvvad_jax train --help", 0),
        ("-m gvvad_jax.train --help", 0),
        ("-c '{code}'", 141),
    ],
)
def test_a_reader_that_leaves_early_is_no_fault(command, status):
    code = f'{STEP}\ndef main(_): print("x" * 9**6)\nrun_command(main, usage="Use")'
    command = f"{sys.executable} {command.format(code=code)} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == (f"{status}\n", "")


@pytest.mark.parametrize("platforms", ["cuda", "rocm", "nonsense"])
def test_a_platform_that_is_not_there_is_named(platforms, monkeypatch):
    if platforms in ("cuda", "rocm") and pathlib.Path("/dev/nvidia0").exists():
        pytest.skip("a GPU is there")
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    _assert_one_line(
        _ending("def main(_): import jax; jax.devices()"),
        f"JAX_PLATFORMS={platforms}: expected a platform that JAX finds on this machine, found",
    )


def test_a_missing_extra_is_named():
    done = _ending("import sys; sys.modules['cv2'] = None\ndef main(_): import cv2")
    _assert_one_line(done, "expected the module cv2, found none; pip install '.[video]'")
    done = _ending("def main(_): import nothing_of_ours")
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize("module", ["uvicorn", "PIL", "cv2", "paho", "torch"])
def test_each_optional_module_has_an_extra(module):
    body = f"import sys; sys.modules[{module!r}] = None\ndef main(_): import {module}"
    _assert_one_line(_ending(body), f"expected the module {module}, found none; pip install '.[")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--n=x", "--n: expected a whole number, found 'x'; correct the flag"),
        ("--n=-1", "--n: expected a non-negative integer, found '-1'; correct the flag"),
        ("--f=x", "--f: expected a number, found 'x'; correct the flag"),
        ("--e=c", "--e: expected one of a, b, found 'c'; correct the flag"),
        ("--b=c", "--b: expected true or false, found 'c'; correct the flag"),
        ("--n", "Missing value for flag --n; --help lists the flags"),
    ],
)
def test_a_value_of_another_kind_is_said_in_the_words_of_other_errors(given, said):
    body = (
        "flags.DEFINE_float('f', 1.0, 'x')\nflags.DEFINE_enum('e', 'a', ['a', 'b'], 'x')\n"
        "flags.DEFINE_bool('b', False, 'x')\ndef main(_): pass"
    )
    _assert_one_line(_ending(body, given), f"error: {said}")


def test_a_users_mistake_is_one_line_and_ends_with_2():
    done = _ending("def main(_): raise UserError('a.json: expected b,\\n found c')")
    _assert_one_line(done, "a.json: expected b, found c")


def test_a_fault_of_ours_has_its_traceback_and_ends_with_1():
    done = _ending("def main(_): raise RuntimeError('boom')")
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("code", "place", "named"),
    [
        (
            "EACCES",
            ", 'x.npz'",
            ["cannot read or write x.npz", "permissions"],
        ),
        ("EROFS", ", 'x.npz'", ["x.npz", "read-only"]),
        ("ENOSPC", ", 'x.npz'", ["x.npz", "free some space"]),
        ("ENOSPC", "", ["the disk", "free some space"]),
    ],
)
def test_what_the_machine_refuses_is_one_line(code, place, named):
    raised = f"raise OSError(errno.{code}, os.strerror(errno.{code}){place})"
    _assert_one_line(_ending(f"import errno, os\ndef main(_): {raised}"), *named)


@pytest.mark.parametrize("raised", ["open('/absent/x')", "raise OSError(13, 'Permission denied')"])
def test_other_errors_of_files_are_ours(raised):
    done = _ending(f"def main(_): {raised}")
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_flags_of_another_mode_are_refused():
    body = "from gvvad_jax import command\ndef main(_): command.refuse_flags('--store', ['n'])"
    assert _ending(body).returncode == 0
    _assert_one_line(_ending(body, "--n=1"), "--n: expected without --store, found both")


@pytest.mark.parametrize("argument", ["--nonsense=1", "--n=x", "--n=-1", "leftover"])
def test_wrong_arguments_end_with_2(argument):
    _assert_one_line(_ending("def main(_): pass", argument), "")


def test_flagfiles(tmp_path):
    body = "def main(_): print(flags.FLAGS.n)"
    path = tmp_path / "some.flags"
    path.write_text("# a comment\n--n=7\n")
    assert _ending(body, f"--flagfile={path}").stdout.strip() == "7"
    path.write_text("n=7\n")
    _assert_one_line(_ending(body, f"--flagfile={path}"), "n=7")
    _assert_one_line(_ending(body, f"--flagfile={tmp_path / 'absent'}"), "absent")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["gvvad_jax.store", "{tmp}/absent"], "absent"),
        (["gvvad_jax.train", "--workdir={tmp}/w"], "--store"),
        (["gvvad_jax.train", "--store={tmp}/absent", "--workdir={tmp}/w"], "absent"),
        (["gvvad_jax.train", "--detector=yolo"], "--detector"),
        (["gvvad_jax.train", "--top_k=0"], "--top_k"),
        (["gvvad_jax.score", "--workdir={tmp}", "--store=x", "--out=y"], "model.json"),
        (["gvvad_jax.evaluate", "--scores={tmp}/absent.npz", "--ground_truth=x"], "absent.npz"),
        (["gvvad_jax.evaluate", "--scores=x", "--split=validation"], "--split: expected without"),
        (["gvvad_jax.evaluate", "--workdir=x", "--ground_truth=y"], "--ground_truth: expected"),
        (
            ["gvvad_jax.score", "--workdir=x", "--store=x", "--out=y", "--text=z"],
            "--text: expected",
        ),
        (["gvvad_jax.score", "--workdir=x", "--store=x", "--out={tmp}"], "--out: expected a file"),
        (
            ["gvvad_jax.score", "--workdir=x", "--store=x", "--out=/proc/x/y"],
            "--out: expected a file",
        ),
        (["generation.encode", "--videos={tmp}/absent.json", "--out={tmp}/s"], "absent.json"),
        (["generation.filter", "--store={tmp}/absent", "--out={tmp}/d.jsonl"], "absent"),
        (["generation.videos", "--prompts={tmp}/absent.jsonl", "--out={tmp}/v"], "absent.jsonl"),
        (["tools.reference_step", "--golden={tmp}/absent.npz"], "absent.npz"),
    ],
    ids=lambda value: value[0] + value[1][:12] if isinstance(value, list) else None,
)
def test_the_commands_name_what_is_wrong(tmp_path, arguments, named):
    done = _run("-m", *(argument.format(tmp=tmp_path) for argument in arguments))
    _assert_one_line(done, named)
    assert not (tmp_path / "s" / "manifest.json").exists()
