"""objstore: a dictionary that lives on disk; ordered, transactional, and almost as fast as LMDB and pickle.

The public names and nothing else; `import objstore` loads no optional dependency.  What copies, imports and exports is
loaded when somebody first asks for one of its names: most processes never do.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from objstore.audit import Damage as Damage
from objstore.cache import Cache as Cache
from objstore.cache import CacheStats as CacheStats
from objstore.calls.values import register_key as register_key
from objstore.checking import CheckReport as CheckReport
from objstore.checking import check as check
from objstore.codecs.base import Codec as Codec
from objstore.codecs.compression import Compression as Compression
from objstore.codecs.pickling import Pickle as Pickle
from objstore.codecs.raw import Bytes as Bytes
from objstore.codecs.structured import Json as Json
from objstore.codecs.structured import Msgpack as Msgpack
from objstore.engines.base import Activity as Activity
from objstore.engines.base import Held as Held
from objstore.errors import BadSignature as BadSignature
from objstore.errors import Conflict as Conflict
from objstore.errors import CorruptRecord as CorruptRecord
from objstore.errors import DecodeError as DecodeError
from objstore.errors import EncodeError as EncodeError
from objstore.errors import EngineUnavailable as EngineUnavailable
from objstore.errors import OutcomeUnknown as OutcomeUnknown
from objstore.errors import ReadOnlyStore as ReadOnlyStore
from objstore.errors import SourceError as SourceError
from objstore.errors import StoreClosed as StoreClosed
from objstore.errors import StoreCorrupt as StoreCorrupt
from objstore.errors import StoreDenied as StoreDenied
from objstore.errors import StoreError as StoreError
from objstore.errors import StoreExists as StoreExists
from objstore.errors import StoreFull as StoreFull
from objstore.errors import StoreLocked as StoreLocked
from objstore.errors import StoreNotFound as StoreNotFound
from objstore.errors import StoreReplaced as StoreReplaced
from objstore.errors import StoreSuspect as StoreSuspect
from objstore.errors import TransactionError as TransactionError
from objstore.errors import UnsealedWarning as UnsealedWarning
from objstore.errors import UnsupportedOperation as UnsupportedOperation
from objstore.errors import WrongKind as WrongKind
from objstore.keys import LostKey as LostKey
from objstore.mapping import DEFAULT as DEFAULT
from objstore.memoize import CacheInfo as CacheInfo
from objstore.memoize import Memoized as Memoized
from objstore.rekeying import RekeyReport as RekeyReport
from objstore.salvaging import SalvageReport as SalvageReport
from objstore.salvaging import salvage as salvage
from objstore.store import Stats as Stats
from objstore.store import Store as Store
from objstore.transaction import Snapshot as Snapshot
from objstore.transaction import Transaction as Transaction
from objstore.views import Entry as Entry
from objstore.views import Payload as Payload
from objstore.views import Range as Range

if _TYPE_CHECKING:
    from objstore.copying.stores import copy as copy
    from objstore.copying.work import CopyReport as CopyReport
    from objstore.exchange.dumps import RestoreReport as RestoreReport
    from objstore.exchange.dumps import restore as restore
    from objstore.exchange.exporting import ExportReport as ExportReport
    from objstore.exchange.exporting import export as export
    from objstore.exchange.importing import import_into as import_into
    from objstore.exchange.reports import ImportReport as ImportReport
    from objstore.exchange.reports import Left as Left

__version__ = "0.1.0"

_LOADED_LATER = {
    "copy": "objstore.copying.stores",
    "CopyReport": "objstore.copying.work",
    "RestoreReport": "objstore.exchange.dumps",
    "restore": "objstore.exchange.dumps",
    "ExportReport": "objstore.exchange.exporting",
    "export": "objstore.exchange.exporting",
    "import_into": "objstore.exchange.importing",
    "ImportReport": "objstore.exchange.reports",
    "Left": "objstore.exchange.reports",
}

if not _TYPE_CHECKING:  # else a type checker would take every name for one that may be there

    def __getattr__(name: str) -> _Any:
        """A name that was not asked for before.  Raises AttributeError."""
        if name not in _LOADED_LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        found = globals()[name] = getattr(import_module(_LOADED_LATER[name]), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LOADED_LATER})

    __all__ = [name for name in __dir__() if not name.startswith("_")]  # a star would not ask for the late ones
