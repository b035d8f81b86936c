from tools.bench.workers import interleaved


def test_sides_take_turns():
    order = []
    sides = {name: lambda name=name: order.append(name) or float(len(order)) for name in "ab"}
    times = interleaved(sides, 2)
    assert order == ["a", "b", "b", "a"]
    assert times == {"a": [1.0, 4.0], "b": [2.0, 3.0]}
