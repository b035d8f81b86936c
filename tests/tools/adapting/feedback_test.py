"""Feedback: every wrong row is named at once; which snippets it labels."""

import numpy as np
import pytest

from gvvad_jax.command import UserError
from tools.adapting import feedback
from tools.adapting.feedback import Row

TIMES = np.stack([np.arange(0, 10, 2.0), np.arange(0, 10, 2.0) + 4], axis=1)  # Middles 2 to 10.


def _write(folder, text):
    (folder / "labels.csv").write_text(text, encoding="utf-8")
    return str(folder / "labels.csv")


def test_rows_are_read_with_the_columns_in_any_order_and_others_beside_them(tmp_path):
    path = _write(tmp_path, "\ufefflabel,video,peak,start,end\r\n1, a.mp4 ,0.9,0,2.5\r\n\r\n"
                  '0,"b,c.mp4",,3,4\r\n')  # fmt: skip
    assert feedback.read(path) == [
        Row(2, "a.mp4", 0.0, 2.5, 1),
        Row(4, "b,c.mp4", 3.0, 4.0, 0),
    ]


def test_all_wrong_rows_are_named_at_once(tmp_path):
    rows = ["a,0,1,1", ",0,1,1", "a,x,1,1", "a,-1,1,1", "a,2,1,1", "a,0,inf,1", "a,0,1,2", "a,0,1"]
    with pytest.raises(UserError) as error:
        feedback.read(_write(tmp_path, "video,start,end,label\n" + "\n".join(rows)))
    message = str(error.value)
    assert "\n" not in message and "line 2" not in message
    for said in (
        "line 3: video: expected a name",
        "line 4: start: expected seconds from 0, found 'x'",
        "line 5: start: expected seconds from 0, found '-1'",
        "line 6: end: expected above start 2, found 1",
        "line 7: end: expected seconds from 0, found 'inf'",
        "line 8: label: expected 0 or 1, found '2'",
        "line 9: label: expected 0 or 1, found ''",
    ):
        assert said in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: expected the columns video,start,end,label"),
        ("video,start,end\na,0,1\n", "add label"),
        ("video,start,end,label,label\na,0,1,1,1\n", "each once"),
        ("video,start,end,label\n", "expected rows of feedback, found none"),
        ("video,start,end,label\n" + "a,0,1,7\n" * 25, "and 5 more"),
        ("video,start,end,label\n" + "a" * 200_000, "found another file .field larger than"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        feedback.read(_write(tmp_path, text))


def test_snippets_are_labelled_by_their_middles():
    rows = [Row(2, "v", 0, 4, 0), Row(3, "v", 6, 8.5, 1), Row(4, "w", 2.5, 3, 1)]
    labels = feedback.labels("labels.csv", rows, {"v": TIMES, "w": TIMES})
    # The interval without a middle labels the snippet that is nearest to it.
    assert labels["v"].tolist() == [0, -1, 1, 1, -1] and labels["w"].tolist() == [1, -1, -1, -1, -1]


def test_rows_past_the_end_and_contradictions_are_named_at_once():
    rows = [Row(2, "v", 0, 4, 0), Row(3, "v", 2, 5, 1), Row(4, "v", 20, 21, 1)]
    with pytest.raises(UserError) as error:
        feedback.labels("labels.csv", rows, {"v": TIMES})
    assert str(error.value) == (
        "labels.csv: line 3: label: expected that of line 2, which overlaps, found 1; line 4: end: "
        "expected within the 12.0 s of v, found 20 to 21; correct the rows"
    )
