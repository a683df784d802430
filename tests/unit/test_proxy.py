"""Who the client is: trusted proxies, what their fields say, and PROXY headers, hostile ones included."""

from __future__ import annotations

import ipaddress
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uvicorn_worker._types import Address
from uvicorn_worker.config import PROXY_HEADER_BYTES, Settings
from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.proxy import (
    ABSENT,
    AllowList,
    ProxyHeader,
    ProxyPolicy,
    Told,
    read_proxy_header,
    split_address,
)

PEER = ("127.0.0.1", 50007)


def policy(**settings: Any) -> ProxyPolicy:
    return ProxyPolicy(Settings(**settings))


def flat(*fields: tuple[bytes, bytes]) -> tuple[bytes, ...]:
    """The fields as a policy reads them."""
    return tuple(part for field in fields for part in field)


def chain(*values: bytes) -> tuple[bytes, ...]:
    return flat(*((b"x-forwarded-for", value) for value in values))


# Who is trusted.


@pytest.mark.parametrize(
    ("allowed", "host", "trusted"),
    [
        (("127.0.0.1", "::1"), "127.0.0.1", True),
        (("127.0.0.1", "::1"), "::1", True),
        (("127.0.0.1", "::1"), "0:0:0:0:0:0:0:1", True),
        (("127.0.0.1", "::1"), "127.0.0.2", False),
        (("127.0.0.1",), "::ffff:127.0.0.1", True),
        (("::ffff:0:0/96",), "::ffff:127.0.0.1", True),
        (("::ffff:0:0/96",), "127.0.0.1", False),
        (("10.0.0.0/8", "2001:db8::/32"), "10.255.0.1", True),
        (("10.0.0.0/8", "2001:db8::/32"), "11.0.0.1", False),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db8::7", True),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db9::7", False),
        (("*",), "203.0.113.7", True),
        (("10.0.0.1", "*"), "anything", True),
        ((), "127.0.0.1", False),
        ((), "", False),
        (("proxy",), "proxy", True),
        (("proxy",), "Proxy", False),
        (("10.0.0.1/8",), "10.0.0.1", False),
        (("0.0.0.0/0",), "unknown", False),
        (("127.0.0.1",), "127.0.0.1 ", False),
        (("127.0.0.1",), "127.0.0.01", False),
        (("127.0.0.1",), "2130706433", False),
    ],
)
def test_trust_goes_by_address_network_and_name(allowed: tuple[str, ...], host: str, trusted: bool) -> None:
    forwarders = AllowList(allowed)
    assert (host in forwarders) is trusted
    assert (host in forwarders) is trusted  # when it is remembered, too


@pytest.mark.parametrize("allowed", [(), ("10.0.0.1",), ("*",)])
def test_the_peer_at_a_unix_socket_is_trusted(allowed: tuple[str, ...]) -> None:
    assert None in AllowList(allowed)
    assert policy(forwarded_allow_ips=allowed).trust_in(None) is True


def test_what_is_remembered_of_hosts_is_bounded() -> None:
    forwarders = AllowList(("10.0.0.0/8",))
    for number in range(5000):
        assert str(ipaddress.IPv4Address(number)) not in forwarders
        assert f"{number}" * 100 not in forwarders
    assert len(forwarders._known) <= 1024
    assert max(map(len, forwarders._known)) <= 64


@pytest.mark.parametrize(
    ("settings", "peer", "told", "trust"),
    [
        ({}, PEER, None, True),
        ({}, ("10.0.0.1", 1), None, False),
        ({"proxy_headers": False}, PEER, None, False),
        ({"proxy_headers": False}, None, None, False),
        ({}, PEER, ("203.0.113.7", 1), False),
        ({}, PEER, ("::1", 1), True),
        ({}, None, ("203.0.113.7", 1), False),
        ({}, ("10.0.0.1", 1), ("127.0.0.1", 1), False),
        ({"forwarded_allow_ips": ("*",)}, ("10.0.0.1", 1), ("203.0.113.7", 1), True),
    ],
)
def test_trust_in_a_peer_and_in_the_client_that_it_speaks_for(
    settings: dict[str, Any], peer: Address | None, told: Address | None, trust: bool
) -> None:
    assert policy(**settings).trust_in(peer, told) is trust


