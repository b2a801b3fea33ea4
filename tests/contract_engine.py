"""What every engine does, said once: subclass `EngineContract`, or `TreeContract`, and give it an `engine` fixture."""

from __future__ import annotations

import threading
from contextlib import suppress

import children
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import EXAMPLES

from objstore.engines.base import DURABILITY_KEY, MAX_KEY_BYTES, Engine
from objstore.errors import StoreError, TransactionError
from objstore.record import HEAD_BYTES, pack

few_or_many = settings(
    max_examples=EXAMPLES,
    deadline=None,  # a commit to a disk takes what it takes
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # the tree is emptied before each example
        HealthCheck.differing_executors,  # that is what a contract is for
    ],
)

LETTERS = [b"\x10a", b"\x10b", b"\x10c", b"\x10d", b"\x10e"]


def tree_keys():
    """Keys that meet each other often."""
    return st.lists(st.sampled_from((0x00, 0x61, 0x62, 0xFF)), max_size=3).map(lambda tail: bytes((0x10, *tail)))


def records():
    return st.binary(max_size=5) | st.integers(0, 9000).map(bytes)


def bounds():
    """Start and stop of a scan: in the tree and absent, below and above everything, upside down, open."""
    bound = tree_keys() | st.binary(min_size=1, max_size=4) | st.sampled_from((b"\x00", b"\xff" * 8))
    return st.tuples(bound, st.none() | bound, st.booleans())


def changes():
    put = st.tuples(st.just("put"), tree_keys(), records())
    delete = st.tuples(st.just("delete"), tree_keys())
    return put | put | delete


def apply(change, writer, model):
    """Make one change in the engine and in the model, and compare what they say of it."""
    if change[0] == "put":
        writer.put(change[1], change[2])
        model[change[1]] = change[2]
    else:
        assert writer.delete(change[1]) == (model.pop(change[1], None) is not None)


def stretch(model, start, stop, reverse):
    """The items of a dict that a scan must give."""
    return sorted(
        (item for item in model.items() if start <= item[0] and (stop is None or item[0] < stop)), reverse=reverse
    )


def emptied(engine):
    """Remove all but the library's own; what is left, as a model."""
    engine.transact(lambda writer: writer.delete_range(b"\x10", None))
    return dict(engine.read().scan(b"\x00"))


def fill(engine, keys=LETTERS):
    engine.transact(lambda writer: writer.put_many((key, key[1:]) for key in keys))


def user_keys(reader, **options):
    return list(reader.scan_keys(b"\x10", **options))


