"""What every mapping of the library does: stores and transactions of both engines, snapshots for the reading half."""

import pickle
from collections.abc import MutableMapping

import numpy as np
import pytest

from objstore import DecodeError, EncodeError, Store


class Clock:
    """Seconds that stand still until somebody moves them."""

    def __init__(self):
        self.now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(everywhere, clock):
    with Store(everywhere, clock=clock) as store:
        yield store


@pytest.fixture(params=["store", "namespace", "transaction", "namespace in a transaction"])
def mapping(request, opened):
    """Everything that can be written to."""
    if request.param == "store":
        yield opened
    elif request.param == "namespace":
        yield opened.namespace("other")
    else:
        with opened.transaction() as txn:
            yield txn if request.param == "transaction" else txn.namespace("other")


class TestReading:
    def test_it_is_a_mutable_mapping(self, mapping):
        assert isinstance(mapping, MutableMapping)

    def test_what_was_stored_comes_back_equal_and_not_the_same(self, mapping):
        value = {"list": [1, 2, 3], "text": "x"}
        mapping["key"] = value
        assert mapping["key"] == value
        assert mapping["key"] is not value
        assert mapping["key"] is not mapping["key"]

    def test_a_missing_key_is_a_key_error_with_the_key(self, mapping):
        with pytest.raises(KeyError) as caught:
            mapping["nothing", 1]
        assert caught.value.args == (("nothing", 1),)

    def test_a_stored_none_is_a_value(self, mapping):
        mapping["key"] = None
        assert mapping["key"] is None
        assert mapping.get("key", "absent") is None
        assert "key" in mapping
        assert mapping.get("other", "absent") == "absent"

    def test_equal_keys_are_one_key_and_read_back_plain(self, mapping):
        mapping[True] = "a"
        mapping[1.0] = "b"
        mapping["1"] = "text"
        mapping[b"1"] = "bytes"
        assert mapping[1] == "b"
        assert list(mapping) == [1, "1", b"1"]
        assert type(next(iter(mapping))) is int

    def test_iteration_is_in_key_order_both_ways(self, mapping):
        for key in ("b", "a", 10, 9, (2, "x"), (1, "y"), None):
            mapping[key] = key
        expected = [None, 9, 10, "a", "b", (1, "y"), (2, "x")]
        assert list(mapping) == list(mapping.keys()) == list(mapping.values()) == expected
        assert list(mapping.items()) == [(key, key) for key in expected]
        assert list(reversed(mapping)) == list(reversed(mapping.keys())) == expected[::-1]
        assert list(reversed(mapping.items())) == [(key, key) for key in expected[::-1]]
        assert len(mapping) == len(mapping.keys()) == 7
        assert (mapping.first(), mapping.last()) == (None, (2, "x"))

    def test_first_and_last_of_nothing_are_key_errors(self, mapping):
        for end in (mapping.first, mapping.last, mapping.popitem):
            with pytest.raises(KeyError):
                end()

    def test_views_are_live_sets(self, mapping):
        keys, items = mapping.keys(), mapping.items()
        mapping.update(a=1, b=2)
        assert keys == {"a", "b"}
        assert keys & {"a", "z"} == {"a"}
        assert keys | {"z"} == {"a", "b", "z"}
        assert keys - {"a"} == {"b"}
        assert items == {("a", 1), ("b", 2)}
        assert ("a", 1) in items
        assert ("a", 2) not in items
        assert ("z", 2) not in items
        assert 2 in mapping.values()
        assert 3 not in mapping.values()

    def test_a_mapping_equals_a_dict_of_the_same_items(self, mapping):
        mapping.update(a=1, b=[2])
        assert mapping == {"b": [2], "a": 1}
        assert mapping != {"a": 1}

    def test_get_many_gives_those_that_are_there(self, mapping):
        mapping.update({1: "one", 2: "two", "k" * 1000: "long"})
        assert mapping.get_many([2, 3, "k" * 1000, True]) == {2: "two", "k" * 1000: "long", 1: "one"}

    def test_long_keys_are_keys_like_any_other(self, mapping):
        long, other = "k" * 10_000, "k" * 9_999 + "l"
        mapping[long], mapping[other] = 1, 2
        mapping["k" * 400] = 0
        assert (mapping[long], mapping[other], mapping["k" * 400]) == (1, 2, 0)
        assert set(mapping) == {long, other, "k" * 400}
        assert next(iter(mapping)) == "k" * 400
        assert "k" * 9_998 not in mapping
        assert mapping.entry(long).key == long
        assert mapping.pop(long) == 1
        assert mapping.delete(other)
        assert list(mapping) == ["k" * 400]


