import collections

from generation.prompts import by_chat
from generation.prompts.slots import plan_slot
from tests.support.chat_server import text_of


def test_the_plan_is_balanced_and_later_visits_ask_for_other_scenes():
    slots = [plan_slot(i, 0) for i in range(2 * 13 * 30)]
    cells = collections.Counter((s.cls, s.viewpoint, s.location) for s in slots)
    assert len(cells) == 13 * 5 * 6 and set(cells.values()) == {2}
    asked = [text_of({"messages": by_chat.first_messages(slot)}) for slot in slots]
    assert len(set(asked)) == len(slots)
    assert "Take: 1" in asked[0] and "find others" not in asked[0]
    assert "Take: 2" in asked[-1] and "find others" in asked[-1]
