"""The command that embeds a prompt bank alone."""

import json
import subprocess

import numpy as np

from generation.encoders import banks
from generation.encoders.text import HashedTextEncoder
from tests.support.started import python


def _run(*arguments):
    return subprocess.run(
        [*python(), "-m", "generation.encoders", *arguments], capture_output=True, text=True
    )


def test_a_bank_is_embedded_as_in_a_store(tmp_path):
    out = tmp_path / "bank"
    done = _run("--bank=xd_violence", f"--out={out}")
    assert done.returncode == 0, done.stderr
    phrases = [prompt.phrase for prompt in banks.prompt_bank("xd_violence", "plain")]
    np.testing.assert_array_equal(np.load(out / "bank.npy"), HashedTextEncoder()(phrases))
    assert banks.is_whole(out)
    summary = json.loads(done.stdout)
    assert summary["phrases"] == len(phrases) and summary["encoder"] == HashedTextEncoder.id
    # A store's own bank is not overwritten.
    (out / "manifest.json").write_text("{}")
    again = _run(f"--out={out}")
    assert again.returncode == 2 and "expected a store without a bank" in again.stderr
    assert _run().returncode == 2