class TestRanges:
    @pytest.fixture(autouse=True)
    def _filled(self, mapping):
        mapping.update({key: key for key in [None, 1, 2, 2.5, 3, "a", "ab", "b", b"a", ("u", 1), ("u", 1.5), ("v",)]})

    def test_half_open_with_either_end_left_out(self, mapping):
        assert list(mapping.range(2, 3)) == [2, 2.5]
        assert list(mapping.range(2)) == [2, 2.5, 3]
        assert list(mapping.range(stop=2.5)) == [1, 2]
        assert list(mapping.range("ab")) == ["ab", "b"]
        assert list(mapping.range(None)) == [None]
        assert list(mapping.range(2, "ab")) == [2, 2.5, 3, "a"]
        assert list(mapping.range(3, 2)) == []

    def test_prefixes_of_text_bytes_and_tuples(self, mapping):
        assert list(mapping.range(prefix="a")) == ["a", "ab"]
        assert list(mapping.range(prefix=b"")) == [b"a"]
        assert list(mapping.range(prefix=("u",))) == [("u", 1), ("u", 1.5)]
        assert list(mapping.range(prefix=("u", 1))) == [("u", 1)]
        assert list(mapping.range(prefix=())) == [("u", 1), ("u", 1.5), ("v",)]

    def test_past_all_that_begin_so(self, mapping):
        assert list(mapping.range(past="a")) == ["b"]
        assert list(mapping.range(past=())) == []
        assert list(mapping.range(past=("u",))) == [("v",)]
        assert list(mapping.range(past=("u", 1), prefix=("u",))) == [("u", 1.5)]
        assert list(mapping.range(past=("u",), prefix=("u",))) == []
        assert list(mapping.range(past=("a",), prefix=("u",))) == [("u", 1), ("u", 1.5)]
        assert list(mapping.range(past="ab", stop=b"b")) == ["b", b"a"]
        assert list(mapping.range(past=b"", reverse=True)) == []
        with pytest.raises(TypeError, match="past a prefix, not both"):
            mapping.range("a", past="b")
        with pytest.raises(TypeError, match="a prefix is text, bytes or a tuple"):
            mapping.range(past=1)
        with pytest.raises(ValueError, match="too long"):
            mapping.range(past="x" * 1000)

    def test_a_range_has_the_views_of_a_mapping(self, mapping):
        chosen = mapping.range("a", "b")
        assert list(chosen.items()) == [("a", "a"), ("ab", "ab")]
        assert list(chosen.values()) == list(chosen.keys()) == ["a", "ab"]
        assert [entry.key for entry in chosen.entries()] == ["a", "ab"]
        assert len(chosen) == 2
        assert "ab" in chosen
        assert "b" not in chosen
        assert "aa" not in chosen
        assert chosen["a"] == "a"
        assert list(reversed(chosen)) == list(mapping.range("a", "b", reverse=True)) == ["ab", "a"]
        assert chosen
        assert not mapping.range("x")
        with pytest.raises(KeyError):
            chosen["b"]

    def test_clearing_a_range_leaves_the_rest(self, mapping):
        assert mapping.range(2, 3).clear() == 2
        assert list(mapping.range(0)) == [1, 3]
        assert len(mapping) == 10

    def test_a_prefix_and_bounds_together_make_no_sense(self, mapping):
        with pytest.raises(TypeError, match="not both"):
            mapping.range("a", prefix="b")


class TestPayloads:
    def test_what_the_codec_made_is_seen_and_not_decoded(self, mapping):
        mapping.set("key", {"list": [1, 2]}, ttl=100, tags=["tag"])
        data, buffers = mapping.entry("key").payload()
        assert pickle.loads(data) == {"list": [1, 2]}
        assert data.readonly
        assert buffers == ()
        mapping["bomb"] = Bomb()
        assert b"never" in bytes(mapping.entry("bomb").payload().data)

    def test_large_buffers_stand_beside_it(self, mapping):
        value = [np.arange(10_000), np.ones(20_000)]
        mapping["key"] = value
        data, buffers = mapping.entry("key").payload()
        assert [buffer.nbytes for buffer in buffers] == [80_000, 160_000]
        assert all(buffer.readonly for buffer in buffers)
        one, other = pickle.loads(data, buffers=buffers)
        assert (one == value[0]).all()
        assert (other == value[1]).all()

    def test_what_is_gone_or_expired_is_missing(self, mapping, clock):
        mapping["key"] = 1
        entry = mapping.entry("key")
        mapping.set("key", 1, ttl=10)
        entry.payload()
        clock.now += 11
        with pytest.raises(KeyError):
            entry.payload()


