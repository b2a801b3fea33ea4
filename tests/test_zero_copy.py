"""Large buffers without a copy: what is a view and what is not, and that no view ever fails or changes.

A view that outlives the map that it shows ends the process.  So what is done to stores while views of them are
kept runs in programs of their own, which must end as they should.  The long form of the last of them:

    OBJSTORE_STEPS=100000 python -m pytest tests/test_zero_copy.py -k everything -s
"""

from __future__ import annotations

import gc
import logging
import os
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from programs import run

from objstore import CorruptRecord, Store, StoreClosed, StoreLocked
from objstore.engines.lmdb import zerocopy
from objstore.engines.lmdb.directory import text_of
from objstore.record import Draft

STEPS = int(os.environ.get("OBJSTORE_STEPS", "1500"))


def array(seed=0, size=100_000):
    """More than enough for a frame: 800 kB."""
    return np.random.default_rng(seed).random(size)


@dataclass
class Model:
    name: str
    weights: np.ndarray


@pytest.fixture
def disk(tmp_path):
    with Store(tmp_path / "a.store", durability="process") as store:
        yield store


def address(buffer):
    return np.frombuffer(buffer, np.uint8).ctypes.data


class TestWhatIsAView:
    def test_an_array_is_read_only_aligned_and_the_same_memory_each_time(self, disk):
        disk["a"] = array()
        with disk.snapshot() as snap:
            view = snap["a"]
            assert np.array_equal(view, array())
            assert not view.flags.writeable
            assert view.ctypes.data % 64 == 0
            assert np.shares_memory(view, snap["a"])
            assert np.shares_memory(view, disk.view("a"))
            with pytest.raises(ValueError, match="WRITEABLE"):
                view.flags.writeable = True

    def test_each_way_to_read_a_snapshot_gives_views(self, disk):
        disk.update({"a": array(), "b": 1, "c": array(2)})
        with disk.snapshot() as snap:
            view = snap["a"]
            ways = [
                snap.get("a"),
                dict(snap.items())["a"],
                next(iter(snap.values())),
                snap.get_many(["a", "b"])["a"],
                snap.range("a", "b")["a"],
                snap.entry("a").value,
                next(iter(snap.range(prefix="a").entries())).value,
                dict(reversed(snap.items()))["a"],
            ]
            assert all(np.shares_memory(view, other) for other in ways)
            assert list(snap) == ["a", "b", "c"]
            assert snap["b"] == 1

    def test_namespaces_expiry_tags_and_long_keys_do_not_matter(self, disk):
        users = disk.namespace("users")
        users.set("k" * 1000, array(), ttl=1000, tags=["t"])
        users["small"] = 1
        with disk.snapshot() as snap:
            inside = snap.namespace("users")
            view = inside["k" * 1000]
            assert not view.flags.writeable
            assert np.array_equal(view, array())
            assert np.shares_memory(view, users.view("k" * 1000))
            assert [entry.tags for entry in inside.range(tag="t").entries()] == [("t",)]
            assert np.shares_memory(view, dict(inside.range(tag="t").items())["k" * 1000])

    def test_arrays_inside_of_objects_are_views_and_the_rest_is_private(self, location):
        with Store(location) as store:
            store["nested"] = {"weights": [array(), array(1)], "small": np.arange(10), "list": [1]}
            store["model"] = Model("m", array(2))
            with store.snapshot() as snap:
                nested, model = snap["nested"], snap["model"]
            assert np.array_equal(nested["weights"][1], array(1))
            assert not any(weights.flags.writeable for weights in nested["weights"])
            nested["small"][0] = 7
            nested["list"].append(2)
            assert (model.name, model.weights.flags.writeable) == ("m", False)
            assert np.array_equal(model.weights, array(2))
            assert store["nested"]["list"] == [1]

    def test_data_frames(self, disk):
        frame = pd.DataFrame({"x": array(), "y": array(1), "n": np.arange(100_000)})
        disk["frame"] = frame
        view = disk.view("frame")
        pd.testing.assert_frame_equal(view, frame)
        assert np.shares_memory(view["x"].to_numpy(), disk.view("frame")["x"].to_numpy())
        pd.testing.assert_frame_equal(disk["frame"], frame)

    def test_arrow_tables(self, disk):
        table = pa.table({"x": array(), "y": array(1)})
        disk["table"] = table
        view = disk.view("table")
        assert view.equals(table)
        buffers = [each["table"]["x"].chunk(0).buffers()[1].address for each in (disk.snapshot(), disk.snapshot())]
        assert buffers[0] == view["x"].chunk(0).buffers()[1].address == buffers[1]

    def test_every_layout_of_an_array(self, disk):
        whole = array().reshape(100, 1000)
        layouts = {"C": whole, "F": np.asfortranarray(whole), "strided": whole[::2, ::3], "T": whole.T}
        layouts |= {"bytes": np.frombuffer(bytes(100_000), "S1"), "dates": array().astype("M8[s]")}
        disk.update(layouts)
        with disk.snapshot() as snap:
            for name, original in layouts.items():
                assert np.array_equal(snap[name], original), name
                assert snap[name].dtype == original.dtype

    def test_a_store_gives_private_writable_verified_copies(self, location):
        with Store(location) as store:
            store["a"] = array()
            for _ in range(3):  # the first is read in another way than those after it
                mine = store["a"]
                assert mine.flags.writeable
                mine[:] = 0
            store["small"] = 1
            assert store["small"] == 1
            assert np.array_equal(store["a"], array())
            assert np.array_equal(store.get_many(["a"])["a"], array())
            with store.transaction() as txn:
                txn["a"][:] = 0
                assert np.array_equal(txn["a"], array())

    def test_what_is_found_is_not_read(self, tmp_path):
        program = """
            import numpy as np, os, sys
            from objstore import Store
            def resident():
                return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            with Store(sys.argv[1]) as store, store.snapshot() as snap:
                before = resident()
                assert "big" in store and "big" in snap
                assert [entry.size > 1 << 26 for entry in store.entries()] == [True]
                views = [snap["big"], store.view("big"), dict(snap.items())["big"]]
                grown = resident() - before
                assert grown < 1 << 24, f"{grown} bytes of a record of {1 << 26} were touched"
                assert views[0].sum() == 1 << 23
        """
        with Store(tmp_path / "a.store", durability="process") as store:
            store["big"] = np.ones(1 << 23)
        run(program, tmp_path / "a.store")


