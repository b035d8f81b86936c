"""The report of `python -m tools.bench --gpu`: what a GPU gives, in eight minutes."""
