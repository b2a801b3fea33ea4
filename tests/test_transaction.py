"""Transactions, savepoints and snapshots: when they begin and end, and what they may touch."""

import gc
import pickle
import threading

import pytest

from objstore import Store, StoreClosed, TransactionError


@pytest.fixture(params=["memory", "lmdb"])
def store(request, tmp_path):
    with Store("memory://" if request.param == "memory" else tmp_path / "a.store") as store:
        yield store


class TestTransaction:
    def test_all_of_it_or_nothing(self, store):
        store["a"] = 1
        with pytest.raises(LookupError), store.transaction() as txn:
            txn["a"] = 2
            txn.namespace("n")["b"] = 3
            assert txn["a"] == 2
            assert store["a"] == 1  # reading through the store sees the last commit
            raise LookupError
        assert store["a"] == 1
        assert store.namespaces() == []
        with store.transaction() as txn:
            txn["a"] = 2
            txn.namespace("n")["b"] = 3
        assert (store["a"], store.namespace("n")["b"]) == (2, 3)

    def test_savepoints_nest_and_abort_alone(self, store):
        with store.transaction() as txn:
            txn["outer"] = 1
            with pytest.raises(LookupError), txn.transaction() as inner:
                inner["outer"] = 2
                inner.namespace("n")["x"] = 1
                raise LookupError
            with txn.transaction() as inner:
                inner["kept"] = 1
                with inner.transaction() as innermost:
                    innermost["deep"] = 1
            assert dict(txn.items()) == {"outer": 1, "kept": 1, "deep": 1}
        assert store == {"outer": 1, "kept": 1, "deep": 1}
        assert store.namespaces() == []

    def test_one_that_ends_before_its_savepoint_is_undone_and_lets_others_write(self, store):
        txn = store.transaction()
        txn.__enter__()
        txn["a"] = 1
        txn.transaction().__enter__()["b"] = 2
        with pytest.raises(TransactionError, match="nothing of it was applied"):
            txn.__exit__(None, None, None)
        assert len(store) == 0
        thread = threading.Thread(target=store.__setitem__, args=("c", 3))
        thread.start()
        thread.join(10)
        assert store == {"c": 3}

    def test_a_transaction_rests_while_its_savepoint_is_open(self, store):
        with store.transaction() as txn, txn.transaction():
            with pytest.raises(TransactionError, match="savepoint"):
                txn["a"] = 1

    def test_writing_through_the_store_inside_one_is_refused_at_once(self, store):
        with store.transaction() as txn:
            with pytest.raises(TransactionError, match="write through that"):
                store["a"] = 1
            with pytest.raises(TransactionError, match="write through that"), store.transaction():
                pass
            txn["b"] = 2
        assert store == {"b": 2}

    def test_it_belongs_to_its_thread(self, store):
        caught = []

        def elsewhere():
            for action in (
                lambda: txn.get("a"),
                lambda: txn.__setitem__("a", 1),
                lambda: txn.__exit__(None, None, None),
            ):
                try:
                    action()
                except TransactionError as exc:
                    caught.append(str(exc))

        with store.transaction() as txn:
            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
            txn["a"] = 5
        assert len(caught) == 3
        assert all("thread" in message for message in caught)
        assert store == {"a": 5}

    def test_it_is_entered_once_and_not_used_outside(self, store):
        txn = store.transaction()
        with pytest.raises(TransactionError, match="with store"):
            txn["a"]
        with txn:
            pass
        with pytest.raises(TransactionError, match="ended"):
            txn["a"]
        with pytest.raises(TransactionError, match="once"), txn:
            pass

    def test_iterating_moves_forward_and_sees_later_writes(self, store):
        store.update({n: n for n in range(5)})
        with store.transaction() as txn:
            seen = []
            for key in txn:
                seen.append(key)
                if key < 20:
                    txn[key + 10] = 0
                del txn[key]
            assert seen == [0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 20, 21, 22, 23, 24]
            assert len(txn) == 0

    def test_other_threads_wait_for_its_end(self, store):
        started, done = threading.Event(), []

        def write():
            started.set()
            store["from the thread"] = 1
            done.append(True)

        thread = threading.Thread(target=write)
        with store.transaction() as txn:
            thread.start()
            started.wait()
            txn["first"] = 1
            assert not done
        thread.join()
        assert store == {"first": 1, "from the thread": 1}

    def test_it_does_not_pickle(self, store):
        with store.transaction() as txn, pytest.raises(TypeError, match="pickle the store"):
            pickle.dumps(txn)


class TestSnapshot:
    def test_it_never_changes(self, store):
        store.update(a=1, b=2)
        store.namespace("n")["x"] = 1
        with store.snapshot() as snap:
            store["a"] = 10
            store["c"] = 3
            store.namespace("n")["x"] = 10
            assert dict(snap.items()) == {"a": 1, "b": 2}
            assert snap.namespace("n")["x"] == 1
            assert (len(snap), "c" in snap, snap.first(), snap.get_many(["a", "c"])) == (2, False, "a", {"a": 1})
        assert store["a"] == 10

    def test_nothing_expires_in_it(self, tmp_path):
        now = [100.0]
        with Store(tmp_path / "a.store", clock=lambda: now[0]) as store:
            store.set("key", 1, ttl=10)
            with store.snapshot() as snap:
                now[0] += 20
                assert "key" not in store
                assert (snap["key"], len(snap), snap.ttl("key")) == (1, 1, 10)

    def test_it_is_for_reading(self, store):
        with store.snapshot() as snap:
            assert not hasattr(snap, "update")
            with pytest.raises(TypeError, match="for reading"):
                snap.range().clear()

    def test_use_after_its_end_is_refused_but_iterations_go_on(self, store):
        store.update(a=1, b=2)
        snap = store.snapshot()
        keys = iter(snap)
        assert next(keys) == "a"
        snap.close()
        snap.close()
        with pytest.raises(StoreClosed):
            snap["a"]
        assert list(keys) == ["b"]

    def test_it_does_not_pickle(self, store):
        with store.snapshot() as snap, pytest.raises(TypeError, match="pickle the store"):
            pickle.dumps(snap)

    def test_any_thread_may_use_it(self, store):
        store["a"] = 1
        found = []
        with store.snapshot() as snap:
            thread = threading.Thread(target=lambda: found.append(snap["a"]))
            thread.start()
            thread.join()
        assert found == [1]


class TestIteration:
    def test_writing_while_iterating_is_allowed_and_does_not_show(self, store):
        store.update({n: n for n in range(100)})
        seen = []
        for key, value in store.items():
            store[1000 + key] = value
            del store[key]
            seen.append(key)
        assert seen == list(range(100))
        assert list(store) == list(range(1000, 1100))

    def test_an_iteration_given_up_leaves_nothing_behind(self, store):
        store.update({n: n for n in range(10)})
        keys = iter(store)
        next(keys)
        del keys
        gc.collect()
        store["more"] = 1
        assert len(store) == 11
