"""Caching: memoized functions and bounded caches, beside their peers: `python -m benchmarks.caching`.

It prints Markdown, in two minutes.  Contenders take turns in short rounds of one process, or of one team of processes;
figures are medians, and ratios are taken within a round.  Nothing is asserted.  The caches lie in the directory for
temporary files; TMPDIR names another.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.caches import bounds, hits, load, once, policies
from benchmarks.caches.contenders import PACKAGES
from benchmarks.caches.sizes import FULL, QUICK, Size
from benchmarks.caches.team import Team
from benchmarks.measure import machine, packages, today

SECTIONS: dict[str, Callable[[Size, str, Team], Iterator[str]]] = {
    "hits": hits.hits,
    "operations": load.operations,
    "mixed": load.mixed,
    "policies": policies.policies,
    "bounds": bounds.bounds,
    "once": once.once,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caching", description=__doc__.split(":")[0])
    parser.add_argument("--quick", action="store_true", help="small and short: that it runs, not what it shows")
    parser.add_argument("--only", metavar="NAME", default="", help=f"a section: {', '.join(SECTIONS)}")
    arguments = parser.parse_args()
    size = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(prefix="objstore-") as directory:
        versions = packages(PACKAGES)
        print(f"{today()}, {machine(directory)}")
        print(f"Python {platform.python_version()}, {', '.join(map(' '.join, versions.items()))}", end="\n\n")
        team = Team()
        for name, section in SECTIONS.items():
            if arguments.only in name:
                place = Path(directory, name)
                place.mkdir()
                for line in section(size, str(place), team):
                    print(line, flush=True)
        team.end()


if __name__ == "__main__":
    main()
