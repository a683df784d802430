"""What URLs of Redis say, and what is none."""

from __future__ import annotations

from importlib import metadata

import pytest

from uvicorn_worker.broadcast.redis_url import Target, is_redis, parse
from uvicorn_worker.errors import InvalidOption
from uvicorn_worker.options import read_options


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("redis://", Target("", (("localhost", 6379),))),
        ("redis://example.org", Target("", (("example.org", 6379),))),
        ("valkey://[::1]:7000/2", Target("", (("::1", 7000),), options={"db": 2})),
        ("redis://a%40b:c%2Fd@h", Target("", (("h", 6379),), options={"username": "a@b", "password": "c/d"})),
        ("redis://:p@h?db=3", Target("", (("h", 6379),), options={"password": "p", "db": 3})),
        (
            "rediss://h?ssl_ca_certs=/a%20b&ssl_check_hostname=false",
            Target("", (("h", 6379),), tls=True, options={"ssl_ca_certs": "/a b", "ssl_check_hostname": False}),
        ),
        ("redis+unix:///run/a%20b", Target("unix", path="/run/a b")),
        ("redis+unix://u:p@/run/s", Target("unix", path="/run/s", options={"username": "u", "password": "p"})),
        (
            "redis+sentinel://a,b:1/main/4?sentinel_password=x",
            Target(
                "sentinel",
                (("a", 26379), ("b", 1)),
                service="main",
                options={"db": 4},
                sentinel_options={"password": "x"},
            ),
        ),
        ("valkeys+cluster://a,b:1", Target("cluster", (("a", 6379), ("b", 1)), tls=True)),
        (
            "redis://h?prefix=a:&ping=1&dead=3.5&send_timeout=0.5",
            Target("", (("h", 6379),), prefix="a:", ping=1.0, dead=3.5, send_timeout=0.5),
        ),
    ],
)
def test_a_url_says_where_to_connect_and_how(url: str, target: Target) -> None:
    assert is_redis(url)
    assert parse(url) == target


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis://h#x", "are %2F %3F %23 %40"),
        ("redis://:a/b@h", "are %2F %3F %23 %40"),
        ("http://h", "expected redis://"),
        ("redis://a,b", "several servers are"),
        ("redis://h:port", "expected host:port"),
        ("redis://h:99999", "expected host:port"),
        ("redis+cluster://a,,b", "expected host:port"),
        ("redis://h/main", "expected nothing behind"),
        ("redis+cluster://h/0", "expected nothing behind"),
        ("redis+sentinel://h", "expected the name of the master"),
        ("redis+unix://", "expected redis+unix:///path"),
        ("redis+unix://host/path", "expected redis+unix:///path"),
        ("rediss+unix:///path", "expected redis+unix:///path"),
        ("redis://h?timeout=1", "there is no parameter 'timeout'"),
        ("redis://h?db=x", "the parameter 'db' has no good value"),
        ("redis://h?ping=0", "the parameter 'ping' has no good value"),
        ("rediss://h?ssl_cert_reqs=some", "the parameter 'ssl_cert_reqs' has no good value"),
        ("rediss://h?ssl_check_hostname=maybe", "the parameter 'ssl_check_hostname' has no good value"),
        ("redis://h?ssl_ca_certs=/a", "ssl_... is for rediss://"),
        ("redis://h?ping=5&dead=5", "ping is to be less than dead"),
    ],
)
def test_what_can_not_be_meant_is_said_so(url: str, reason: str) -> None:
    with pytest.raises(ValueError) as raised:
        parse(url)
    assert reason in str(raised.value)


@pytest.mark.parametrize("url", ["local://", "redis", "rediss+carrier://h", "http://redis", ""])
def test_other_urls_are_not_of_redis(url: str) -> None:
    assert not is_redis(url)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("redis://u:secret@h/1", "h:6379"),
        ("redis+unix://:secret@/run/s", "/run/s"),
        ("redis+sentinel://u:secret@a,b/main?sentinel_password=secret", "'main' of the Sentinels a:26379,b:26379"),
        ("redis+cluster://:secret@a:1,b:2", "the cluster a:1,b:2"),
    ],
)
def test_it_is_named_without_its_password(url: str, name: str) -> None:
    assert str(parse(url)) == name


@pytest.mark.parametrize(
    "url",
    [
        "redis://:secret@h:x",
        "redis://u:sec/ret@h:x",
        "redis://:secret@#h",
        "redis://h?sentinel_password=secret&x=1",
        "redi://:secret@h",
        "redis://:secret\N{ACCOUNT OF}@h",
        "redis:/:secret@h",
        "redis::secret@h",
        "redis//:secret@h",
        "redis://:secret",
        "redis://user:secret",
        "redis://h?PASSWORD=secret",
        "redis://h?sentinel_passwort=secret",
    ],
)
def test_no_error_of_the_option_tells_the_password(url: str) -> None:
    with pytest.raises(InvalidOption) as raised:
        read_options({"groups": url}, {})
    assert "ret" not in str(raised.value)
    assert "***" in str(raised.value)


@pytest.mark.parametrize(
    ("versions", "reason"),
    [
        ({}, "hiredis is not installed"),
        ({"hiredis": "3.5.0"}, "redis is not installed"),
        ({"redis": "7.4.0", "hiredis": "3.5.0"}, "redis-py 8 is needed, and not 7.4.0"),
    ],
)
def test_what_the_extra_has_and_is_not_there_is_said_so(
    monkeypatch: pytest.MonkeyPatch, versions: dict[str, str], reason: str
) -> None:
    def find(name: str) -> str:
        if name in versions:
            return versions[name]
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("importlib.metadata.version", find)
    with pytest.raises(InvalidOption) as raised:
        read_options({"groups": "redis://h"}, {})
    assert str(raised.value).endswith(f": {reason}: pip install 'redis[hiredis]==8.*'")
    assert read_options({"groups": "local://"}, {}) == {"groups": "local://"}