class TestPuts:
    MEMORY = """
        import numpy as np, os, resource, sys
        from objstore import EncodeError, Store

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    """

    def test_a_large_array_is_copied_once(self, tmp_path):
        program = """
            size = 1 << 28
            with Store(sys.argv[1], durability="process") as store:
                store["small"] = np.ones(1 << 14)
                array = np.ones(size >> 3)
                before = peak()
                store["array"] = array
                assert peak() - before < 1.1 * size, f"{(peak() - before) / size:.2f} times the array"
                assert np.array_equal(store.view("array"), array)
        """
        run(program, tmp_path / "a.store", prelude=self.MEMORY)

    def test_what_is_too_large_for_a_record_is_refused_before_any_work(self, tmp_path):
        program = """
            with Store(sys.argv[1], durability="process") as store:
                store["array"] = before = {"a": np.ones(1 << 14)}
                memory = peak()
                for write in (
                    lambda: store.__setitem__("array", np.zeros(5 << 27)),
                    lambda: store.update({"array": [np.zeros(3 << 27), np.zeros(3 << 27)]}),
                    lambda: store.set("array", {"deep": np.zeros(1 << 30)}, ttl=5),
                ):
                    try:
                        write()
                    except EncodeError as exc:
                        assert "'array'" in str(exc) and "4 GiB" in str(exc), exc
                    else:
                        raise AssertionError("it was not refused")
                assert peak() - memory < 1 << 24
                assert np.array_equal(store["array"]["a"], before["a"])
        """
        run(program, tmp_path / "a.store", prelude=self.MEMORY)

    def test_items_that_reuse_one_buffer_are_stored_each_as_it_was(self, location):
        def items():
            buffer = np.zeros(20_000)
            for number in range(5):
                buffer[:] = number
                yield number, buffer

        with Store(location) as store:
            store.update(items())
            assert [value[0] for value in store.values()] == [0, 1, 2, 3, 4]
            store.clear()
            store.load(items())
            assert [value[0] for value in store.values()] == [0, 1, 2, 3, 4]

    def test_a_transaction_with_arrays_is_all_or_nothing(self, disk):
        disk["a"] = array()
        with pytest.raises(KeyError), disk.transaction() as txn:
            txn["a"] = array(1)
            txn["b"] = array(2)
            assert np.array_equal(txn["a"], array(1))
            with txn.transaction() as inner:
                inner["a"] = array(3)
            assert np.array_equal(txn["a"], array(3))
            txn["nothing"]
        assert np.array_equal(disk["a"], array())
        assert list(disk) == ["a"]


