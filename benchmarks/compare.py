"""# How objstore compares

With packages that keep Python objects on disk, and with the best loop that one writes by hand on `lmdb`
and `pickle`, without digests.

Contenders are compared within a class of safety, never across two. They take turns in short rounds of
one process; figures are medians, and in brackets how many times what objstore takes (what the first
contender takes where objstore is not in the table). The best of each row is **bold**, `-` is what
somebody cannot do. The machine's speed drifts; mind the ratios.
"""

from __future__ import annotations

from benchmarks import footprint, parallel, report, scale, works
from benchmarks.report import Section

SECTIONS = {
    "operations": Section(
        "Operations",
        "A small item is a dict of five entries, 74 to 82 bytes as a pickle, and 20,000 of them are in each store. "
        "Puts replace other values (SQLite leaves a page alone that would not change, so none is put twice running); "
        "bulk puts add new items in the order of their keys. A DataFrame has "
        "8 columns of numbers, a time, a category and a text. What is read is a private copy, except in the rows "
        "that say otherwise: there large buffers are views of the file. ZODB hands out the object that its "
        "connection holds; the connection forgets what it holds before each turn. joblib.Memory memoizes "
        "functions; small items, `in` and batches do not apply to it.",
        works.tables,
    ),
    "scale": Section("Number of keys", "", scale.tables),
    "threads": Section("Threads", "", parallel.threads),
    "processes": Section("Processes", "", parallel.processes),
    "footprint": Section(
        "Footprint",
        "Each contender in the mode that survives a kill, or what comes nearest; safety plays no part in these.",
        footprint.tables,
    ),
}

IN_README = [
    ("operations", "operations, full"),
    ("operations", "operations, survives a kill"),
    ("threads", "threads"),
]

if __name__ == "__main__":
    assert __doc__
    report.main("comparison", __doc__, "compare", SECTIONS, in_readme=IN_README)
