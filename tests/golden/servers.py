"""Writes the golden store on servers: `python tests/golden/servers.py FILE`, from the directory `tests`.

As in `make`, whose items it has.  A dump says of each key on the servers its name, type and content, as JSON; what is
binary is zlib and base64.
"""

from __future__ import annotations

import base64
import json
import sys
import zlib
from pathlib import Path

HERE = Path(__file__).parent
NAME = "golden"
BUCKETS = 3


def text(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content, 9)).decode()


def binary(content: str) -> bytes:
    return zlib.decompress(base64.b64decode(content))


def dump(server) -> dict[str, list]:
    """Everything on a server that stands alone, by name."""
    names = server.call("KEYS", b"*")
    found = {}
    for name in sorted(names):
        kind = server.call("TYPE", name)
        kind = kind if isinstance(kind, str) else kind.decode()
        if kind == "string":
            content = text(server.call("GET", name))
        elif kind == "zset":
            flat = server.call("ZRANGE", name, 0, -1, "WITHSCORES")
            content = [[text(key), int(float(score))] for key, score in zip(flat[::2], flat[1::2], strict=True)]
        else:
            flat = server.call("HGETALL", name)
            content = sorted([text(key), text(value)] for key, value in zip(flat[::2], flat[1::2], strict=True))
        found[text(name)] = [kind, content]
    return found


def restore(server, dumped: dict[str, list]) -> None:
    """Put all of it onto a server."""
    for name, (kind, content) in dumped.items():
        if kind == "string":
            server.call("SET", binary(name), binary(content))
        elif kind == "zset":
            for key, score in content:
                server.call("ZADD", binary(name), score, binary(key))
        else:
            for key, value in content:
                server.call("HSET", binary(name), binary(key), binary(value))


def write(url: str) -> None:
    """The items of `make`, and a claim on nothing."""
    from golden import make

    from objstore import Store

    with Store(url, clock=lambda: make.NOW) as store:
        for name in ("", *make.NAMESPACES_1):
            space = store.namespace(name) if name else store
            for key, item in make.NAMESPACES_1.get(name, make.FORMAT_1).items():
                space.set(key, item.value, ttl=item.ttl, tags=item.tags)


def main(path: str) -> None:
    sys.path.insert(0, str(HERE.parent))
    from servers import chosen, memory_directory, needed, start_single

    with memory_directory() as directory, start_single(directory, needed(chosen())) as server:
        write(server.url(NAME, buckets=BUCKETS))
        dumped = dump(server)
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(content)}" for name, content in dumped.items())
    Path(path).write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