class TreeContract:
    """What every engine does, also one without transactions."""

    @pytest.fixture
    def engine(self):
        raise NotImplementedError("give an empty engine, and release it")

    def test_it_records_its_durability(self, engine):
        assert engine.get(DURABILITY_KEY) == engine.durability.encode()

    def test_its_figures_are_numbers(self, engine):
        assert all(isinstance(figure, int) for figure in engine.stats().values())

    def test_it_syncs_when_it_is_told(self, engine):
        fill(engine)
        engine.sync()
        assert user_keys(engine.read()) == LETTERS

    # One key

    def test_what_was_put_is_there(self, engine):
        engine.transact(lambda writer: writer.put(b"\x10k", b"one"))
        assert engine.get(b"\x10k") == b"one"
        assert engine.read().get(b"\x10k") == b"one"
        assert engine.contains(b"\x10k", b"\x10other") == (True, None)

    def test_what_was_never_put_is_none(self, engine):
        assert engine.get(b"\x10k") is None
        assert engine.contains(b"\x10k", b"\x10k") == (False, None)
        assert engine.read().get(b"\x10k") is None

    def test_a_second_put_takes_the_place_of_the_first(self, engine):
        for record in (b"one", b"two" * 3000, b"", b"four"):
            engine.transact(lambda writer, record=record: writer.put(b"\x10k", record))
            assert engine.get(b"\x10k") == record

    def test_delete_says_whether_it_was_there(self, engine):
        fill(engine)
        assert engine.transact(lambda writer: writer.delete(b"\x10b")) is True
        assert engine.transact(lambda writer: writer.delete(b"\x10b")) is False
        assert engine.get(b"\x10b") is None

    @pytest.mark.parametrize("size", [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 1, 4096, 5_000_000])
    def test_records_of_any_size(self, engine, size):
        record = bytes(range(256)) * (size // 256) + bytes(size % 256)
        engine.transact(lambda writer: writer.put(b"\x10k", record))
        assert engine.get(b"\x10k") == record
        assert engine.contains(b"\x10k", b"\x10k") == (True, record)
        assert list(engine.read(views=True).scan_heads(b"\x10")) == [(b"\x10k", record[:HEAD_BYTES], size)]

    @pytest.mark.parametrize("size", [1, 2, MAX_KEY_BYTES - 1, MAX_KEY_BYTES])
    def test_keys_of_any_size(self, engine, size):
        key = b"\x7f" * size
        engine.transact(lambda writer: writer.put(key, b"record"))
        assert engine.get(key) == b"record"
        with_writer = engine.transact(lambda writer: (user_keys(writer), user_keys(writer, reverse=True)))
        assert with_writer == ([key], [key])
        assert user_keys(engine.read()) == user_keys(engine.read(), reverse=True) == [key]

    # Many

    def test_get_many_gives_what_is_there_in_the_order_asked_for(self, engine):
        fill(engine)
        asked = [b"\x10d", b"\x10nothing", b"\x10a", b"\x10", b"\x10c"]
        found = [(b"\x10d", b"d"), (b"\x10a", b"a"), (b"\x10c", b"c")]
        assert engine.read().get_many(asked) == found
        assert engine.read().get_many(iter(asked)) == found
        assert engine.read().get_many([]) == []
        assert engine.transact(lambda writer: writer.get_many(asked)) == found

    def test_put_many_is_put_for_each(self, engine):
        fill(engine, [b"\x10b"])
        engine.transact(lambda writer: writer.put_many([(b"\x10b", b"new"), (b"\x10a", b""), (b"\x10b", b"newer")]))
        assert list(engine.read().scan(b"\x10")) == [(b"\x10a", b""), (b"\x10b", b"newer")]

    def test_put_many_takes_thousands(self, engine):
        items = [(b"\x10%05d" % number, b"%d" % number) for number in range(5000)]
        engine.transact(lambda writer: writer.put_many(reversed(items)))
        assert list(engine.read().scan(b"\x10")) == items
        assert list(engine.read().scan(b"\x10", reverse=True)) == items[::-1]

    def test_put_many_of_nothing_is_nothing(self, engine):
        engine.transact(lambda writer: writer.put_many([]))
        assert user_keys(engine.read()) == []

    def test_count_counts_the_whole_tree(self, engine):
        before = engine.read().count()
        fill(engine)
        assert engine.read().count() == before + 5
        assert engine.transact(lambda writer: (writer.delete(b"\x10a"), writer.count())) == (True, before + 4)

    # Scans, held against a dict

    @few_or_many
    @given(st.dictionaries(tree_keys(), records(), max_size=12), st.lists(bounds(), min_size=1, max_size=6))
    def test_scans_give_what_is_within_the_bounds_in_order(self, engine, items, some_bounds):
        model = emptied(engine) | items
        engine.transact(lambda writer: writer.put_many(items.items()))
        reader, viewer = engine.read(), engine.read(views=True)
        for start, stop, reverse in some_bounds:
            expected = stretch(model, start, stop, reverse)
            assert list(reader.scan(start, stop, reverse)) == expected
            assert list(reader.scan_keys(start, stop, reverse)) == [key for key, _ in expected]
            seen = [(key, record[:HEAD_BYTES], len(record)) for key, record in expected]
            assert list(reader.scan_heads(start, stop, reverse)) == seen
            assert list(viewer.scan_heads(start, stop, reverse)) == seen
            assert list(viewer.scan_keys(start, stop, reverse)) == [key for key, _ in expected]

    @few_or_many
    @given(st.dictionaries(tree_keys(), records(), max_size=12), bounds())
    def test_delete_range_removes_what_a_scan_gives(self, engine, items, bound):
        model = emptied(engine) | items
        engine.transact(lambda writer: writer.put_many(items.items()))
        start, stop, _ = bound
        start = max(start, b"\x10")
        removed = stretch(model, start, stop, False)
        assert engine.transact(lambda writer: writer.delete_range(start, stop)) == len(removed)
        assert dict(engine.read().scan(b"\x00")) == {key: model[key] for key in model.keys() - dict(removed).keys()}

    def test_delete_range_removes_thousands(self, engine):
        fill(engine, [b"\x10%05d" % number for number in range(5000)])
        assert engine.transact(lambda writer: writer.delete_range(b"\x1000100", b"\x1004900")) == 4800
        assert len(user_keys(engine.read())) == 200

    def test_transact_gives_what_the_function_gives(self, engine):
        assert engine.transact(lambda writer, a, *, b: (a, b), 1, b=2) == (1, 2)

    # Claims

    def test_one_at_a_time_has_the_claim_on_a_name(self, engine):
        claim = engine.claim(b"name")
        assert engine.claim(b"name") is None
        assert in_thread(lambda: engine.claim(b"name")) is None
        claim.release()
        assert in_thread(lambda: engine.claim(b"name")) is not None

    def test_other_names_have_other_claims(self, engine):
        claims = [engine.claim(b"%d" % number) for number in range(1000)]
        assert None not in claims
        assert [engine.claim(b"%d" % number) for number in range(1000)] == [None] * 1000
        claims[500].release()
        assert engine.claim(b"500") is not None
        assert engine.claim(b"501") is None

    def test_of_many_threads_one_gets_the_claim(self, engine):
        for number in range(50):
            name, got, barrier = b"%d" % number, [], threading.Barrier(4)

            def take(name=name, got=got, barrier=barrier):
                barrier.wait()
                got.append(engine.claim(name))

            threads = [threading.Thread(target=take) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert sum(claim is not None for claim in got) == 1

    def test_a_claim_is_released_once(self, engine):
        first = engine.claim(b"name")
        first.release()
        second = engine.claim(b"name")
        first.release()
        assert engine.claim(b"name") is None
        assert not first.is_awaited()
        del second
        assert engine.claim(b"name") is not None

    def test_a_claim_that_is_dropped_is_given_up(self, engine):
        claim = engine.claim(b"name")
        assert engine.claim(b"name") is None
        del claim
        assert engine.claim(b"name") is not None

    def test_who_waits_gets_the_claim_when_it_is_free(self, engine):
        claim = engine.claim(b"name")
        waiting = engine.await_claim(b"name")
        assert waiting.poll() is None
        assert not claim.is_awaited()  # by nobody of another process
        claim.release()
        mine = waiting.poll()
        assert mine is not None
        assert engine.claim(b"name") is None
        assert waiting.poll() is None
        mine.release()
        assert waiting.poll() is None  # it got what it waited for
        assert engine.claim(b"name") is not None

    def test_who_waits_no_more_gets_nothing(self, engine):
        waiting = engine.await_claim(b"name")
        waiting.close()
        waiting.close()
        assert waiting.poll() is None
        assert engine.claim(b"name") is not None

    def test_a_claim_leaves_nothing_in_the_tree(self, engine):
        before = dict(engine.read().scan(b"\x00"))
        claim = engine.claim(b"name")
        assert dict(engine.read().scan(b"\x00")) == before
        claim.release()

    def test_a_forked_child_has_no_claim_and_ends_none(self, engine):
        claim = engine.claim(b"name")
        waiting = engine.await_claim(b"other")

        def in_child():
            seen = [claim.is_awaited(), waiting.poll()]
            own = engine.claim(b"of the child")
            claim.release()
            waiting.close()
            return [*seen, own is not None, engine.claim(b"of the child") is None]

        assert children.result(in_child) == [False, None, True, True]
        assert engine.claim(b"name") is None
        assert waiting.poll() is not None
        self.ended_with_its_process(engine, b"of the child")

    def ended_with_its_process(self, engine, name):
        assert engine.claim(name) is not None

    # Handles

    def test_it_closes_with_its_last_handle(self, engine):
        engine.retain()
        engine.release()
        fill(engine)
        assert user_keys(engine.read()) == LETTERS


class EngineContract(TreeContract):
    """What an engine with transactions does."""

    # What it says of itself

    def test_it_is_an_engine_with_a_name_and_a_location(self, engine):
        assert isinstance(engine, Engine)
        assert isinstance(engine.name, str)
        assert isinstance(engine.location, str)
        assert engine.capabilities >= {"ordered", "batches", "transaction", "snapshot"}
        assert not engine.read_only

    @pytest.mark.parametrize("size", [1, 3000, 70_000, 5 << 20])
    def test_a_draft_is_stored_as_the_record_that_it_is(self, engine, size):
        draft = pack(b"\x10k", b"\x80payload", frames=[memoryview(b"f" * size), memoryview(b"g" * size)])

        def put(writer):
            writer.put(b"\x10k", draft)
            assert writer.get(b"\x10k") == bytes(draft)
            inner = writer.savepoint()
            inner.put(b"\x10inner", draft)
            inner.put(b"\x10k", draft)
            inner.commit()
            inner = writer.savepoint()
            inner.put(b"\x10k", b"gone")
            inner.put(b"\x10other", draft)
            inner.abort()
            writer.put(b"\x10again", draft)
            writer.put(b"\x10again", draft)

        for _ in range(3):  # over what is there, too
            engine.transact(put)
        expected = [(key, bytes(draft)) for key in (b"\x10again", b"\x10inner", b"\x10k")]
        assert list(engine.read().scan(b"\x10")) == expected

    def test_a_draft_that_fails_leaves_nothing(self, engine):
        fill(engine)
        buffer = memoryview(bytearray(100_000))
        draft = pack(b"\x10a", b"\x80payload", frames=[buffer])
        buffer.release()
        with pytest.raises(ValueError, match="released"):
            engine.transact(lambda writer: writer.put(b"\x10a", draft))
        assert user_keys(engine.read()) == LETTERS
        assert engine.get(b"\x10a") == b"a"
        writer = engine.write()
        with pytest.raises(ValueError, match="released"):
            writer.put(b"\x10a", draft)
        with suppress(TransactionError):  # what an engine has half written ends the transaction
            writer.commit()
        assert engine.get(b"\x10a") == b"a"

    def test_a_put_beside_another_record_goes_by_how_that_begins(self, engine):
        engine.transact(lambda writer: writer.put(b"\x10s", b"\x00state"))
        assert engine.put_beside(b"\x10k", b"one", b"\x10s", 0) is True
        assert engine.put_beside(b"\x10k", b"two", b"\x10s", 1) is False
        assert engine.put_beside(b"\x10k", b"two", b"\x10nothing", 0) is False
        assert engine.get(b"\x10k") == b"one"
        draft = pack(b"\x10k", b"\x80payload", frames=[memoryview(bytes(100_000))])
        assert engine.put_beside(b"\x10k", draft, b"\x10s", 0) is True
        assert engine.get(b"\x10k") == bytes(draft)
        writer = engine.write()
        with pytest.raises(TransactionError):
            engine.put_beside(b"\x10k", b"two", b"\x10s", 0)
        writer.abort()
        assert engine.put_beside(b"\x10k", b"three", b"\x10s", 0) is True  # nothing is left behind

    @few_or_many
    @given(st.lists(changes(), max_size=12), st.lists(bounds(), min_size=1, max_size=4))
    def test_a_writer_sees_its_own_changes(self, engine, some_changes, some_bounds):
        model = emptied(engine)
        with writing(engine) as writer:
            for change in some_changes:
                apply(change, writer, model)
                assert writer.count() == len(model)
                assert writer.get(change[1]) == model.get(change[1])
            for start, stop, reverse in some_bounds:
                expected = stretch(model, start, stop, reverse)
                assert list(writer.scan(start, stop, reverse)) == expected
                assert list(writer.scan_keys(start, stop, reverse)) == [key for key, _ in expected]
                seen = [(key, record[:HEAD_BYTES], len(record)) for key, record in expected]
                assert list(writer.scan_heads(start, stop, reverse)) == seen

    # Scans in a writer

    @few_or_many
    @given(st.dictionaries(tree_keys(), records(), max_size=8), st.lists(changes(), max_size=8), bounds())
    def test_a_scan_in_a_writer_moves_on_whatever_is_written_meanwhile(self, engine, items, some_changes, bound):
        model = emptied(engine) | items
        start, stop, reverse = bound
        with writing(engine) as writer:
            writer.put_many(items.items())
            scan = writer.scan(start, stop, reverse)
            waiting = iter(some_changes)
            for _ in range(50):
                found = next(scan, None)
                ahead = stretch(model, start, stop, reverse)
                assert found == (ahead[0] if ahead else None)
                if found is None:
                    break
                start, stop = (start, found[0]) if reverse else (found[0] + b"\x00", stop)
                for change in (next(waiting, None), next(waiting, None)):
                    if change is not None:
                        apply(change, writer, model)

    @pytest.mark.parametrize("scan", ["scan", "scan_keys", "scan_heads"])
    @pytest.mark.parametrize("reverse", [False, True])
    def test_a_scan_in_a_writer_sees_what_is_written_before_it_and_not_behind_it(self, engine, scan, reverse):
        fill(engine, [b"\x10b", b"\x10d"])
        before, behind = (b"\x10a", b"\x10e") if reverse else (b"\x10e", b"\x10a")
        first, last = (b"\x10d", b"\x10b") if reverse else (b"\x10b", b"\x10d")
        with writing(engine) as writer:
            found = getattr(writer, scan)(b"\x10", None, reverse)
            seen = [next(found)]
            writer.put(before, b"")
            writer.put(behind, b"")
            writer.put(b"\x10c", b"")
            seen += found
        keys = [item if scan == "scan_keys" else item[0] for item in seen]
        assert keys == [first, b"\x10c", last, before]

    @pytest.mark.parametrize("reverse", [False, True])
    def test_everything_can_be_deleted_while_it_is_scanned(self, engine, reverse):
        fill(engine)
        with writing(engine) as writer:
            for key in writer.scan_keys(b"\x10", None, reverse):
                assert writer.delete(key)
            assert user_keys(writer) == []

    @pytest.mark.parametrize("reverse", [False, True])
    def test_what_is_ahead_of_a_scan_and_deleted_is_not_seen(self, engine, reverse):
        fill(engine)
        with writing(engine) as writer:
            found = writer.scan_keys(b"\x10", None, reverse)
            seen = [next(found)]
            writer.delete_range(b"\x10b", b"\x10e")
            seen += found
        assert seen == ([b"\x10e", b"\x10a"] if reverse else [b"\x10a", b"\x10e"])

    def test_two_scans_in_one_writer_go_their_own_ways(self, engine):
        fill(engine)
        with writing(engine) as writer:
            pairs = list(zip(user_keys(writer), writer.scan_keys(b"\x10", None, True), strict=True))
        assert pairs == list(zip(LETTERS, LETTERS[::-1], strict=True))

    # Readers and writers beside each other

    def test_a_reader_sees_one_state_while_writers_commit(self, engine):
        fill(engine)
        reader = engine.read()
        scan = reader.scan_keys(b"\x10")
        seen = [next(scan)]
        engine.transact(lambda writer: writer.delete_range(b"\x10", b"\x10d"))
        engine.transact(lambda writer: writer.put(b"\x10e", b"changed"))
        engine.transact(lambda writer: writer.put(b"\x10f", b"new"))
        assert seen + list(scan) == LETTERS
        assert (reader.get(b"\x10a"), reader.get(b"\x10e"), reader.get(b"\x10f")) == (b"a", b"e", None)
        assert reader.get_many(LETTERS) == [(key, key[1:]) for key in LETTERS]
        assert user_keys(reader, reverse=True) == LETTERS[::-1]
        assert user_keys(engine.read()) == [b"\x10d", b"\x10e", b"\x10f"]

    def test_readers_of_several_states_live_beside_each_other(self, engine):
        readers = []
        for key in LETTERS:
            readers.append(engine.read())
            fill(engine, [key])
        assert [user_keys(reader) for reader in readers] == [LETTERS[:count] for count in range(5)]

    def test_an_iterator_keeps_its_state_when_the_reader_is_gone(self, engine):
        fill(engine)
        found = engine.read().scan(b"\x10")
        next(found)
        emptied(engine)
        assert len(list(found)) == 4

    def test_a_reader_can_be_used_by_another_thread(self, engine):
        fill(engine)
        reader = engine.read()
        assert in_thread(lambda: user_keys(reader)) == LETTERS

    def test_nobody_else_sees_a_writer_before_its_commit(self, engine):
        with writing(engine) as writer:
            writer.put(b"\x10k", b"new")
            assert engine.get(b"\x10k") is None
            assert engine.contains(b"\x10k", b"\x10k") == (False, None)
            assert engine.read().get(b"\x10k") is None
            assert in_thread(lambda: engine.get(b"\x10k")) is None
            assert writer.get(b"\x10k") == b"new"
            writer.commit()
        assert engine.get(b"\x10k") == b"new"

    # The life of a writer

    def test_abort_undoes(self, engine):
        fill(engine)
        writer = engine.write()
        writer.delete_range(b"\x10", None)
        writer.put(b"\x10k", b"new")
        writer.abort()
        assert user_keys(engine.read()) == LETTERS

    @pytest.mark.parametrize("end", ["commit", "abort"])
    def test_a_writer_is_used_up_by_its_end(self, engine, end):
        fill(engine)
        writer = engine.write()
        getattr(writer, end)()
        uses = {
            "put": lambda: writer.put(b"\x10k", b""),
            "put_many": lambda: writer.put_many([(b"\x10k", b"")]),
            "delete": lambda: writer.delete(b"\x10a"),
            "delete_range": lambda: writer.delete_range(b"\x10", None),
            "get": lambda: writer.get(b"\x10a"),
            "get_many": lambda: writer.get_many(LETTERS),
            "count": lambda: writer.count(),
            "scan": lambda: next(writer.scan(b"\x10")),
            "scan_keys": lambda: next(writer.scan_keys(b"\x10")),
            "scan_heads": lambda: next(writer.scan_heads(b"\x10")),
            "savepoint": lambda: writer.savepoint(),
            "commit": lambda: writer.commit(),
        }
        assert {name: error_of(use) for name, use in uses.items()} == dict.fromkeys(uses, TransactionError)
        assert user_keys(engine.read()) == LETTERS

    @pytest.mark.parametrize("end", ["commit", "abort"])
    def test_abort_after_the_end_does_no_harm(self, engine, end):
        writer = engine.write()
        writer.put(b"\x10k", b"")
        getattr(writer, end)()
        writer.abort()
        writer.abort()
        assert (engine.get(b"\x10k") is not None) == (end == "commit")
        fill(engine)

    def test_a_second_writer_in_one_thread_is_refused_instead_of_waiting_for_ever(self, engine):
        with writing(engine) as writer:
            with pytest.raises(TransactionError, match="this thread has a transaction or an edit open"):
                engine.write()
            with pytest.raises(TransactionError, match="this thread has a transaction or an edit open"):
                engine.transact(lambda other: other.put(b"\x10k", b""))
            writer.put(b"\x10first", b"")
            writer.commit()
        assert user_keys(engine.read()) == [b"\x10first"]

    @pytest.mark.parametrize("error", [ValueError, StoreError, KeyboardInterrupt])
    def test_transact_aborts_when_the_function_raises(self, engine, error):
        def change_and_fail(writer):
            writer.put(b"\x10k", b"")
            raise error("no")

        with pytest.raises(error):
            engine.transact(change_and_fail)
        assert engine.get(b"\x10k") is None
        fill(engine)

    def test_other_threads_wait_for_the_writer(self, engine):
        writer = engine.write()
        ready = threading.Event()
        seen = []

        def append(other):
            seen.append(other.get(b"\x10k"))
            other.put(b"\x10k", b"second")

        def other_thread():
            ready.set()
            engine.transact(append)

        thread = threading.Thread(target=other_thread)
        thread.start()
        ready.wait()
        thread.join(0.05)
        assert thread.is_alive()
        assert seen == []
        writer.put(b"\x10k", b"first")
        writer.commit()
        thread.join()
        assert seen == [b"first"]
        assert engine.get(b"\x10k") == b"second"

    def test_threads_that_add_one_each_lose_nothing(self, engine):
        def add_one(writer):
            writer.put(b"\x10n", b"%d" % (int(writer.get(b"\x10n") or 0) + 1))

        threads = [threading.Thread(target=lambda: [engine.transact(add_one) for _ in range(25)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert engine.get(b"\x10n") == b"100"

    # Savepoints

    def test_a_committed_savepoint_becomes_part_of_its_writer(self, engine):
        with writing(engine) as writer:
            writer.put(b"\x10a", b"outer")
            inner = writer.savepoint()
            assert inner.get(b"\x10a") == b"outer"
            inner.put(b"\x10b", b"inner")
            inner.commit()
            assert user_keys(writer) == [b"\x10a", b"\x10b"]
            assert engine.get(b"\x10b") is None
            writer.commit()
        assert user_keys(engine.read()) == [b"\x10a", b"\x10b"]

    def test_an_aborted_savepoint_leaves_its_writer_as_it_was(self, engine):
        fill(engine)
        with writing(engine) as writer:
            writer.put(b"\x10f", b"outer")
            inner = writer.savepoint()
            inner.delete_range(b"\x10", None)
            inner.put(b"\x10g", b"inner")
            inner.abort()
            assert user_keys(writer) == [*LETTERS, b"\x10f"]
            writer.commit()
        assert user_keys(engine.read()) == [*LETTERS, b"\x10f"]

    def test_a_committed_savepoint_is_lost_with_its_writer(self, engine):
        writer = engine.write()
        inner = writer.savepoint()
        inner.put(b"\x10k", b"")
        inner.commit()
        writer.abort()
        assert engine.get(b"\x10k") is None

    def test_savepoints_follow_each_other(self, engine):
        with writing(engine) as writer:
            for number, key in enumerate(LETTERS):
                inner = writer.savepoint()
                inner.put(key, b"")
                (inner.abort if number % 2 else inner.commit)()
            writer.commit()
        assert user_keys(engine.read()) == LETTERS[::2]

    @few_or_many
    @given(st.recursive(changes(), lambda inner: st.tuples(st.booleans(), st.lists(inner, max_size=3)), max_leaves=8))
    def test_savepoints_nest(self, engine, work):
        model = emptied(engine)

        def perform(step, writer, model):
            if step[0] not in (True, False):
                apply(step, writer, model)
                return model
            inner, inner_model = writer.savepoint(), dict(model)
            for part in step[1]:
                inner_model = perform(part, inner, inner_model)
            assert dict(inner.scan(b"\x00")) == inner_model
            (inner.commit if step[0] else inner.abort)()
            return inner_model if step[0] else model

        with writing(engine) as writer:
            model = perform(work, writer, model)
            assert dict(writer.scan(b"\x00")) == model
            writer.commit()
        assert dict(engine.read().scan(b"\x00")) == model

    def test_a_scan_goes_on_after_a_savepoint(self, engine):
        fill(engine)
        with writing(engine) as writer:
            seen = []
            for key in writer.scan_keys(b"\x10"):
                seen.append(key)
                inner = writer.savepoint()
                inner.delete(key)
                inner.commit()
            assert seen == LETTERS
            assert user_keys(writer) == []

    @pytest.mark.parametrize("end", ["commit", "abort"])
    def test_it_knows_whether_this_thread_writes(self, engine, end):
        assert not engine.is_writing_here()
        writer = engine.write()
        assert engine.is_writing_here()
        assert not in_thread(engine.is_writing_here)
        getattr(writer, end)()
        assert not engine.is_writing_here()


class writing:
    """`with writing(engine) as writer:` aborts what the block did not commit."""

    def __init__(self, engine):
        self._engine = engine

    def __enter__(self):
        self._writer = self._engine.write()
        return self._writer

    def __exit__(self, *_exc):
        with suppress(TransactionError):
            self._writer.abort()


def error_of(function):
    """The type of what a function raises, or None."""
    try:
        function()
    except Exception as exc:  # noqa: BLE001  (it is compared)
        return type(exc)
    return None


def in_thread(function):
    """What the function gives when another thread calls it."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]