# The client.


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", ("192.0.2.1", 0)),
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("[2001:db8::1]", ("2001:db8::1", 0)),
        ("[2001:db8::1]:8080", ("2001:db8::1", 8080)),
        ("2001:db8::1:8080", ("2001:db8::1:8080", 0)),
        ("unknown", ("unknown", 0)),
        ("_hidden:443", ("_hidden", 443)),
        ("192.0.2.1:", ("192.0.2.1:", 0)),
        ("192.0.2.1:http", ("192.0.2.1:http", 0)),
        ("192.0.2.1:-1", ("192.0.2.1:-1", 0)),
        ("192.0.2.1:1_0", ("192.0.2.1:1_0", 0)),
        ("192.0.2.1:\xb2", ("192.0.2.1:\xb2", 0)),
        ("192.0.2.1:65536", ("192.0.2.1", 0)),
        ("192.0.2.1:" + "9" * 5000, ("192.0.2.1:" + "9" * 5000, 0)),
        ("[2001:db8::1", ("[2001:db8::1", 0)),
        ("[2001:db8::1]80", ("[2001:db8::1]80", 0)),
        ("[]:80", ("", 80)),
        (":80", ("", 80)),
        ("", ("", 0)),
    ],
)
def test_a_hop_is_split_into_host_and_port(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


TRUSTED = ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32", "proxy")


@pytest.mark.parametrize(
    ("allowed", "values", "client"),
    [
        (TRUSTED, [b"203.0.113.7"], ("203.0.113.7", 0)),
        (TRUSTED, [b"203.0.113.7:4711"], ("203.0.113.7", 4711)),
        (TRUSTED, [b"203.0.113.7, 10.0.0.1"], ("203.0.113.7", 0)),
        (TRUSTED, [b"1.1.1.1, 203.0.113.7, 10.0.0.1,10.0.0.2"], ("203.0.113.7", 0)),
        (TRUSTED, [b"1.1.1.1", b"203.0.113.7", b"10.0.0.1"], ("203.0.113.7", 0)),
        (TRUSTED, [b"203.0.113.7, [2001:db8::1]:80, proxy"], ("203.0.113.7", 0)),
        (TRUSTED, [b"10.0.0.3, 10.0.0.1"], ("10.0.0.3", 0)),
        (TRUSTED, [b"\t203.0.113.7\t,\t10.0.0.1"], ("203.0.113.7", 0)),
        (TRUSTED, [b"203.0.113.7, unknown"], ("unknown", 0)),
        (TRUSTED, [b"203.0.113.7, "], None),
        (TRUSTED, [b""], None),
        (TRUSTED, [b"", b""], None),
        (TRUSTED, [b"caf\xe9"], ("caf\xe9", 0)),
        (("*",), [b"203.0.113.7, 10.0.0.1", b"10.0.0.2"], ("203.0.113.7", 0)),
        (("*",), [b", 10.0.0.1"], None),
        (("*",), [b"[2001:db8::1]:80, 10.0.0.1"], ("2001:db8::1", 80)),
    ],
)
def test_the_client_is_the_rightmost_hop_that_is_not_trusted(
    allowed: tuple[str, ...], values: list[bytes], client: Address | None
) -> None:
    told = policy(forwarded_allow_ips=allowed).read[chain(*values)]
    assert told == ({} if client is None else {"client": client})


def test_of_an_endless_chain_only_the_end_is_looked_at() -> None:
    value = b"203.0.113.7" + b",10.0.0.1" * 5000
    assert policy(forwarded_allow_ips=TRUSTED).read[chain(value)] == {"client": ("10.0.0.1", 0)}


def test_what_is_remembered_of_fields_is_bounded() -> None:
    proxies = policy(forwarded_allow_ips=TRUSTED)
    for number in range(3000):
        proxies.read[chain(b"203.0.113.%d" % number)]
        proxies.read[chain(b"%d" % number * 300)]
    assert len(proxies.read) <= 1024
    assert max(sum(map(len, fields)) for fields in proxies.read) <= 256


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_no_value_of_a_chain_is_an_error(values: list[bytes]) -> None:
    told = policy(forwarded_allow_ips=TRUSTED).read[chain(*values)]
    assert set(told) <= {"client"}
    if told:
        host, port = told["client"]
        assert host
        assert 0 <= port < 65536


@given(st.lists(st.ip_addresses().map(str), max_size=5), st.ip_addresses(v=4), st.lists(st.sampled_from(["10.1.2.3"])))
def test_whatever_a_client_writes_it_is_whom_the_first_trusted_proxy_saw(
    forged: list[str], client: ipaddress.IPv4Address, proxies: list[str]
) -> None:
    if client in ipaddress.ip_network("10.0.0.0/8"):
        return
    value = ", ".join([*forged, str(client), *proxies]).encode()
    assert policy(forwarded_allow_ips=("10.0.0.0/8",)).read[chain(value)] == {"client": (str(client), 0)}


# The scheme.

PROTO, SSL, PROTOCOL = b"x-forwarded-proto", b"x-forwarded-ssl", b"x-forwarded-protocol"


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ((), None),
        (((PROTO, b"https"),), "https"),
        (((PROTO, b"http"),), "http"),
        (((PROTO, b"wss"),), "https"),
        (((PROTO, b"ws"),), "http"),
        (((PROTO, b"HTTPS"),), "http"),
        (((PROTO, b"https, http"),), "http"),
        (((PROTO, b""),), "http"),
        (((SSL, b"on"),), "https"),
        (((SSL, b"off"),), "http"),
        (((PROTOCOL, b"ssl"),), "https"),
        (((PROTO, b"https"), (SSL, b"on"), (PROTOCOL, b"ssl")), "https"),
        (((PROTO, b"wss"), (PROTO, b"https")), "https"),
        (((PROTO, b"http"), (SSL, b"off")), "http"),
        (((b"x-forwarded-for", b"203.0.113.7"),), None),
    ],
)
def test_the_scheme_is_as_gunicorns_fields_say(fields: tuple[tuple[bytes, bytes], ...], scheme: str | None) -> None:
    assert policy().read[flat(*fields)].get("scheme") == scheme


