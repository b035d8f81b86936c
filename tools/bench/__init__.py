"""Speed and memory measurements; `python -m tools.bench` runs them."""
