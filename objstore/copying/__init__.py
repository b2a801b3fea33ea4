"""Copying: a store to another place, on whatever engine, so that it moves from a machine to a cluster and back.

What is copied are records, as they lie there; nothing is decoded or expanded.  A tree key is the same in every store,
and a digest covers nothing but that and the record, so what is not sealed is copied byte by byte, after its digest
was verified.  A seal covers the id of the store, so what is sealed is opened, and sealed for the other one, unless the
other one has the same id.  Counts, indexes and all else that the library keeps follow from the writes.

`records` goes through what is to be copied, a store or a dump of one; `work` makes a store the same as that, and goes
on where it was interrupted; `stores` opens the two, and has `copy`.
"""
