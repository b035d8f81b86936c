import pytest

from tests.support.chat_server import ChatServer
from tests.support.colours import KEY, name_colour


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def fake():
    with ChatServer(name_colour) as server:
        yield server
