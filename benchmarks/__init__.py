"""Benchmarks: what objstore costs, beside what one would write by hand.

    python -m benchmarks.ratios        the ratios that the design promises, in one table
    python -m pytest benchmarks        each operation under pytest-benchmark, both contenders side by side

`handwritten` and `ours` are the contenders: modules with the same functions.
"""
