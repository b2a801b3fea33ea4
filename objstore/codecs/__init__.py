"""Codecs turn objects into bytes and back, and what stands between them and a record makes bytes of bytes.

`base` is the contract of a codec and `table` the list of those that there are: `pickling`, `raw` and `structured`.
What they are made of: `arrays` for the arrays of NumPy; `names`, `rehearsing` and `restricting` for pickles that may
not name everything.  The two stages behind a codec are `compression` and `sealing`, with the keys in `keyring`.
"""
