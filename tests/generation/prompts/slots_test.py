import collections

import pytest

from generation.prompts import by_chat
from generation.prompts.descriptions import CLASSES
from generation.prompts.slots import parse_classes, plan_slot
from gvvad_jax.command import UserError
from tests.support.chat_server import text_of


def test_the_plan_is_balanced_and_later_visits_ask_for_other_scenes():
    slots = [plan_slot(i, 0) for i in range(2 * 13 * 30)]
    cells = collections.Counter((s.cls, s.viewpoint, s.location) for s in slots)
    assert len(cells) == 13 * 5 * 6 and set(cells.values()) == {2}
    asked = [text_of({"messages": by_chat.first_messages(slot)}) for slot in slots]
    assert len(set(asked)) == len(slots)
    assert "Take: 1" in asked[0] and "find others" not in asked[0]
    assert "Take: 2" in asked[-1] and "find others" in asked[-1]


def test_classes_take_turns_and_a_pair_of_a_name_is_the_same_among_any_others():
    few = [plan_slot(i, 4, ("Assault", "Fighting")) for i in range(7)]
    assert [slot.name for slot in few] == [
        *("Assault-0000", "Fighting-0000", "Assault-0001", "Fighting-0001"),
        *("Assault-0002", "Fighting-0002", "Assault-0003"),
    ]
    by_name = {slot.name: slot for slot in (plan_slot(i, 4) for i in range(13 * 4))}
    assert all(slot == by_name[slot.name] for slot in few)


def test_classes_are_a_set_of_known_names():
    assert parse_classes("") == CLASSES == parse_classes(",".join(reversed(CLASSES)))
    assert parse_classes("Fighting, Assault,Fighting") == ("Assault", "Fighting")
    for text, wrong in (("Fighting,Theft", "Theft"), ("fighting", "fighting"), ("Arson,", "")):
        with pytest.raises(UserError) as caught:
            parse_classes(text)
        assert str(caught.value) == (
            "--classes: expected names of Abuse, Arrest, Arson, Assault, Burglary, Explosion, "
            "Fighting, RoadAccidents, Robbery, Shooting, Shoplifting, Stealing, Vandalism, "
            f"separated by commas, found {wrong!r}; correct the flag"
        )