@pytest.mark.parametrize(
    "fields",
    [
        ((PROTO, b"http"), (SSL, b"on")),
        ((SSL, b"on"), (PROTO, b"http")),
        ((PROTO, b"https"), (PROTO, b"http")),
        ((PROTO, b"https"), (PROTOCOL, b"")),
    ],
)
def test_fields_that_contradict_each_other_are_refused_each_time(fields: tuple[tuple[bytes, bytes], ...]) -> None:
    proxies = policy()
    for _ in range(2):
        with pytest.raises(RequestRefused) as refusal:
            proxies.read[flat(*fields)]
        assert refusal.value.status == 400


def test_fields_of_ones_own_stand_instead_of_the_usual_ones() -> None:
    proxies = policy(secure_scheme_headers=((b"x-secure", b"Yes"), (SSL, b"1")))
    assert proxies.more_fields == {b"x-secure"}
    assert proxies.read[flat((b"x-secure", b"Yes"))] == {"scheme": "https"}
    assert proxies.read[flat((b"x-secure", b"yes"))] == {"scheme": "http"}
    assert proxies.read[flat((SSL, b"1"))] == {"scheme": "https"}
    assert proxies.read[flat((PROTO, b"https"))] == {}


def test_wss_means_https_only_where_https_does() -> None:
    proxies = policy(secure_scheme_headers=((PROTO, b"tls"),))
    assert proxies.read[flat((PROTO, b"tls"))] == {"scheme": "https"}
    assert proxies.read[flat((PROTO, b"wss"))] == {"scheme": "http"}


# Names with an underscore.

FIELDS = [[b"a-b", b"1"], [b"a_b", b"2"], [b"script_name", b"/3"], [b"path_info", b"/4"]]


@pytest.mark.parametrize(
    ("trust", "allowed", "kept"),
    [
        (False, (b"script_name",), [b"a-b"]),
        (False, (b"*",), [b"a-b"]),
        (True, (), [b"a-b"]),
        (True, (b"script_name",), [b"a-b", b"script_name"]),
        (True, (b"script_name", b"a_b"), [b"a-b", b"a_b", b"script_name"]),
        (True, (b"*",), [b"a-b", b"a_b", b"script_name", b"path_info"]),
    ],
)
def test_names_with_an_underscore_are_dropped_or_refused_unless_a_forwarder_may_send_them(
    trust: bool, allowed: tuple[bytes, ...], kept: list[bytes]
) -> None:
    dropping = policy(header_map="drop", forwarder_headers=allowed)
    refusing = policy(header_map="refuse", forwarder_headers=allowed)
    assert dropping.maps_names and refusing.maps_names
    remaining = dropping.map_names(FIELDS, trust)
    assert [name for name, _ in remaining] == kept
    if len(kept) < len(FIELDS):
        with pytest.raises(RequestRefused, match="underscore"):
            refusing.map_names(FIELDS, trust)
    assert refusing.map_names(remaining, trust) == remaining


@pytest.mark.parametrize("header_map", ["keep", "dangerous"])
def test_names_are_only_looked_at_where_something_becomes_of_them(header_map: str) -> None:
    assert not policy(header_map=header_map).maps_names
    assert policy().maps_names is policy(header_map="keep").maps_names


