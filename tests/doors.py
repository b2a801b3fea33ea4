"""The ways to a value: whatever reads one, of a mapping of any kind, to be tried with a record that must be refused."""

from __future__ import annotations

VICTIM = "victim"  # the last key, for `popitem`
OTHERS = {"a": [1], "b": [2]}


def one(mapping):
    return mapping[VICTIM]


def change(value):
    return [*value, "changed"]


def edit(store):
    with store.edit(VICTIM) as value:
        value.append("changed")


def edit_default(store):
    with store.edit(VICTIM, default_factory=list) as value:
        value.append("changed")


def in_snapshot(function, **options):
    def door(store):
        with store.snapshot(**options) as snapshot:
            function(snapshot)

    return door


def in_transaction(function):
    def door(store):
        with store.transaction() as txn:
            function(txn)

    return door


def in_savepoint(function):
    def door(store):
        with store.transaction() as txn, txn.transaction() as inner:
            function(inner)

    return door


READING = {
    "[]": lambda m: m[VICTIM],
    "get": lambda m: m.get(VICTIM, "default"),
    "items": lambda m: list(m.items()),
    "items, reversed": lambda m: list(reversed(m.items())),
    "values": lambda m: list(m.values()),
    "in values": lambda m: "nothing" in m.values(),
    "in items": lambda m: (VICTIM, [3]) in m.items(),
    "get_many": lambda m: m.get_many(["a", VICTIM, "b"]),
    "range": lambda m: list(m.range("c").values()),
    "range, []": lambda m: m.range("c")[VICTIM],
    "range of a prefix": lambda m: list(m.range(prefix="v").items()),
    "entry": lambda m: m.entry(VICTIM).value,
    "entries": lambda m: [entry.value for entry in m.entries()],
    "==": lambda m: m == {**OTHERS, VICTIM: [3]},
    "!=": lambda m: m != {},
    "dict": lambda m: dict(m),
    "|": lambda m: m | {},
    "update of another": lambda m: {}.update(m),
}

WRITING = {
    "pop": lambda m: m.pop(VICTIM),
    "pop with default": lambda m: m.pop(VICTIM, "default"),
    "popitem": lambda m: m.popitem(),
    "setdefault": lambda m: m.setdefault(VICTIM, [4]),
    "compare_and_set": lambda m: m.compare_and_set(VICTIM, [3], [4]),
    "increment": lambda m: m.increment(VICTIM, [4], []),
    "modify": lambda m: m.modify(VICTIM, change),
    "modify with default": lambda m: m.modify(VICTIM, change, default=[]),
    "edit": edit,
    "edit with default": edit_default,
    "touch": lambda m: m.touch(VICTIM, 60),
    "touch for ever": lambda m: m.touch(VICTIM, None),
}
