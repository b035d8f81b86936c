"""Answers of a model to the request for a pair, and ways to spoil them."""

import json

from generation.prompts import by_chat
from generation.prompts.slots import Slot, plan_slot
from tests.support.chat_server import write_pair

FIGHT = plan_slot(6, 0)


def answer(spoil=lambda pair: pair, slot: Slot = FIGHT) -> by_chat.Pair:
    """A good answer to the request for a slot's pair, spoiled by a function."""
    pair = write_pair({"messages": by_chat.first_messages(slot)})
    return by_chat.Pair.model_validate(spoil(pair))


def change(twin: str, **fields):
    """A function that changes fields of one twin."""
    return lambda pair: pair | {twin: pair[twin] | fields}


def swap(pair):
    """Puts the texts of each twin under the other's label."""
    named = {name: pair[name] | {"label": name} for name in ("abnormal", "normal")}
    return pair | {
        "abnormal": named["normal"] | {"label": "abnormal"},
        "normal": named["abnormal"] | {"label": "normal"},
    }


def arm(pair):
    """Gives the subject of both twins a gun."""
    subject = pair["normal"]["subject"]
    return json.loads(json.dumps(pair).replace(subject, "two men with a gun"))
