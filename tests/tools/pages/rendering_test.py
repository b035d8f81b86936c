from tools.pages import rendering


def test_points_have_one_decimal():
    assert rendering.points([(0, 1.25), (2.04, 3)]) == "0.0,1.2 2.0,3.0"
