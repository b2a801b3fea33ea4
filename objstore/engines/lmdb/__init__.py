"""The embedded engine: one LMDB environment, in one directory.

Only this room imports `lmdb`, and no exception of it passes (`errors`).  What LMDB asks of its users,
each reproduced in a test, is done here and nowhere else:

* One environment per file and process, shared by all handles: LMDB's locks are POSIX record locks,
  which a second open and close of the same file would drop.  (`registry`, `opening`)
* The map is reserved, not resized: as large as the file system could ever hold.  It is sparse and costs
  nothing, and no reader is ever moved.  Where the platform refuses, a smaller map grows.  (`engine`)
* A data file that was cut short is refused before it is mapped.  (`datafile`)
* Readers that were killed are cleared away at open, by those who write, and when their slots are wanted.  (`engine`)
* Nobody writes into a file that was replaced or deleted while it was open.  (`engine`)
* A file that may be damaged is read without LMDB.  (`datafile`, `structure`, `offline`)
* Threads wait for each other here, not in LMDB: its lock can be lost where two of a process do.  (`turns`)
* Transactions end so that neither a fork nor a thread is harmed by it.  (`transactions`, `forks`)
* The engine of LMDB 0.9 is asked for by name: the file format of 1.0 is another.  (`engine`)

Environment and txn are LMDB's words and stay in this room.
"""

from objstore.engines.lmdb.engine import Options as Options
from objstore.engines.lmdb.offline import Remains as Remains
from objstore.engines.lmdb.offline import inspect as inspect
from objstore.engines.lmdb.offline import inspecting as inspecting
from objstore.engines.lmdb.offline import make_store as make_store
from objstore.engines.lmdb.offline import remaining as remaining
from objstore.engines.lmdb.opening import open_lmdb as open_lmdb