@pytest.mark.parametrize(
    ("header_map", "name", "trust", "can_be"),
    [
        ("keep", b"x_a", False, False),
        ("keep", b"x_a", True, False),
        ("keep", b"script_name", True, True),
        ("keep", b"script_name", False, False),
        ("keep", b"x-a", False, True),
        ("drop", b"x_a", True, False),
        ("drop", b"script_name", True, True),
        ("refuse", b"script_name", True, True),
        ("dangerous", b"x_a", False, True),
        ("dangerous", b"script_name", False, True),
    ],
)
def test_a_name_with_an_underscore_can_be_a_variable_where_it_would_be_one_of_gunicorns_own(
    header_map: str, name: bytes, trust: bool, can_be: bool
) -> None:
    assert policy(header_map=header_map).can_be_variable(name, trust) is can_be


# PROXY headers.

V2 = b"\r\n\r\n\0\r\nQUIT\n"
CLIENT = ("203.0.113.7", 4711)
CLIENT6 = ("2001:db8::7", 4711)
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def v2(address: bytes = b"", *, command: int = 0x21, family: int = 0x11, rest: bytes = b"", size: int = -1) -> bytes:
    block = address + rest
    return V2 + struct.pack(">BBH", command, family, len(block) if size < 0 else size) + block


def inet(source: Address = CLIENT, destination: Address = ("192.0.2.1", 80)) -> bytes:
    hosts = b"".join(ipaddress.ip_address(host).packed for host, _ in (source, destination))
    return hosts + struct.pack(">HH", source[1], destination[1])


def client_of(told: Told | None) -> Address | None:
    return None if told is None else told.client


#: The longest address.
LAST = b":".join([b"ffff"] * 8)

INET6 = inet(CLIENT6, ("2001:db8::1", 80))

