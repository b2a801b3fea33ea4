"""Calls: what a call of a function is to a cache, the same in every process, and for how long it means the same.

`source` reads what a function is made of, `values` writes arguments down as a text that equal ones share (`arrays`
those of NumPy and pandas), and `functions` makes the key of a call of them.  Nothing here knows of stores.
"""
