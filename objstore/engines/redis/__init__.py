"""The engine on Valkey and Redis, one server or a cluster of them.

`location` is what a URL says, `driver` the door to the client packages, `nodes` the servers and the connections to
each, `verdicts` what an error means, `routing` where a command goes and what is done when that fails, `layout` under
which names things lie, `scripts` what runs on the servers, `walking` and `shards` the tree that all this looks like,
`leases` the claims, `engine` the engine.
"""

from objstore.engines.redis.engine import open_redis

__all__ = ["open_redis"]