class TestDamage:
    @pytest.fixture
    def damaged(self, tmp_path):
        """A store in which one bit of a large buffer is flipped."""
        with Store(tmp_path / "a.store") as store:
            store["a"] = np.full(100_000, 7, np.uint8)
        file = tmp_path / "a.store" / "data.mdb"
        data = bytearray(file.read_bytes())
        data[data.index(b"\x07" * 1000) + 500] ^= 1
        file.write_bytes(data)
        with Store(tmp_path / "a.store") as store:
            yield store

    def test_a_copy_is_verified_each_time(self, damaged):
        for _ in range(3):
            with pytest.raises(CorruptRecord, match="'a'"):
                damaged["a"]

    def test_a_view_is_verified_when_asked(self, damaged):
        assert (damaged.view("a") == 6).sum() == 1
        with pytest.raises(CorruptRecord):
            damaged.view("a", verify=True)
        with damaged.snapshot() as snap, damaged.snapshot(verify=True) as verified:
            assert snap["a"].sum() == 700_000 - 1
            assert len(snap.namespace("other")) == 0
            for read in (lambda: verified["a"], lambda: list(verified.items()), lambda: verified.get_many(["a"])):
                with pytest.raises(CorruptRecord):
                    read()

    def test_a_verified_view_is_a_view(self, disk):
        disk["a"] = array()
        assert np.shares_memory(disk.view("a", verify=True), disk.view("a"))


class TestHowLongAViewLasts:
    def overwrite(self, store, times=30):
        """Let LMDB use every page again that it may."""
        for number in range(times):
            store["a"] = array(number + 1)
            store["b"] = array(number + 2)

    def test_after_the_block_and_all_that_is_written_later(self, disk):
        disk["a"] = array()
        with disk.snapshot() as snap:
            view = snap["a"]
        also = disk.view("a")
        del snap
        self.overwrite(disk)
        disk.clear()
        self.overwrite(disk)
        assert np.array_equal(view, array())
        assert np.array_equal(also, array())
        del also
        self.overwrite(disk)
        assert np.array_equal(view, array())

    def test_after_close_and_what_others_write_then(self, tmp_path):
        with Store(tmp_path / "a.store", durability="process") as store:
            store["a"] = array()
            view = store.view("a")
        run(
            """
            import numpy as np, sys
            from objstore import Store
            with Store(sys.argv[1]) as store:
                for number in range(30):
                    store["a"] = np.full(100_000, number, float)
            """,
            tmp_path / "a.store",
        )
        with Store(tmp_path / "a.store") as store:
            self.overwrite(store)
        assert np.array_equal(view, array())

    def test_a_view_that_outlives_the_program_does_not_leave_unsynced_writes_behind(self, tmp_path):
        program = """
            import ctypes, numpy as np, sys
            from objstore import Store
            with Store(sys.argv[1], durability="process") as store:
                store["a"] = np.ones(100_000)
                view = store.view("a")
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(view))      # for ever
        """
        run(program, tmp_path / "a.store")
        assert "dirty" not in text_of((tmp_path / "a.store" / "objstore.lock").read_bytes())

    def test_a_part_of_a_view_is_enough(self, disk):
        disk["a"] = array()
        part = memoryview(disk.view("a"))[10:20]
        gc.collect()
        self.overwrite(disk)
        assert list(part) == list(array()[10:20])

    def test_the_pages_go_with_the_last_view(self, disk):
        def growth():
            self.overwrite(disk, 5)
            before = disk.stats().file_bytes
            self.overwrite(disk)
            return disk.stats().file_bytes - before

        assert growth() == 0
        disk["a"] = array()
        view = disk.view("a")
        assert growth() > 30 * view.nbytes
        del view
        assert disk.stats().held == ()
        assert growth() == 0

    def test_a_store_that_is_viewed_is_not_replaced_after_its_close(self, tmp_path):
        with Store(tmp_path / "a.store") as store:
            store["a"] = array()
            view = store.view("a")
        with pytest.raises(StoreLocked):
            Store(tmp_path / "a.store", "n")
        del view
        with Store(tmp_path / "a.store", "n") as store:
            assert len(store) == 0

    def test_in_other_threads_than_its_own(self, disk):
        disk["a"] = array()
        views = []
        thread = threading.Thread(target=lambda: views.append(disk.view("a")))
        thread.start()
        thread.join()
        self.overwrite(disk)
        assert np.array_equal(views[0], array())

    def test_many_views_of_one_state_take_one_slot(self, disk):
        disk.update({number: array(number, 10_000) for number in range(50)})
        kept = [disk.view(number % 50) for number in range(3000)]
        assert disk.stats().readers <= 3
        assert all(np.array_equal(view, array(number % 50, 10_000)) for number, view in enumerate(kept))

    def test_where_addresses_are_scarce_arrays_are_copied_and_the_map_grows(self, tmp_path):
        run(
            """
            import numpy as np, resource, sys
            from objstore import Store
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), resource.RLIM_INFINITY))
            with Store(sys.argv[1], durability="process") as store:
                before = store.stats().map_bytes
                resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                store["a"] = np.ones(1 << 17)
                view = store.view("a")
                assert not view.flags.writeable
                with store.snapshot() as snap:
                    also = snap["a"]
                del snap
                for number in range(before >> 20):
                    store[number] = np.full(1 << 17, float(number))
                assert store.stats().map_bytes > before, "the map has not grown"
                assert (view == 1).all() and (also == 1).all()
            """,
            tmp_path / "a.store",
        )


