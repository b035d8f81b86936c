"""Detectors pushed to the Hugging Face Hub and loaded from it, over HTTP from a local server."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.support import hub_server
from tests.support.models import make_model, random_features

pytest.importorskip("huggingface_hub", reason="needs huggingface_hub")

ROOT = pathlib.Path(__file__).parents[3]
# Runs each line of its first argument; prints what it returns, or the error, as JSON.
SCRIPT = """
import json, sys
import gvvad_jax as gv
for line in json.loads(sys.argv[1]):
    try:
        print(json.dumps(["returned", eval(line)]), flush=True)
    except gv.UserError as error:
        print(json.dumps(["refused", str(error)]), flush=True)
"""


def run(tmp_path, endpoint, *lines, **environment):
    """What each line gave, in a process of its own: the library reads its environment at import."""
    env = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": endpoint,
                        "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": hub_server.TOKEN}  # fmt: skip
    env = {k: v for k, v in (env | environment).items() if v}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(lines)],
        capture_output=True, text=True, env=env, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def hub():
    with hub_server.serving() as served:
        yield served


def test_a_pushed_detector_scores_the_same_wherever_it_is_loaded(tmp_path, hub):
    server, endpoint = hub
    model = make_model("rtfm")
    model.save_pretrained(tmp_path / "m", license="mit")
    features = random_features(model, [5])["5"]
    expected = model.score({"5": features})["5"].tolist()
    scores = (
        f"gv.load('hf:me/detector{{}}').score({{{{'5': __import__('numpy').array("
        f"{features.tolist()})}}}})['5'].tolist()"
    )
    pushed, loaded, private = run(
        tmp_path,
        endpoint,
        f"gv.load({str(tmp_path / 'm')!r}).push_to_hub('me/detector', license='cc-by-4.0')",
        scores.format(""),
        f"gv.load({str(tmp_path / 'm')!r}).push_to_hub('me/hidden', private=True)",
    )
    ((commit, files),) = server.repos["me/detector"]["branches"]["main"]
    assert pushed == ["returned", f"{endpoint}/me/detector/commit/{commit}"]
    assert private[0] == "returned" and server.repos["me/hidden"]["private"] is True
    assert server.repos["me/detector"]["private"] is None
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert b'gv.load("hf:me/detector")' in files["README.md"]
    assert b"license: cc-by-4.0" in files["README.md"]
    assert loaded == ["returned", expected]
    # Nothing is asked of the server again; a commit is a revision.
    del server.repos["me/detector"]
    again, pinned, (kind, text) = run(
        tmp_path,
        endpoint,
        scores.format(""),
        scores.format(f"@{commit}"),
        "gv.load('hf:me/another')",
        HF_HUB_OFFLINE="1",
    )
    assert again == pinned == ["returned", expected]
    assert kind == "refused" and text.startswith("hf:me/another: expected it in the cache, or a n")


def test_what_the_hub_refuses_is_one_line(tmp_path, hub):
    server, endpoint = hub
    make_model("mil_rank").save_pretrained(tmp_path / "m", license="mit")
    large = b'{"library": "gvvad-jax"}' + b" " * (5 << 20)
    server.repos["me/large"] = {"branches": {"main": [("1" * 40, {"config.json": large})]}}
    server.repos["me/other"] = {"branches": {"main": [("2" * 40, {"pytorch_model.bin": b"\x80"})]}}
    push = f"gv.load({str(tmp_path / 'm')!r}).push_to_hub"
    found = run(
        tmp_path,
        endpoint,
        "gv.load('hf:me/nothing')",
        "gv.load('hf:me/other@v9')",
        "gv.load('hf:me/other')",
        "gv.load('hf:me/large')",
        "gv.load('hf:../../etc')",
        f"{push}('me/x/y')",
    )
    messages = [
        "hf:me/nothing: expected a repository of the Hugging Face Hub, found no such repository",
        "hf:me/other@v9: expected a repository of the Hugging Face Hub, found no such repository",
        "hf:me/other: expected a detector that save_pretrained wrote, found a repository without",
        "hf:me/large: expected config.json of at most 4 MiB, found 5 MiB; it isn't fetched",
        "hf:../../etc: expected a repository as USER/NAME, found '../../etc'",
        "me/x/y: expected a repository as USER/NAME",
    ]
    for (kind, text), message in zip(found, messages, strict=True):
        assert kind == "refused" and text.startswith(message) and "\n" not in text, text
    assert not any("pytorch_model" in path for _, path in server.requests)
    assert not any(m == "GET" and "me/large/resolve" in path for m, path in server.requests)


def test_without_a_token_is_one_line(tmp_path, hub):
    _, endpoint = hub
    make_model("mil_rank").save_pretrained(tmp_path / "m", license="mit")
    push = f"gv.load({str(tmp_path / 'm')!r}).push_to_hub('me/detector')"
    ((kind, text),) = run(tmp_path, endpoint, push, HF_TOKEN="")
    assert kind == "refused" and text.startswith("me/detector: "), text
    assert "hf auth login" in text and "\n" not in text
