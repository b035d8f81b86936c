"""The command that says which generated videos help."""

import json
import subprocess
import sys

import pytest

from gvvad_jax.store.reader import Store
from tests.support.started import python
from tests.support.stores import write_store


def _run(*arguments):
    return subprocess.run(
        [*python(), "-m", "tools.probe", *arguments], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    path = tmp_path_factory.mktemp("probe")
    write_store(path / "real", {"train": (8, 7), "validation": (1, 1), "test": (3, 3)})
    for seed, name in enumerate("ab", start=1):
        write_store(
            path / name, {"train": (4, 5)}, source="synthetic", seed=seed, prefix=f"{name}-"
        )
    return path


def test_each_store_has_a_row_and_a_result(stores):
    done = _run(f"--store={stores / 'real'}", f"--synthetic_store={stores / 'a'},{stores / 'b'}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [each["store"] for each in result["sets"]] == [str(stores / "a"), str(stores / "b")]
    assert (result["normal"], result["abnormal"], result["groups"]) == (8, 7, 15)
    assert all((each["normal"], each["abnormal"]) == (4, 5) for each in result["sets"])
    assert result["auc"] > 0.8 and result["test_auc"] is not None and result["reason"] is None
    lines = done.stderr.splitlines()
    assert lines[1].split()[:5] == ["real", "videos", "only", "8", "7"]
    assert lines[2].startswith(f"+ {stores / 'a'}") and lines[2].endswith("can't tell")
    assert lines[-1] == "50 held-out folds of 15 groups of real videos"


def test_real_videos_alone_and_too_few_of_them(stores, tmp_path):
    write_store(tmp_path / "s", {"train": (1, 1)})
    done = _run(f"--store={tmp_path / 's'}", "--real_share=1", "--flagfile=configs/demo.flags")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["sets"] == [] and result["auc"] is None and result["test_auc"] is None
    assert "no verdict: the abnormal real training videos form 1 groups" in done.stderr
    done = _run(f"--store={stores / 'real'}", f"--synthetic_store={stores / 'a'},")
    assert done.returncode == 2 and done.stderr.startswith("error: --synthetic_store: expected")


def test_stores_with_the_same_ids_are_compared(stores, tmp_path):
    # As two generators make them from one prompts.jsonl.
    for seed, name in enumerate("ab", start=1):
        write_store(tmp_path / name, {"train": (4, 5)}, source="synthetic", seed=seed, prefix="g-")
        ids = list(Store(tmp_path / name).videos.videos)
        kept = ids[:-1] if name == "a" else ids[:-3]
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps({"id": i, "keep": i in kept}) + "\n" for i in ids)
        )
        (tmp_path / "none.jsonl").write_text(
            "".join(json.dumps({"id": i, "keep": False}) + "\n" for i in ids)
        )

    def run(*keeps):
        keep = ",".join(str(tmp_path / f"{name}.jsonl") for name in keeps)
        return _run(
            f"--store={stores / 'real'}",
            f"--synthetic_store={tmp_path / 'a'},{tmp_path / 'b'}",
            *([f"--synthetic_keep={keep}"] if keep else []),
        )

    def counts(done):
        assert done.returncode == 0, done.stderr
        return [each["normal"] + each["abnormal"] for each in json.loads(done.stdout)["sets"]]

    both = run()
    assert counts(both) == [9, 9]
    apart = _run(f"--store={stores / 'real'}", f"--synthetic_store={tmp_path / 'b'}")
    assert json.loads(both.stdout)["sets"][1] == json.loads(apart.stdout)["sets"][0]
    assert counts(run("a", "b")) == [8, 6]
    # Of the second store nothing is left to compare, which isn't silent.
    lost = run("a", "none")
    assert counts(lost) == [8]
    assert lost.stderr.startswith("generated videos: all 4 normal ones are dropped by the filter")
    for keeps, message in ((("a",), "expected each video in one store"), (("a",) * 3, "found 3")):
        refused = run(*keeps)
        assert refused.returncode == 2 and message in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_jax_is_not_imported(stores):
    code = (
        "import sys; sys.argv = ['probe']; from gvvad_jax import probing; import tools.probe; "
        "print([m for m in ('jax', 'flax', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
