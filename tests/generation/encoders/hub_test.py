"""Models that can't be reached: an error at once that names the flag of a folder."""

import threading
import time

import pytest

from generation.encoders import hub
from generation.encoders.options import CaptionOptions, TextOptions, VisualOptions
from generation.videos import identity
from gvvad_jax.command import UserError
from tests.support.ports import free_port

pytest.importorskip("transformers")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The Hub at a port where nothing listens, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    clear = hub._answers.cache_clear
    clear()
    yield constants
    clear()


def _visual(encoder):
    from generation.encoders.visual import make_encoder

    make_encoder(VisualOptions(encoder=encoder))


def _captioner():
    from generation.encoders import captions

    captions.make_captioner(CaptionOptions(captioner="git"))


def _text():
    from generation.encoders import text

    text.make_text_encoder(TextOptions(text_encoder="simcse"))


@pytest.mark.parametrize(
    ("load", "name", "flag"),
    [
        (lambda: _visual("clip-l14"), "openai/clip-vit-large-patch14", "--weights"),
        (lambda: _visual("vjepa2"), "facebook/vjepa2-vitl-fpc64-256", "--weights"),
        (_captioner, "microsoft/git-base-vatex", "--caption_weights"),
        (_text, "princeton-nlp/sup-simcse-bert-base-uncased", "--text_weights"),
        (lambda: identity.identify("zai-org/CogVideoX-2b"), "zai-org/CogVideoX-2b", "--model"),
    ],
)
def test_a_model_that_cant_be_reached_is_an_error_at_once(
    offline, capsys, monkeypatch, load, name, flag
):
    # The libraries sleep before they try again, for more than a minute together.
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("a library tries again"))
    with pytest.raises(UserError) as caught:
        load()
    message = str(caught.value)
    assert name in message and "not found offline" in message and f"{flag}=FOLDER" in message
    assert "\n" not in message
    assert "can't be reached: models are looked for on this machine" in capsys.readouterr().err
    assert offline.HF_HUB_OFFLINE


def test_folders_and_a_hub_that_answers_ask_and_change_nothing(offline, tmp_path, monkeypatch):
    hub.settle(str(tmp_path))
    hub.settle("/none")
    assert not offline.HF_HUB_OFFLINE
    monkeypatch.setattr(hub, "_answers", lambda _: True)
    hub.settle("owner/name")
    assert not offline.HF_HUB_OFFLINE


def test_a_server_that_never_answers_is_given_up(monkeypatch):
    monkeypatch.setattr(hub, "_SECONDS", 0.2)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: threading.Event().wait(5))
    started = time.monotonic()
    assert not hub._answers("http://never.invalid")
    assert time.monotonic() - started < 3
