"""Benchmarks: what objstore costs, beside its peers and what one would write by hand.

    python -m benchmarks.compare       objstore beside its peers: docs/comparison.md and charts (11 minutes)
    python -m benchmarks.growth        how the cost grows with keys, values and data: docs/growth.md
    python -m benchmarks.trust         what seals, codecs and compression add to a record
    python -m benchmarks.caching       memoized functions and bounded caches beside their peers
    python -m benchmarks.servers       a store on servers beside the client that it uses, on a cluster of six processes
    python -m benchmarks.ratios        the ratios that the design promises, in one table
    python -m pytest benchmarks        each operation under pytest-benchmark, all contenders side by side

`ours`, `handwritten` and the `peers` are the contenders; `contender` says what one is, `measure` how it is
measured, `tables`, `charts` and `report` how that becomes a document.  `works`, `scale`, `parallel` and
`footprint` are the sections of the comparison, the modules in `caches` those of `caching`.  The peers,
matplotlib and pandas come with the extra `bench`; what is missing is left out and named.
"""
