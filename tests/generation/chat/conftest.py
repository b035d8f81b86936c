import pytest

# What a fixture needs beyond the core is imported inside it: without its extra a test is skipped.


@pytest.fixture(autouse=True)
def key(monkeypatch):
    from tests.support.colours import KEY

    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def fake():
    from tests.support.chat_server import ChatServer
    from tests.support.colours import name_colour

    with ChatServer(name_colour) as server:
        yield server
