"""Caching, measured: what `python -m benchmarks.caching` prints, a section a module.

`contenders` says who takes part and how each is set up, `team` runs processes that work at the same time, and `sizes`
says how much is done.  The sections are `hits` (memoized functions), `load` (the operations of a cache, and a mixed
load), `policies` (how often a policy is right), `bounds` (what a bound means on the disk) and `once` (one computation
for many callers).  Each gives lines of Markdown.
"""
