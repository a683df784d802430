"""How requests and responses are delimited, decided by values alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from uvicorn_worker.errors import InvalidReply, RequestRefused
from uvicorn_worker.http11 import framing
from uvicorn_worker.http11.framing import Target


@contextmanager
def refused(status: int) -> Iterator[None]:
    with pytest.raises(RequestRefused) as refusal:
        yield
    assert refusal.value.status == status
    assert refusal.value.reason


# Hosts.

HOSTS = [
    b"",
    b"a",
    b"A.example.ORG",
    b"a.example.",
    b"a:80",
    b"a:",
    b":80",
    b"127.0.0.1",
    b"127.0.0.1:8000",
    b"[::1]",
    b"[::1]:80",
    b"[::ffff:127.0.0.1]",
    b"[2001:DB8::1]:443",
    b"a_b-c~d",
    b"%41.example",
    b"!$&'()*+,;=",
    b"a" * 1000,
]

NO_HOSTS = [
    b" a",
    b"a b",
    b"a/b",
    b"a?b",
    b"a#b",
    b"a\\b",
    b"u@a",
    b"u:p@a",
    b"a:b",
    b"a:80:80",
    b"a:-1",
    b"[::1",
    b"::1",
    b"[a]b",
    b"[:]",
    b"[1:2:3:4:5:6:7:8:9]",
    b"[127.0.0.1]",
    b"[v1.a]",
    b"%4",
    b"%zz",
    b"<a>",
    b'"a"',
    b"a\n",
    b"a\0",
    b"\xe9",
    b"a,b:c",
    b"http://a",
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_host(host: bytes) -> None:
    assert framing.is_host(host)
    framing.check_host([host], "1.1")
    framing.check_host([host], "1.0")


@pytest.mark.parametrize("host", NO_HOSTS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_what_is_no_host(host: bytes, version: str) -> None:
    assert not framing.is_host(host)
    with refused(400):
        framing.check_host([host], version)


def test_one_host_is_needed_but_on_http_1_0() -> None:
    framing.check_host([], "1.0")
    with refused(400):
        framing.check_host([], "1.1")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("hosts", [[b"a", b"b"], [b"a", b"a"], [b"", b"a"], [b"", b""]])
def test_no_more_than_one_host_is_allowed(hosts: list[bytes], version: str) -> None:
    with refused(400):
        framing.check_host(hosts, version)


# Methods and versions.


def test_methods_are_text() -> None:
    assert framing.decode_method(b"GET") == "GET"
    assert framing.decode_method(b"M-SEARCH") == "M-SEARCH"


def test_connect_is_not_implemented() -> None:
    with refused(501):
        framing.decode_method(b"CONNECT")


@pytest.mark.parametrize(
    "method",
    b"DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH".split(),
)
def test_methods_of_rtsp_are_bad(method: bytes) -> None:
    with refused(400):
        framing.decode_method(method)


def test_two_versions_are_supported() -> None:
    framing.check_version("1.0")
    framing.check_version("1.1")
    for version in ("0.9", "1.2", "2.0", "3.0", ""):
        with refused(505):
            framing.check_version(version)


# Targets.

ORIGIN_FORMS = [
    (b"/", Target("/", b"/", b"", b"/")),
    (b"/a/b", Target("/a/b", b"/a/b", b"", b"/a/b")),
    (b"/a?b=c&d", Target("/a", b"/a", b"b=c&d", b"/a?b=c&d")),
    (b"/a?", Target("/a", b"/a", b"", b"/a?")),
    (b"/a?b?c", Target("/a", b"/a", b"b?c", b"/a?b?c")),
    (b"/?%20", Target("/", b"/", b"%20", b"/?%20")),
    (b"//a//b/", Target("//a//b/", b"//a//b/", b"", b"//a//b/")),
    (b"/a/../b", Target("/a/../b", b"/a/../b", b"", b"/a/../b")),
    (b"/%C3%A9%20%2F", Target("/\xe9 /", b"/%C3%A9%20%2F", b"", b"/%C3%A9%20%2F")),
    (b"/%ff%zz%", Target("/\ufffd%zz%", b"/%ff%zz%", b"", b"/%ff%zz%")),
    (b"/%00", Target("/\0", b"/%00", b"", b"/%00")),
    (b"/http://a/b", Target("/http://a/b", b"/http://a/b", b"", b"/http://a/b")),
    (b"/*", Target("/*", b"/*", b"", b"/*")),
]


@pytest.mark.parametrize(("target", "parts"), ORIGIN_FORMS)
def test_a_target_in_origin_form(target: bytes, parts: Target) -> None:
    assert framing.split_target(target) == parts


@pytest.mark.parametrize("target", [b"", b"*", b"a", b"a:80", b"http://a/", b"?a"])
def test_another_form_is_told_apart(target: bytes) -> None:
    with pytest.raises(framing.NotOriginForm):
        framing.split_target(target)


@pytest.mark.parametrize("target", [b"/#", b"/a#b", b"/a?b#c"])
def test_a_fragment_is_bad(target: bytes) -> None:
    with refused(400):
        framing.split_target(target)


ABSOLUTE_FORMS = [
    (b"http://b/c?d", b"b", Target("/c", b"/c", b"d", b"http://b/c?d")),
    (b"HTTPS://b:443/", b"b:443", Target("/", b"/", b"", b"HTTPS://b:443/")),
    (b"http://b", b"b", Target("/", b"/", b"", b"http://b")),
    (b"http://b?d", b"b", Target("/", b"/", b"d", b"http://b?d")),
    (b"http://[::1]:80/c", b"[::1]:80", Target("/c", b"/c", b"", b"http://[::1]:80/c")),
    (b"http://b//c", b"b", Target("//c", b"//c", b"", b"http://b//c")),
    (b"http://b/c/http://d", b"b", Target("/c/http://d", b"/c/http://d", b"", b"http://b/c/http://d")),
]


@pytest.mark.parametrize(("target", "host", "parts"), ABSOLUTE_FORMS)
def test_a_target_in_absolute_form_replaces_the_host(target: bytes, host: bytes, parts: Target) -> None:
    fields = [[b"x", b"y"], [b"host", b"a"], [b"z", b"host"]]
    assert framing.split_other_target(target, "GET", fields) == parts
    assert fields == [[b"x", b"y"], [b"host", host], [b"z", b"host"]]
    fields = []
    assert framing.split_other_target(target, "GET", fields) == parts
    assert fields == [[b"host", host]]


def test_options_may_ask_about_the_whole_server() -> None:
    fields = [[b"host", b"a"]]
    assert framing.split_other_target(b"*", "OPTIONS", fields) == Target("*", b"*", b"", b"*")
    assert fields == [[b"host", b"a"]]
    assert framing.split_other_target(b"http://b", "OPTIONS", fields) == Target("*", b"*", b"", b"http://b")
    assert fields == [[b"host", b"b"]]
    assert framing.split_other_target(b"http://b/", "OPTIONS", fields) == Target("/", b"/", b"", b"http://b/")


@pytest.mark.parametrize(
    "target",
    [b"*", b"**", b"a", b"a:80", b"?a", b"http:/a", b"http://", b"http:///a", b"http://u@a/", b"http://a b/"]
    + [b"http://a:b/", b"http://a/b#c", b"http://a#b", b"http://?a", b"http://[::1/", b"httpx://a/", b"ftp://a/"]
    + [b"http://:80/"],
)
def test_any_other_target_is_bad(target: bytes) -> None:
    fields = [[b"host", b"a"]]
    with refused(400):
        framing.split_other_target(target, "GET", fields)


# Transfer codings of requests.


@pytest.mark.parametrize("codings", [[b"chunked"], [b"Chunked"], [b" chunked\t"], [b"CHUNKED"]])
def test_chunked_is_the_coding_that_is_served(codings: list[bytes]) -> None:
    assert framing.is_chunked(codings, "1.1")


def test_no_transfer_encoding_is_not_chunked() -> None:
    assert not framing.is_chunked([], "1.1")
    assert not framing.is_chunked([], "1.0")


@pytest.mark.parametrize(
    "codings", [[b"gzip, chunked"], [b"gzip", b"chunked"], [b"a;b=c,chunked"], [b"identity,chunked"]]
)
def test_an_unknown_coding_is_not_implemented(codings: list[bytes]) -> None:
    with refused(501):
        framing.is_chunked(codings, "1.1")


@pytest.mark.parametrize(
    "codings",
    [
        [b""],
        [b","],
        [b", chunked"],
        [b"chunked,"],
        [b"chunked, chunked"],
        [b"chunked", b"chunked"],
        [b"chunked, gzip"],
        [b"chunked, gzip, chunked"],
        [b"gzip"],
        [b"identity"],
        [b"chunked;a=b"],
        [b"xchunked"],
        [b"\x0bchunked"],
        [b"chunked\x0c"],
    ],
)
def test_an_encoding_that_does_not_end_in_one_chunked_is_bad(codings: list[bytes]) -> None:
    with refused(400):
        framing.is_chunked(codings, "1.1")


def test_http_1_0_has_no_transfer_encoding() -> None:
    with refused(400):
        framing.is_chunked([b"chunked"], "1.0")


# Expectations.


def test_one_expectation_is_known() -> None:
    assert framing.expects_continue([b"100-continue"], "1.1")
    assert framing.expects_continue([b"100-Continue"], "1.1")
    assert framing.expects_continue([b"100-continue,, 100-continue", b""], "1.1")
    assert not framing.expects_continue([], "1.1")
    assert not framing.expects_continue([b"", b","], "1.1")


@pytest.mark.parametrize("values", [[b"tea"], [b"100-continue, tea"], [b"100-continue", b"tea"], [b"100"]])
def test_any_other_expectation_fails(values: list[bytes]) -> None:
    with refused(417):
        framing.expects_continue(values, "1.1")


def test_http_1_0_has_no_expectations() -> None:
    assert not framing.expects_continue([b"100-continue"], "1.0")
    assert not framing.expects_continue([b"tea"], "1.0")


# Responses.


def test_chunks() -> None:
    assert b"".join(framing.chunked(b"hello")) == b"5\r\nhello\r\n"
    assert b"".join(framing.chunked(bytes(255))) == b"ff\r\n" + bytes(255) + b"\r\n"
    assert framing.chunked(b"") == ()
    assert framing.last_chunk(b"") == b"0\r\n\r\n"
    assert framing.last_chunk(b"a: b\r\n") == b"0\r\na: b\r\n\r\n"


def test_plain_and_no_content() -> None:
    assert framing.plain(b"hello") == (b"hello",)
    assert framing.plain(b"") == framing.bodiless(b"hello") == ()


LENGTH = b"content-length: 5\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"

DELIMITED = [
    # status, declared, HEAD, chunks: field, framing, enforced length
    (200, 5, False, True, (LENGTH, framing.plain, 5)),
    (200, 5, False, False, (LENGTH, framing.plain, 5)),
    (200, None, False, True, (CHUNKED, framing.chunked, None)),
    (200, None, False, False, (b"", framing.plain, None)),
    (200, 5, True, True, (LENGTH, framing.bodiless, None)),
    (200, None, True, True, (CHUNKED, framing.bodiless, None)),
    (200, None, True, False, (b"", framing.bodiless, None)),
    (204, 5, False, True, (b"", framing.bodiless, None)),
    (204, None, False, True, (b"", framing.bodiless, None)),
    (204, None, True, False, (b"", framing.bodiless, None)),
    (304, 5, False, True, (LENGTH, framing.bodiless, None)),
    (304, None, False, True, (b"", framing.bodiless, None)),
    (500, 5, False, True, (LENGTH, framing.plain, 5)),
]


@pytest.mark.parametrize(("status", "declared", "is_head", "has_chunks", "expected"), DELIMITED)
def test_how_a_response_is_delimited(
    status: int,
    declared: int | None,
    is_head: bool,
    has_chunks: bool,
    expected: tuple[bytes, framing.Framing, int | None],
) -> None:
    assert framing.delimit(status, declared, is_head=is_head, has_chunks=has_chunks) == expected


@pytest.mark.parametrize(("values", "length"), [([b"0"], 0), ([b"5"], 5), ([b"005"], 5), ([b"5", b"5"], 5)])
def test_a_content_length_of_the_application(values: list[bytes], length: int) -> None:
    assert framing.parse_content_length(values) == length


@pytest.mark.parametrize(
    "values", [[b""], [b"-1"], [b"+1"], [b"1.0"], [b"0x1"], [b" 1"], [b"1_0"], [b"1", b"2"], [b"1, 1"], [b"\xb2"]]
)
def test_a_content_length_that_is_none(values: list[bytes]) -> None:
    with pytest.raises(InvalidReply, match="content-length"):
        framing.parse_content_length(values)


@pytest.mark.parametrize("values", [[b"close"], [b"Close"], [b"a, close"], [b"a", b"b ,\tCLOSE "], [b"close,"]])
def test_a_token_is_found_in_a_list(values: list[bytes]) -> None:
    assert framing.has_token(values, b"close")


@pytest.mark.parametrize("values", [[], [b""], [b"closed"], [b"x-close"], [b"clo", b"se"], [b"close=1"], [b"a close"]])
def test_a_part_of_a_token_is_none(values: list[bytes]) -> None:
    assert not framing.has_token(values, b"close")