class TestWhatIsHeld:
    def test_figures_tell_age_and_bytes(self, disk):
        disk.update({"a": array(), "b": array(1)})
        assert disk.stats().held == ()
        with disk.snapshot() as snap:
            (held,) = disk.stats().held
            assert held.bytes == 0
            views = [snap["a"], snap["a"], snap["b"]]
            (held,) = disk.stats().held
            assert 1_600_000 < held.bytes < 1_610_000
            assert 0 <= held.age < 60
        del snap
        assert len(disk.stats().held) == 1
        del views
        assert disk.stats().held == ()

    def test_the_oldest_comes_first(self, disk):
        first = disk.snapshot()
        second = disk.snapshot()
        older, newer = disk.stats().held
        assert older.age >= newer.age
        del first, second

    def test_an_old_one_is_logged_once(self, disk, caplog, monkeypatch):
        with caplog.at_level(logging.WARNING, "objstore"), disk.snapshot():
            disk["x"] = 1
            assert not caplog.records
            monkeypatch.setattr(zerocopy, "OLD_SECONDS", -1.0)
            disk["x"] = 2
            disk["x"] = 3
            disk.stats()
        assert len(caplog.records) == 1
        assert disk.location in caplog.records[0].getMessage()


FORKED = """
    import gc, numpy as np, os, signal, sys
    from objstore import Store

    store = Store(sys.argv[1], durability="process")
    original = np.random.default_rng(0).random(100_000)
    store["a"] = original
    reading, writing = os.pipe()

    def overwrite():
        for number in range(30):
            store["a"] = np.full(100_000, float(number))
            store["b"] = np.full(100_000, float(number))

    def fork(child):
        process = os.fork()
        if process == 0:
            try:
                child()
            except Exception:
                import traceback
                traceback.print_exc()
                os._exit(1)
            sys.exit(0)
        return process

    def ended_well(process):
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        assert status == 0, status

    view = store.view("a")
"""


