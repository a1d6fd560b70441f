"""Experiments, one script each: `python -m benchmarks.NAME --help`, from a checkout."""
