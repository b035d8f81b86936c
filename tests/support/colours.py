"""Requests that ask a chat server for colours, for the tests of its client."""

import pydantic

from generation.chat import client
from generation.chat.options import ChatOptions
from tests.support.chat_server import ChatServer, text_of

KEY = "sk-secret-0123456789"


class Colour(pydantic.BaseModel):
    name: str
    length: int


def name_colour(body):
    """The content of an answer to `request`."""
    name = text_of(body).split()[-1]
    return {"name": name, "length": len(name)}


def connect(fake: ChatServer, **changes) -> client.Server:
    """A client of the server that does not wait long."""
    options = {"chat_model": "painter", "base_url": fake.url, "backoff": 0.001, "timeout": 10.0}
    return client.Server(ChatOptions(**(options | changes)))


def request(name: str, schema: type[pydantic.BaseModel] = Colour) -> client.Request:
    return client.Request(name, [{"role": "user", "content": f"Name it: {name}"}], schema)


def ask_all(server: client.Server, *names: str) -> list[client.Answer | client.Failed]:
    return server.ask_all([request(name) for name in names], progress=False)


def ask(server: client.Server, name: str) -> Colour:
    """The value of the answer; raises the failure if there is none."""
    (answer,) = ask_all(server, name)
    if isinstance(answer, client.Failed):
        raise answer
    return answer.value
