from tools.bench import tables


def test_sections_become_tables():
    row = {"seconds": 0.0123, "torch_seconds": 7200.0, "ratio": 3.14, "ratios": [3.2, 3.1],
           "share_of_matmul_peak": 0.61}  # fmt: skip
    run = {"seconds": 900.0, "step_seconds": 1.5, "evaluation_seconds": 25.0, "evaluations": 28.06}
    figures = {
        "machine": {"name": "A CPU", "cores": 2},
        "step": {"lap": {"32": row | {"precisions": {"tf32": row}}}, "rtfm": {"64": row}},
        "run": {"fast": run | {"ratio": 30.0}, "evaluation": {"ratio": 2.2}},
        "streaming": {
            "rtfm": {"8": {"ms": 1.25, "first_ms": 104.4, "mflop": 26.04, "mflop_cached": 3.65}},
            "delay": {"detector": "rtfm", "frame_ms": 3.9},
        },
        "crops": {"all": {"auc": 0.9, "deviation": 0.01, "difference": 0.0,
                          "difference_deviation": 0.0}},
    }  # fmt: skip
    lines = tables.markdown(figures).splitlines()
    assert lines[0] == "A CPU, 2 cores"
    cells = "12 ms | 2 h | **3.1** (3.1, 3.2) | - | - | 0.61 | - |"
    assert f"| lap | 32 | tf32 | {cells}" in lines and f"| rtfm | 64 | float32 | {cells}" in lines
    assert "| fast | 15 min | 1.5 s | 25 s | 28 | **30.0** |" in lines
    assert "| rtfm | 8 | 1.2 ms | 104 ms | 26.0 | 3.6 |" in lines
    assert "| all | 0.900 +- 0.010 | +0.000 +- 0.000 |" in lines
