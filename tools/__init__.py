"""Commands around the two sides: imports, checks, studies, reports, benchmarks."""
