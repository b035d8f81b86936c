"""Which cells are marked: those that move more than in the quiet part of the same video."""

import cv2
import numpy as np
import pytest

from generation.encoders.motion import MotionEncoder
from generation.media import reading
from tests.support import watched_runs
from tools.watching import cells


def pictures(path):
    return [picture for _, picture in reading.Reader(path).frames(range(1000))]


@pytest.mark.parametrize("encoder", [MotionEncoder(), object()], ids=["flow", "difference"])
def test_the_cells_of_what_moves_stand_out(tmp_path, encoder):
    path = watched_runs.write_scene(tmp_path / "a.mp4", seconds=6, moves=(3, 5))
    meter = cells.meter_for(encoder)
    small = [meter.small(picture) for picture in pictures(path)]
    moved = np.stack([meter.measure(*small[t : t + 2], 0.1) for t in range(59)])
    found = cells.marked(cells.deviations(moved[31:48], moved[:28]))
    # The box covers columns 64 to 92 of 96 and rows 48 to 64 of 64: the lowest row's last cells.
    assert {(3, 4), (3, 5)} <= {cell[:2] for cell in found}
    # Flow is smooth: of so small a picture it reaches into the next cells.
    assert all(row >= 2 and column >= 3 for row, column, _ in found)
    assert all(value >= cells.MARKED_FROM for *_, value in found)
    assert [value for *_, value in found] == sorted((v for *_, v in found), reverse=True)


def test_a_cell_where_nothing_ever_moved_does_not_stand_out_by_noise():
    quiet_QxRxC = np.zeros((10, 1, 3))
    quiet_QxRxC[:, 0, 1:] = np.linspace(0, 2, 10)[:, None]
    event_SxRxC = np.array([[[0.1, 3.0, 1.0]]])
    assert int(np.argmax(cells.deviations(event_SxRxC, quiet_QxRxC))) == 1
    # One cell is always marked, others from three deviations on, at most six.
    assert cells.marked(np.array([[0.5, 0.1]])) == [(0, 0, 0.5)]
    assert len(cells.marked(np.full((4, 6), 9.0))) == cells.MOST_MARKED


def test_cells_are_drawn_where_they_are_and_pictures_may_be_tiny():
    image_HxWx3 = np.zeros((41, 60, 3), np.uint8)
    drawn = cells.draw(image_HxWx3, [(1, 2, 5.0)], (4, 6))
    rows, columns = np.nonzero(drawn.any(axis=2))
    # 41 rows in four parts: 11, 10, 10, 10.
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (11, 20, 20, 29)
    meter = cells.DifferenceMeter()
    tiny_HxW = cv2.GaussianBlur(np.zeros((2, 3), np.uint8), (0, 0), 1.0)
    assert meter.measure(tiny_HxW, tiny_HxW, 0.1).shape == (4, 6)