GOOD: list[tuple[str, bytes, Address | None]] = [
    ("v1", b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n", CLIENT),
    ("v1", b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    ("v1", b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0)),
    ("v1", b"PROXY TCP6 2001:DB8::7 2001:db8::1 4711 80\r\n", CLIENT6),
    ("v1", b"PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 80\r\n", (str(ipaddress.ip_address("::ffff:203.0.113.7")), 4711)),
    ("v1", b"PROXY TCP6 %b %b 65535 65535\r\n" % (LAST, LAST), (LAST.decode(), 65535)),
    ("v1", b"PROXY UNKNOWN\r\n", None),
    ("v1", b"PROXY UNKNOWN %b %b 65535 65535\r\n" % (LAST, LAST), None),
    ("v1", b"PROXY UNKNOWN what ever\r\n", None),
    ("v2", v2(inet()), CLIENT),
    ("v2", v2(INET6, family=0x21), CLIENT6),
    ("v2", v2(inet(), rest=b"\x03\x00\x04abcd\x04\x00\x00"), CLIENT),
    ("v2", v2(INET6, family=0x21, rest=b"\x20\x00\x05hello"), CLIENT6),
    ("v2", v2(bytes(216), family=0x31), None),
    ("v2", v2(family=0x00), None),
    ("v2", v2(b"\x03\x00\x04abcd", family=0x00), None),
    ("v2", v2(command=0x20, family=0x00), None),
    ("v2", v2(inet(), command=0x20), None),
    ("v2", v2(command=0x20, family=0xFF, rest=b"noise"), None),
    ("v2", v2(inet(), rest=bytes(PROXY_HEADER_BYTES - 16 - 12)), CLIENT),
]


@pytest.mark.parametrize(("version", "header", "client"), GOOD)
def test_a_header_is_read_to_its_last_byte(version: str, header: bytes, client: Address | None) -> None:
    for mode in (version, "auto"):
        for rest in (b"", REQUEST, b"\x16\x03\x01", header):
            read = read_proxy_header(header + rest, mode, allowed=True)
            assert read is not None
            assert (read.size, client_of(read.told)) == (len(header), client)


@pytest.mark.parametrize(("version", "header", "client"), GOOD)
def test_a_header_that_has_come_in_part_is_waited_for(version: str, header: bytes, client: Address | None) -> None:
    for size in range(len(header)):
        assert read_proxy_header(header[:size], version, allowed=True) is None


@pytest.mark.parametrize(
    ("mode", "data"),
    [
        ("auto", REQUEST),
        ("auto", b"POST / HTTP/1.1\r\n"),
        ("auto", b"PROPFIND / HTTP/1.1\r\n"),
        ("auto", b"\r\n" + REQUEST),
        ("auto", b"\r\n\r\n" + REQUEST),
        ("auto", b"\x16\x03\x01\x02\x00\x01"),
        ("auto", b"proxy TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"),
        ("auto", b"PROXY\tTCP4"),
        ("v1", v2(inet())),
        ("v2", b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\r\n"),
    ],
)
@pytest.mark.parametrize("allowed", [True, False])
def test_what_is_no_header_is_left_alone(mode: str, data: bytes, allowed: bool) -> None:
    assert read_proxy_header(data, mode, allowed=allowed) is ABSENT


BAD = [
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY unknown\r\n",
    b"PROXY tcp4 203.0.113.7 192.0.2.1 4711 80\r\n",
    b"PROXY TCP5 203.0.113.7 192.0.2.1 4711 80\r\n",
    b"PROXY TCP4  203.0.113.7 192.0.2.1 4711 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80 \r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80 1\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 80\n\r\n",
    b"PROXY TCP4 203.0.113.7\r192.0.2.1 4711 80\r\n",
    b"PROXY TCP4 203.0.113.07 192.0.2.1 4711 80\r\n",
    b"PROXY TCP4 203.0.113.256 192.0.2.1 4711 80\r\n",
    b"PROXY TCP4 203.0.113 192.0.2.1 4711 80\r\n",
    b"PROXY TCP4 203.0.113.7 nowhere 4711 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.256 4711 80\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 80\r\n",
    b"PROXY TCP6 203.0.113.7 192.0.2.1 4711 80\r\n",
    b"PROXY TCP6 fe80::1%lo ::1 4711 80\r\n",
    b"PROXY TCP6 2001:db8:::7 2001:db8::1 4711 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 65536\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 04711 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 +4711 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 4_711 80\r\n",
    b"PROXY TCP4 203.0.113.7 192.0.2.1 \xb2 80\r\n",
    b"PROXY TCP4 " + b"1" * 96,
    b"PROXY UNKNOWN " + b"1" * 92 + b"\r\n",
    b"PROXY UNKNOWN " + b"1" * 100,
    v2(inet(), command=0x11),
    v2(inet(), command=0x31),
    v2(inet(), command=0x22),
    v2(inet(), command=0x2F),
    v2(inet()[:-1]),
    v2(INET6[:-1], family=0x21),
    v2(bytes(215), family=0x31),
    v2(inet(), family=0x10),
    v2(inet(), family=0x12),
    v2(INET6, family=0x22),
    v2(bytes(216), family=0x32),
    v2(bytes(216), family=0x41),
    v2(bytes(216), family=0xF1),
    v2(size=PROXY_HEADER_BYTES - 15),
    v2(size=65535),
]


@pytest.mark.parametrize("header", BAD)
def test_a_malformed_header_is_refused(header: bytes) -> None:
    with pytest.raises(RequestRefused) as refusal:
        read_proxy_header(header, "auto", allowed=True)
    assert refusal.value.status == 400


@pytest.mark.parametrize("header", [header for _, header, _ in GOOD] + BAD)
def test_a_header_from_somebody_who_may_not_send_one_is_forbidden(header: bytes) -> None:
    with pytest.raises(RequestRefused) as refusal:
        read_proxy_header(header, "auto", allowed=False)
    assert refusal.value.status == 403


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", V2, V2 + b"\x21", V2 + b"\x21\x11\x00"]),
    st.binary(max_size=300),
    st.sampled_from(["v1", "v2", "auto"]),
)
def test_any_bytes_are_a_header_none_an_unfinished_one_or_refused(start: bytes, rest: bytes, mode: str) -> None:
    data = start + rest
    try:
        header = read_proxy_header(data, mode, allowed=True)
    except RequestRefused as refusal:
        assert refusal.status == 400
        return
    if header is None:
        assert len(data) < PROXY_HEADER_BYTES
    else:
        assert header.size <= len(data)
        assert read_proxy_header(data[: header.size] + REQUEST, mode, allowed=True) == header or header is ABSENT


PORTS = st.integers(0, 65535)


@given(st.sampled_from([4, 6]), st.data(), PORTS, PORTS)
def test_every_address_comes_back_from_either_version(family: Any, data: st.DataObject, port: int, other: int) -> None:
    source, destination = (data.draw(st.ip_addresses(v=family)) for _ in range(2))
    line = f"PROXY TCP{family} {source} {destination} {port} {other}\r\n".encode()
    block = source.packed + destination.packed + struct.pack(">HH", port, other)
    binary = v2(block, family=0x11 if family == 4 else 0x21)
    for header in (line, binary):
        told = Told((str(source), port), (str(destination), other))
        assert read_proxy_header(header, "auto", allowed=True) == ProxyHeader(len(header), told)
        assert told.protocol == f"TCP{family}"