class TestWriting:
    def test_delete_says_whether_and_del_raises(self, mapping):
        mapping["key"] = 1
        assert mapping.delete("key")
        assert not mapping.delete("key")
        with pytest.raises(KeyError):
            del mapping["key"]

    def test_pop_popitem_setdefault(self, mapping):
        mapping.update(a=1, b=2)
        assert mapping.pop("a") == 1
        assert mapping.pop("a", "gone") == "gone"
        with pytest.raises(KeyError):
            mapping.pop("a")
        assert mapping.popitem() == ("b", 2)
        assert mapping.setdefault("c", 3) == 3
        assert mapping.setdefault("c", 4) == 3
        assert mapping.setdefault("d") is None

    def test_pop_does_not_remove_what_it_cannot_decode(self, mapping):
        mapping["key"] = Unloadable()
        with pytest.raises(DecodeError):
            mapping.pop("key")
        assert "key" in mapping

    def test_update_takes_what_dict_update_takes(self, mapping):
        mapping.update({"a": 1}, b=2)
        mapping.update([("c", 3)])
        mapping |= {"d": 4}
        assert mapping == {"a": 1, "b": 2, "c": 3, "d": 4}
        assert mapping | {"a": 0} == {"a": 0, "b": 2, "c": 3, "d": 4}
        assert {"a": 0} | mapping == {"a": 1, "b": 2, "c": 3, "d": 4}

    def test_one_bad_value_changes_nothing(self, mapping):
        mapping["a"] = 1
        with pytest.raises(EncodeError) as caught:
            mapping.update({"a": 2, "bad": lambda: 0, "c": 3})
        assert caught.value.key == "bad"
        assert mapping == {"a": 1}

    def test_conditional_writes(self, mapping):
        assert mapping.add("key", 1)
        assert not mapping.add("key", 2)
        assert not mapping.compare_and_set("key", 2, 3)
        assert mapping.compare_and_set("key", 1.0, 3)
        assert not mapping.compare_and_set("absent", None, 3)
        assert mapping["key"] == 3
        assert mapping.increment("key") == 4
        assert mapping.increment("new", 0.5, default=1) == 1.5
        assert mapping.modify("key", lambda value: value * 2) == 8
        assert mapping.modify("list", lambda value: [*value, 1], default=[]) == [1]
        with pytest.raises(KeyError):
            mapping.modify("absent", lambda value: value)

    def test_edit_writes_back_on_exit_and_nothing_if_the_block_raises(self, mapping):
        with mapping.edit("list", default=[]) as value:
            value.append(1)
        with pytest.raises(LookupError), mapping.edit("list") as value:
            value.append(2)
            raise LookupError
        with mapping.edit("other", default_factory=dict) as value:
            value["x"] = 1
        assert mapping == {"list": [1], "other": {"x": 1}}
        with pytest.raises(KeyError), mapping.edit("absent"):
            pass
        mapping["text"] = "immutable"
        with pytest.raises(TypeError, match="modify"), mapping.edit("text"):
            pass

    def test_delete_many_counts_what_was_there(self, mapping):
        mapping.update(a=1, b=2, c=3)
        assert mapping.delete_many(["a", "c", "nothing"]) == 2
        assert mapping == {"b": 2}

    def test_clear(self, mapping):
        mapping.update({n: n for n in range(100)})
        mapping.clear()
        assert len(mapping) == 0
        assert list(mapping) == []


class TestEntries:
    def test_a_look_does_not_decode(self, mapping):
        mapping["bad"] = Unloadable()
        mapping.set("good", [1], ttl=60, tags=("x", "y"))
        bad, good = mapping.entries()
        assert (bad.key, bad.codec, bad.expires_at, bad.tags) == ("bad", "pickle", None, ())
        assert (good.key, good.tags) == ("good", ("x", "y"))
        assert good.expires_at.timestamp() == 1_000_060
        assert good.value == [1]
        assert good.value is good.value
        assert len(good.raw()) == good.size
        assert "bad" in mapping
        assert len(mapping) == 2
        assert list(mapping) == ["bad", "good"]
        with pytest.raises(DecodeError):
            _ = bad.value
        with pytest.raises(KeyError):
            mapping.entry("nothing")


