"""The engine in memory: the contract, and what its URLs mean."""

from __future__ import annotations

import pytest
from contract_engine import EngineContract, fill, user_keys

from objstore.engines import connect
from objstore.errors import StoreLocked, StoreNotFound, TransactionError


class TestMemoryEngine(EngineContract):
    @pytest.fixture
    def engine(self):
        engine = connect("memory://", "c", {}, None)
        yield engine
        engine.release()

    def test_without_a_name_every_store_is_new(self, engine):
        fill(engine)
        other = connect("memory://", "c", {}, None)
        assert user_keys(other.read()) == []
        other.release()

    def test_it_needs_no_disk_and_says_so(self, engine):
        assert (engine.name, engine.location, engine.durability) == ("memory", "memory://", "process")
        assert engine.stats() == {}

    def test_a_chunk_splits_and_vanishes_as_keys_come_and_go(self, engine):
        keys = [b"\x10%04d" % number for number in range(2000)]
        fill(engine, keys)
        assert user_keys(engine.read()) == keys
        for start in range(0, 2000, 100):
            engine.transact(lambda writer, start=start: writer.delete_range(keys[start], keys[start + 99]))
        assert user_keys(engine.read()) == keys[99::100]


class TestNames:
    @pytest.fixture
    def named(self):
        engine = connect("memory://test-engine", "c", {b"\x10k": b"initial"}, None)
        yield engine
        engine.release()

    def test_a_name_is_one_store_in_the_process(self, named):
        again = connect("memory://test-engine", "r", {b"\x10k": b"not taken"}, None)
        assert again is named
        assert again.get(b"\x10k") == b"initial"
        again.release()
        assert named.get(b"\x10k") == b"initial"

    def test_another_name_is_another_store(self, named):
        other = connect("memory://other", "c", {}, None)
        assert other.get(b"\x10k") is None
        other.release()

    def test_flag_n_does_not_replace_what_is_open(self, named):
        with pytest.raises(StoreLocked, match="close it first"):
            connect("memory://test-engine", "n", {}, None)

    def test_the_name_is_free_again_after_the_last_handle(self, named):
        named.retain()
        named.release()
        assert connect("memory://test-engine", "w", {}, None) is named
        named.release()
        elsewhere = connect("memory://for-a-moment", "n", {}, None)
        elsewhere.release()
        with pytest.raises(StoreNotFound):
            connect("memory://for-a-moment", "w", {}, None)

    @pytest.mark.parametrize("flag", ["r", "w"])
    @pytest.mark.parametrize("location", ["memory://", "memory://missing"])
    def test_flags_r_and_w_make_nothing(self, location, flag):
        with pytest.raises(StoreNotFound, match="open it with flag 'c' first"):
            connect(location, flag, {}, None)


class TestForks:
    def test_what_began_before_a_fork_is_refused_in_the_child(self, monkeypatch):
        engine = connect("memory://", "c", {}, None)
        reader, writer = engine.read(), engine.write()
        monkeypatch.setattr("objstore.engines.base.process.generation", -1)
        for use in (reader.count, writer.count, writer.commit, lambda: next(reader.scan(b"\x00"))):
            with pytest.raises(TransactionError, match="fork"):
                use()
        writer.abort()
        monkeypatch.undo()
        writer.abort()
        engine.release()


class TestConnect:
    @pytest.mark.parametrize("flag", ["", "x", "rw", None])
    def test_there_are_four_flags(self, flag):
        with pytest.raises(ValueError, match="flag is 'r'"):
            connect("memory://", flag, {}, None)

    @pytest.mark.parametrize("location", ["http://host/path", "redi://host", "://x"])
    def test_an_unknown_kind_of_location_is_refused(self, location):
        with pytest.raises(ValueError, match="no engine is known for"):
            connect(location, "c", {}, None)

    @pytest.mark.parametrize("location", ["lmdb://relative", "lmdb://", "lmdb://host/path"])
    def test_an_lmdb_url_has_an_absolute_path(self, location):
        with pytest.raises(ValueError, match="absolute path"):
            connect(location, "c", {}, None)

    def test_a_location_is_text_or_a_path(self):
        with pytest.raises(TypeError, match="a location is a str or a path"):
            connect(b"/tmp/store", "c", {}, None)
