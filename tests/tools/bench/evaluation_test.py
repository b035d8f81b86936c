from tools.bench.evaluation import lengths


def test_a_test_set_has_the_size_of_ucf_crimes():
    lengths_V = lengths(290, 69_634)
    assert lengths_V.sum() == 69_634 and len(lengths_V) == 290 and lengths_V.min() >= 8