class TestExpiry:
    def test_an_expired_key_is_absent_for_every_operation(self, mapping, clock):
        mapping.set("key", 1, ttl=10, tags=["t"])
        mapping["stays"] = 2
        assert mapping.ttl("key") == 10
        clock.now += 10
        assert "key" not in mapping
        assert mapping.get("key") is None
        assert len(mapping) == 1
        assert list(mapping) == ["stays"]
        assert list(mapping.items()) == [("stays", 2)]
        assert [entry.key for entry in mapping.entries()] == ["stays"]
        assert list(mapping.range(tag="t")) == []
        assert mapping.get_many(["key", "stays"]) == {"stays": 2}
        assert not mapping.delete("key")
        assert mapping.pop("key", None) is None
        assert not mapping.touch("key", 5)
        with pytest.raises(KeyError):
            mapping.ttl("key")
        assert mapping.add("key", 3)
        assert mapping.ttl("key") is None

    def test_assignment_takes_expiry_and_tags_away(self, mapping):
        mapping.set("key", 1, ttl=10, tags=["t"])
        mapping["key"] = 2
        assert mapping.ttl("key") is None
        assert list(mapping.range(tag="t")) == []
        assert mapping.expire() == 0

    def test_changes_of_what_exists_keep_both(self, mapping, clock):
        mapping.set("n", 1, ttl=10, tags=["t"])
        mapping.increment("n")
        mapping.modify("n", lambda n: n + 1)
        mapping.compare_and_set("n", 3, [4])
        with mapping.edit("n") as value:
            value.append(5)
        assert mapping["n"] == [4, 5]
        assert mapping.ttl("n") == 10
        assert list(mapping.range(tag="t")) == ["n"]

    def test_touch_moves_the_end(self, mapping, clock):
        mapping.set("key", 1, ttl=10, tags=["t"])
        assert mapping.touch("key", 100)
        clock.now += 50
        assert mapping.ttl("key") == 50
        assert mapping.touch("key", None)
        assert mapping.ttl("key") is None
        assert list(mapping.range(tag="t")) == ["key"]
        assert not mapping.touch("nothing", 1)

    def test_the_sweep_removes_what_is_expired_and_counts_it(self, mapping, clock):
        mapping.update({n: n for n in range(5)}, ttl=10)
        mapping.update({n: n for n in range(5, 8)}, ttl=20)
        mapping["k" * 1000] = "stays"
        clock.now += 15
        assert len(mapping) == 4
        assert mapping.expire() == 5
        assert mapping.expire() == 0
        assert len(mapping) == 4

    def test_an_operation_reads_the_clock_once(self, mapping, clock, monkeypatch):
        def ticking():
            clock.now += 1
            return clock.now

        monkeypatch.setattr(mapping._space, "clock", ticking)
        for _ in range(10):
            mapping.set("n", 1, ttl=3)
            assert mapping.increment("n", default=0) in (1, 2)  # it is there or it is not, and never both
            mapping.compare_and_set("n", 1, 2)
            mapping.pop("n", None)

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), 1e10])
    def test_a_ttl_out_of_bounds_is_a_value_error(self, mapping, ttl):
        with pytest.raises(ValueError, match="None is for ever"):
            mapping.set("key", 1, ttl=ttl)
        with pytest.raises(TypeError, match="seconds"):
            mapping.set("key", 1, ttl="soon")


class TestTags:
    def test_by_tag_in_key_order(self, mapping):
        mapping.update({"b": 1, "a": 2}, tags=["x"])
        mapping.set("c", 3, tags=["x", "y"])
        mapping["d"] = 4
        assert list(mapping.range(tag="x")) == ["a", "b", "c"]
        assert list(mapping.range("b", tag="x").items()) == [("b", 1), ("c", 3)]
        assert list(mapping.range(tag="x", reverse=True)) == ["c", "b", "a"]
        assert "d" not in mapping.range(tag="x")
        assert len(mapping.range(tag="y")) == 1
        assert mapping.range("a", "b", tag="x").clear() == 1
        assert mapping.delete_tag("x") == 2
        assert mapping == {"d": 4}
        assert mapping.delete_tag("x") == 0

    def test_a_text_in_the_place_of_tags_is_refused(self, mapping):
        with pytest.raises(TypeError, match=r"\('urgent',\)"):
            mapping.set("key", 1, tags="urgent")


class Unloadable:
    """Pickles, and cannot be loaded again."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise RuntimeError("not here")


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemError('never')",)