class TestForks:
    def test_a_child_reads_what_it_inherited_whatever_it_does_with_the_store(self, tmp_path):
        program = """
            def child():
                assert np.array_equal(view, original)
                assert np.array_equal(store["a"], original)
                overwrite()
                assert np.array_equal(view, original)
                store.close()
                gc.collect()
                assert np.array_equal(view, original)
                again = Store(sys.argv[1])
                own = again.view("a")
                assert (own == 29).all() and np.array_equal(view, original)
                again.close()

            ended_well(fork(child))
            assert np.array_equal(view, original)
            store.close()
        """
        run(program, tmp_path / "a.store", prelude=FORKED)

    def test_the_parent_holds_what_its_child_still_looks_at(self, tmp_path):
        program = """
            def child():
                global view
                os.close(writing)
                os.read(reading, 1)      # until the parent has dropped its own, and overwritten everything
                assert np.array_equal(view, original)
                process = fork(grandchild)
                del view                 # the grandchild still has it
                ended_well(process)

            def grandchild():
                os.read(reading, 1)
                assert np.array_equal(view, original)

            process = fork(child)
            os.close(reading)
            del view
            gc.collect()
            overwrite()
            assert len(store.stats().held) == 1
            os.write(writing, b"1")
            overwrite()
            os.write(writing, b"2")
            ended_well(process)
            assert store.stats().held == ()
            store.close()
            Store(sys.argv[1], "n").close()      # which nobody holds any more
        """
        run(program, tmp_path / "a.store", prelude=FORKED)

    def test_a_child_that_drops_its_view_or_is_killed_ends_that(self, tmp_path):
        program = """
            def dropping():
                global view
                del view
                gc.collect()
                os.write(writing, b"1")
                signal.pause()

            def staying():
                os.write(writing, b"1")
                signal.pause()

            processes = [fork(dropping)]
            os.read(reading, 1)
            assert len(store.stats().held) == 1, "its own"
            processes.append(fork(staying))
            os.read(reading, 1)
            del view
            gc.collect()
            assert len(store.stats().held) == 1, "for the second child"
            os.kill(processes[1], signal.SIGKILL)
            os.waitpid(processes[1], 0)
            assert store.stats().held == (), "for nobody: the first one dropped it"
            os.kill(processes[0], signal.SIGKILL)
            os.waitpid(processes[0], 0)
            store.close()
        """
        run(program, tmp_path / "a.store", prelude=FORKED)

    def test_grandchildren_that_outlive_the_child_keep_what_they_look_at(self, tmp_path):
        program = """
            def child():
                fork(daemon)             # and nobody waits for it

            def daemon():
                os.close(writing)
                os.read(reading, 1)
                intact = np.array_equal(view, original)
                os.write(telling, b"y" if intact else b"n")

            hearing, telling = os.pipe()
            ended_well(fork(child))
            del view
            gc.collect()
            overwrite()
            assert len(store.stats().held) == 1
            os.write(writing, b"1")
            assert os.read(hearing, 1) == b"y"
            store.close()
        """
        run(program, tmp_path / "a.store", prelude=FORKED)

    def test_threads_that_fork_at_once_each_lend_to_their_child(self, tmp_path):
        program = """
            import logging, threading, warnings      # logging has fork hooks that wait, so forks mix
            warnings.simplefilter("ignore", DeprecationWarning)

            def one(number):
                for _ in range(25):
                    process = os.fork()
                    if process == 0:
                        holds = [reference() for reference in store._engine._views.holds]
                        os._exit(0 if all(hold.lease is not None for hold in holds if hold) else 1)
                    statuses.append(os.waitpid(process, 0)[1])

            statuses = []
            threads = [threading.Thread(target=one, args=(number,)) for number in range(3)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            assert statuses == [0] * 75, f"{sum(map(bool, statuses))} children were lent nothing"
            del view
            gc.collect()
            assert store.stats().held == ()
            store.close()
        """
        run(program, tmp_path / "a.store", prelude=FORKED)

    def test_children_that_overlap_do_not_hold_what_none_of_them_sees(self, tmp_path):
        program = """
            import time

            children = []
            for number in range(12):
                store["a"] = np.full(100_000, float(number))
                view = store.view("a")
                children.append(fork(lambda: time.sleep(0.3)))
                del view
                time.sleep(0.1)
                held = len(store.stats().held)
                assert held < 7, f"{held} states are held for {number + 1} children, most of which have ended"
            [ended_well(child) for child in children]
            assert store.stats().held == ()
            store.close()
        """
        run(program, tmp_path / "a.store", prelude=FORKED)

    def test_a_child_that_closes_the_store_has_it_closed(self, tmp_path):
        program = """
            def child():
                global view
                store["x"] = 1
                view = None
                gc.collect()
                store.close()
                os.write(writing, b"1")
                signal.pause()

            process = fork(child)
            os.read(reading, 1)
            del view
            gc.collect()
            store.close()
            Store(sys.argv[1], "n").close()          # which the child would be in the way of
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        """
        run(program, tmp_path / "a.store", prelude=FORKED)

    def test_an_iteration_that_is_carried_over_a_fork_ends_at_once(self, tmp_path):
        program = """
            from objstore import TransactionError
            store.update({number: number for number in range(200)})
            with store.snapshot() as snap:
                for before in (1, 63, 64, 65):
                    keys = iter(snap)
                    for _ in range(before):
                        next(keys)

                    def child():
                        try:
                            next(keys)
                        except TransactionError:
                            return
                        raise AssertionError(before)

                    ended_well(fork(child))
            store.close()
        """
        run(program, tmp_path / "a.store", prelude=FORKED)


