"""What a location on servers may say, and that no password gets out of it."""

from __future__ import annotations

import pytest

from objstore.engines.redis.location import Location, parse

SECRET = "s3:cret/with@everything%"
QUOTED = "s3%3Acret%2Fwith%40everything%25"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host/name", (("host", 6379),)),
        ("redis://host:7000/name", (("host", 7000),)),
        ("valkeys://a:1,b,10.0.0.1:65535/a.b-c_D", (("a", 1), ("b", 6379), ("10.0.0.1", 65535))),
        ("rediss://[::1]:7000,[fe80::1]/name", (("::1", 7000), ("fe80::1", 6379))),
    ],
)
def test_hosts_and_ports(url, expected):
    found = parse(url)
    assert found.addresses == expected
    assert found.text == url
    assert found.tls is url.startswith(("rediss", "valkeys"))
    assert (found.user, found.password, found.timeout) == (None, None, 30)
    assert (found.buckets, found.index, found.replicas, found.ca, found.verify) == (None, None, 1, None, True)


def test_options():
    found = parse("redis://host/name?timeout=1.5&buckets=64&index=no&replicas=2&ca=/etc/a%20ca.pem&verify=no")
    assert (found.timeout, found.buckets, found.index, found.replicas) == (1.5, 64, False, 2)
    assert (found.ca, found.verify) == ("/etc/a ca.pem", False)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://host", "does not name a store; write redis://host:port/name"),
        ("redis://host/", "does not name a store"),
        ("redis://host/a/b", "does not name a store"),
        ("redis://host/{a}", "does not name a store"),
        ("redis://host/" + "a" * 101, "does not name a store"),
        ("redis:///name", "'' in 'redis:///name' is no host and port"),
        ("redis://a,,b/name", "'' in .* is no host and port"),
        ("redis://host:0/name", "'host:0' in .* is no host and port"),
        ("redis://host:65536/name", "is no host and port"),
        ("redis://host:port/name", "is no host and port"),
        ("redis://::1/name", "is no host and port"),
        ("redis://host/name?timeout=0", "timeout=0 in .* should be seconds, from 0.1 to 3600"),
        ("redis://host/name?timeout=nan", "timeout=nan in .* should be seconds"),
        ("redis://host/name?buckets=0", "buckets=0 in .* should be a number from 1 to 16384"),
        ("redis://host/name?index=1", "index=1 in .* should be yes or no"),
        ("redis://host/name?db=1", "has an option 'db'; those that there are: timeout, buckets, index"),
    ],
)
def test_what_makes_no_sense_is_said(url, message):
    with pytest.raises(ValueError, match=message):
        parse(url)


class TestPasswords:
    @pytest.mark.parametrize("user", ["", "user", "us%40er"])
    def test_one_in_the_url_is_used_and_never_shown(self, user):
        found = parse(f"redis://{user}:{QUOTED}@host/name?timeout=2")
        assert found.password == SECRET
        assert found.user == (user.replace("%40", "@") or None)
        assert found.text == f"redis://{user}:***@host/name?timeout=2"
        for shown in (repr(found), str(found)):
            assert SECRET not in shown
            assert QUOTED not in shown

    @pytest.mark.parametrize("rest", ["host", "host:1/", "host/name?timeout=x", "host:x/name", "host/name?db=1"])
    def test_errors_say_none(self, rest):
        with pytest.raises(ValueError, match=r"\*\*\*") as caught:
            parse(f"redis://user:{QUOTED}@{rest}")
        assert QUOTED not in str(caught.value)
        assert SECRET not in str(caught.value)

    @pytest.mark.parametrize("password", ["a/b", "a?b", "a@b", "a/b@c?d:e", "/", "?x=1"])
    def test_one_that_is_not_quoted_is_not_shown_in_parts(self, password):
        found = parse(f"redis://user:{password}@host/name")
        assert (found.password, found.addresses) == (password, (("host", 6379),))
        assert found.text == "redis://user:***@host/name"

    def test_one_in_a_variable_is_named_and_used(self, monkeypatch):
        monkeypatch.setenv("MINE", SECRET)
        found = parse("redis://user:$MINE@host/name")
        assert found.password == SECRET
        assert found.text == "redis://user:$MINE@host/name"
        assert SECRET not in repr(found)

    def test_a_variable_that_is_not_set_is_said(self):
        with pytest.raises(ValueError, match="takes its password from NOT_SET, and no such variable is set"):
            parse("redis://user:$NOT_SET@host/name")

    def test_a_variable_is_asked_where_the_url_has_none(self, monkeypatch):
        monkeypatch.setenv("OBJSTORE_REDIS_PASSWORD", SECRET)
        assert parse("redis://host/name").password == SECRET
        assert parse("redis://user@host/name").password == SECRET
        assert parse("redis://user:***@host/name").password == SECRET
        assert parse("redis://user:other@host/name").password == "other"

    def test_what_was_shown_is_no_password(self):
        with pytest.raises(ValueError, match="is not kept where the location is shown or pickled; give it again"):
            parse("redis://user:***@host/name")

    def test_what_is_shown_can_be_opened_again(self, monkeypatch):
        monkeypatch.setenv("MINE", SECRET)
        found = parse("rediss://us%20er:$MINE@a:1,b/name?buckets=2")
        assert parse(found.text) == found
        assert isinstance(found, Location)
        assert hash(found) == hash(parse(found.text))
