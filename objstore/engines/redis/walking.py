"""Walking: the keys of many buckets in one order.

Each bucket gives its keys in order, page by page.  A round asks all buckets that have run short, at once; what is known
then of the order goes as far as the bucket that is known least far.  The first pages are small, so that a walk
that ends early costs little, and then they grow.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

_FIRST_PAGE, _LARGEST_PAGE = 4, 512

Pages = Callable[[list[tuple[int, bytes | None]], int], list[tuple[list[bytes], bytes | None]]]
"""For each bucket and the key behind which to go on (None at its beginning), so many keys at most.

They, and the last one that was looked at, or None where there are no more.
"""


def walk(buckets: Iterable[int], pages: Pages, reverse: bool) -> Iterator[list[bytes]]:
    """The keys of these buckets in order, in lists that follow each other; none is given twice."""
    waiting: dict[int, list[bytes]] = {bucket: [] for bucket in buckets}
    position: dict[int, bytes | None] = dict.fromkeys(waiting)  # of those that may have more
    size = _FIRST_PAGE
    while position:
        short = [bucket for bucket in position if len(waiting[bucket]) <= size // 4]
        for bucket, (keys, last) in zip(short, pages([(each, position[each]) for each in short], size), strict=True):
            waiting[bucket] += keys
            if last is None:
                del position[bucket]
            else:
                position[bucket] = last
        size = min(2 * size, _LARGEST_PAGE)
        known = list(position.values())
        if not known:
            break
        ready = []
        bound = max(known) if reverse else min(known)  # type: ignore[type-var]  # all of these have begun
        for bucket, keys in waiting.items():
            count = _count_until(keys, bound, reverse)  # type: ignore[arg-type]
            ready.append(keys[:count])
            waiting[bucket] = keys[count:]
        yield sorted(chain.from_iterable(ready), reverse=reverse)
    yield sorted(chain.from_iterable(waiting.values()), reverse=reverse)


def _count_until(keys: list[bytes], bound: bytes, reverse: bool) -> int:
    """How many of the first keys do not lie behind the bound."""
    if not reverse:
        return bisect_right(keys, bound)
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] >= bound:
            low = middle + 1
        else:
            high = middle
    return low