class TestInTheWay:
    """Things that come between."""

    def test_interrupting_a_reader_is_in_nobodys_way(self, tmp_path):
        program = """
            import numpy as np, os, signal, sys, threading, time
            from objstore import Store
            signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored in the background
            store = Store(sys.argv[1], durability="process")
            store.update({"a": np.ones(10_000), "small": 1})
            stop = False

            def interrupt():
                while not stop:
                    time.sleep(0.0005)
                    os.kill(os.getpid(), signal.SIGINT)

            caught, snap = 0, None
            thread = threading.Thread(target=interrupt)
            try:
                thread.start()
                with store.snapshot() as snap:
                    while caught < 300:
                        try:
                            while True:
                                snap["a"], "a" in snap, list(snap)
                        except KeyboardInterrupt:
                            caught += 1
            except KeyboardInterrupt:
                caught += 1
            stop = True
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            thread.join()
            del snap
            began = time.monotonic()
            store.close()
            assert time.monotonic() - began < 4, "close waited for somebody who was gone"
        """
        run(program, tmp_path / "a.store")

    def test_views_are_read_while_the_store_is_closed(self, tmp_path):
        program = """
            import numpy as np, sys, threading
            from objstore import Store, StoreClosed, StoreLocked
            sys.setswitchinterval(1e-6)
            for turn in range(40):
                store = Store(sys.argv[1], durability="process")
                store["a"] = np.full(20_000, turn)
                store["small"] = turn
                views = []

                def look():
                    try:
                        while True:
                            views.append(store.view("a"))
                            with store.snapshot() as snap:
                                views.append(dict(snap.items())["a"])
                            del views[2:]
                    except StoreClosed:
                        pass

                threads = [threading.Thread(target=look) for _ in range(3)]
                [thread.start() for thread in threads]
                while not views:
                    pass
                store.close()
                [thread.join() for thread in threads]
                assert all((view == turn).all() for view in views)
        """
        run(program, tmp_path / "a.store")

    def test_a_store_is_closed_while_a_large_record_is_written(self, disk, monkeypatch):
        writing, closing = threading.Event(), threading.Event()
        write = Draft.write

        def slow(self, place):
            writing.set()
            closing.wait(10)
            time.sleep(0.05)  # in which the other thread is inside of close
            write(self, place)

        monkeypatch.setattr(Draft, "write", slow)
        with ThreadPoolExecutor(1) as pool:
            put = pool.submit(disk.__setitem__, "a", array())
            assert writing.wait(10)
            closing.set()
            disk.close()
            assert put.exception() is None or isinstance(put.exception(), StoreClosed)
        with Store(disk.location) as store:
            assert "a" not in store or np.array_equal(store["a"], array())

    def test_a_log_handler_may_use_the_store(self, disk, monkeypatch):
        class Handler(logging.Handler):
            def emit(self, record):
                disk["log"] = record.getMessage()

        monkeypatch.setattr(zerocopy, "OLD_SECONDS", -1.0)
        handler = Handler()
        logging.getLogger("objstore").addHandler(handler)
        try:
            disk["a"] = array()
            view = disk.view("a")
            disk["b"] = 1
            assert "is held" in disk["log"]
        finally:
            logging.getLogger("objstore").removeHandler(handler)
        del view

    def test_a_file_that_was_replaced_is_not_what_is_shown(self, tmp_path):
        file = tmp_path / "a.store" / "data.mdb"
        with Store(tmp_path / "a.store") as store, Store(tmp_path / "b.store") as other:
            store["a"] = array()
            other["a"] = array(1)
            file.unlink()
            file.write_bytes((tmp_path / "b.store" / "data.mdb").read_bytes())
            assert np.array_equal(store.view("a"), array())

    def test_without_descriptors_buffers_are_copied(self, disk):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        disk["a"] = array()
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
        try:
            taken = []
            with suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            view = disk.view("a")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for descriptor in taken:
                os.close(descriptor)
        assert not view.flags.writeable
        assert np.array_equal(view, array())
        assert not np.shares_memory(view, disk.view("a"))
        assert len(disk.stats().held) == 0

    def test_one_reader_slot_is_enough(self, tmp_path):
        with Store(tmp_path / "a.store", max_readers=1) as store:
            store["a"] = array()
            assert np.array_equal(store.view("a"), array())
            with store.snapshot() as snap:
                assert np.array_equal(snap["a"], array())

    def test_a_handle_that_read_an_array_is_closed_when_it_is_dropped(self, tmp_path):
        gc.disable()
        try:
            store = Store(tmp_path / "a.store")
            store["a"] = array()
            store["a"], store["a"]
            del store
            Store(tmp_path / "a.store", "n").close()
        finally:
            gc.enable()

    @pytest.mark.parametrize("options", [{"flag": "r"}, {"flag": "r", "immutable": True}])
    def test_a_store_for_reading_shows_views(self, tmp_path, options):
        with Store(tmp_path / "a.store") as store:
            store["a"] = array()
        with Store(tmp_path / "a.store", **options) as store:
            view = store.view("a")
            assert np.shares_memory(view, store.view("a"))
        assert np.array_equal(view, array())


