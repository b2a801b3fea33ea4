"""Codecs turn objects into bytes and back.

`base` is the contract and `table` the list of those that there are: `pickling`, `raw` and `structured`.  The rest
is what they are made of: `arrays` for the arrays of NumPy, and `names`, `rehearsing` and `restricting` for pickles
that may not name everything.
"""