EVERYTHING = """
    import gc, numpy as np, os, random, sys, threading
    from objstore import Store, StoreClosed, StoreLocked

    path, steps, rng = sys.argv[1], int(sys.argv[2]), random.Random(int(sys.argv[3]))
    kept = []                                    # views, each with the number that fills it

    def content(number):
        return np.full(20_000, float(number))

    def check(number, view):
        assert (view == number).all() and not view.flags.writeable, number

    def open_store():
        return Store(path, durability="process")

    def use(store, random):
        "One step of one thread."
        key = random.randrange(20)
        kind = random.randrange(12)
        if kind < 4:
            number = random.randrange(1 << 40)
            store[key] = {"n": number, "a": content(number)}
        elif kind < 6:
            value = store.view(key)
            kept.append((value["n"], value["a"]))
        elif kind == 6:
            with store.snapshot() as snap:
                for value in snap.values():
                    kept.append((value["n"], value["a"]))
        elif kind == 7:
            store.delete(key)
        elif kind == 8:
            with store.transaction() as txn:
                txn[key] = {"n": 5, "a": content(5)}
        elif kind == 9:
            value = store[key]
            assert (value["a"] == value["n"]).all()
            value["a"][:] = 0
        elif kind == 10:
            rest = list(store.items())
            assert all((value["a"] == value["n"]).all() for _, value in rest)
        elif kept:
            kept[:] = random.sample(list(kept), len(kept) // 2)

    store = open_store()
    for step in range(steps):
        kind = rng.randrange(60)
        if kind == 0:
            store.close()
            store = open_store()
        elif kind == 1:
            seeds = [rng.random() for _ in range(3)]
            def work(seed):
                random_ = random.Random(seed)
                for _ in range(10):
                    try:
                        use(store, random_)
                    except KeyError:
                        pass
            threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
        elif kind == 2:
            process = os.fork()
            if process == 0:
                try:
                    [check(*each) for each in kept]
                    use_ = random.Random(step)
                    for _ in range(5):
                        try:
                            use(store, use_)
                        except KeyError:
                            pass
                    [check(*each) for each in kept]
                    os._exit(0)
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    os._exit(1)
            assert os.waitpid(process, 0)[1] == 0
        else:
            try:
                use(store, rng)
            except KeyError:
                pass
        if kept and step % 10 == 0:
            check(*rng.choice(kept))
        if step % 100 == 0:
            [check(*each) for each in kept]
            del kept[100:]
            gc.collect()
    [check(*each) for each in kept]
    store.close()
    [check(*each) for each in kept]
    kept.clear()
    gc.collect()
    Store(path, "n").close()
"""


def test_views_are_kept_and_everything_else_is_done(tmp_path, seed):
    run(EVERYTHING, tmp_path / "a.store", STEPS, seed, seconds=120 + STEPS / 10)
