"""Who the client really is: what trusted proxies say of it, in fields of its requests or in front of them (PROXY)."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, NamedTuple

from uvicorn_worker._types import Address, Message
from uvicorn_worker.config import PROXY_HEADER_BYTES, Settings
from uvicorn_worker.errors import RequestRefused
from uvicorn_worker.memo import Memo

_FORWARDED_FOR = b"x-forwarded-for"
_FORWARDED_PROTO = b"x-forwarded-proto"

#: The fields that are looked at by default; a setting may name more.
USUAL_FIELDS = frozenset((_FORWARDED_FOR, _FORWARDED_PROTO, b"x-forwarded-protocol", b"x-forwarded-ssl"))

# Of a chain of proxies that is longer, only the end is looked at.
_MOST_HOPS = 100


class AllowList:
    """Addresses and networks of the peers that are trusted; ``'*'`` among them means everybody."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.has_everybody = False
        self._networks = []
        self._names = set()
        for entry in allowed:
            self.has_everybody |= entry == "*"
            try:
                self._networks.append(ip_network(entry))
            except ValueError:  # A name, which is found by how it is written.
                self._names.add(entry)
        self._known: Memo[str, bool] = Memo(self._find, lambda host: len(host) <= 64)

    def __contains__(self, host: str | None) -> bool:
        """Whether ``host`` is trusted; ``None`` is the peer at a Unix socket, which the file's mode lets in or not."""
        return host is None or self.has_everybody or self._known[host]

    def _find(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return host in self._names
        # At a socket of both families, IPv4 looks so: ::ffff:192.0.2.1.
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return any(address in network or (mapped is not None and mapped in network) for network in self._networks)


class ProxyPolicy:
    """How the settings of one worker have the fields of proxies read."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._forwarders = AllowList(settings.forwarded_allow_ips)
        self._secure_values = {name: frozenset((value,)) for name, value in settings.secure_scheme_headers}
        if b"https" in self._secure_values.get(_FORWARDED_PROTO, ()):
            # Some proxies tell the scheme of a WebSocket so.
            self._secure_values[_FORWARDED_PROTO] = frozenset((b"https", b"wss"))
        #: What is to be looked at beside the usual fields.
        self.more_fields = frozenset(self._secure_values) - USUAL_FIELDS
        #: Whether names with an underscore are, too (Gunicorn ``header_map``).
        self.maps_names = settings.header_map in ("drop", "refuse")
        #: What an application is to be told otherwise, by the names, in lower case, and the values of such fields, in
        #: turn. Raises :class:`RequestRefused` where they contradict each other.
        self.read: Memo[tuple[bytes, ...], Message] = Memo(self._read, lambda fields: sum(map(len, fields)) <= 256)

    def trust_in(self, peer: Address | None, told: Address | None = None) -> bool:
        """Whether the fields of proxies are believed of ``peer``, who may have ``told`` of a client by a PROXY header.

        Who speaks for a client in this way need not know HTTP, and pass on whatever the client has written; so they are
        believed of a client that is trusted, too.
        """
        if not self._settings.proxy_headers or not self._is_forwarder(peer):
            return False
        return told is None or self._is_forwarder(told)

    def _is_forwarder(self, address: Address | None) -> bool:
        return (None if address is None else address[0]) in self._forwarders

    def map_names(self, fields: Any, trust: bool) -> Any:
        """The ``fields`` of a request that remain (Gunicorn ``header_map``).

        A name with an underscore looks like another one with a hyphen to a gateway. Raises :class:`RequestRefused`.
        """
        kept = [field for field in fields if self.can_be_variable(field[0], trust)]
        if len(kept) < len(fields) and self._settings.header_map == "refuse":
            raise _refuse("A header field has an underscore in its name")
        return kept

    def can_be_variable(self, name: bytes, trust: bool) -> bool:
        """Whether a field of this ``name`` may be a variable of an environment, where nobody can tell it from others.

        Those that trusted proxies may send are (Gunicorn ``forwarder_headers``).
        """
        if b"_" not in name or self._settings.header_map == "dangerous":
            return True
        allowed = self._settings.forwarder_headers
        return trust and (name in allowed or b"*" in allowed)

    def _read(self, names_and_values: tuple[bytes, ...]) -> Message:
        fields = list(zip(names_and_values[::2], names_and_values[1::2], strict=True))
        hops = [value for name, value in fields if name == _FORWARDED_FOR]
        schemes = {
            "https" if value in self._secure_values[name] else "http"
            for name, value in fields
            if name in self._secure_values
        }
        if len(schemes) > 1:
            raise _refuse("Header fields contradict each other about the scheme")
        told: Message = {"scheme": schemes.pop()} if schemes else {}
        client = self._client_of(hops) if hops else None
        return told | {"client": client} if client is not None else told

    def _client_of(self, values: list[bytes]) -> Address | None:
        """The rightmost hop that is not trusted, as each proxy adds its peer at the end; or the leftmost of all."""
        hops = b",".join(values).decode("latin-1")
        if self._forwarders.has_everybody:
            hops, _, _ = hops.partition(",")
        host, port = "", 0
        for hop in reversed(hops.rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            host, port = split_address(hop.strip())
            if host not in self._forwarders:
                break
        return (host, port) if host else None


def split_address(text: str) -> tuple[str, int]:
    """The host and the port of one hop. The port is 0 where there is none; what can't be split is all host."""
    match = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    if match is None:
        return text, 0
    port = int(match[2] or 0)
    return match[1], port if port < 65536 else 0


_BRACKETED = re.compile(r"\[([^]]*)\](?::([0-9]{1,5}))?")
_WITH_PORT = re.compile(r"([^:]*):([0-9]{1,5})")


def _refuse(reason: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> RequestRefused:
    return RequestRefused(status, reason)


# The PROXY protocol (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt): one header in front of everything
# else that a connection carries, TLS included.


class Told(NamedTuple):
    """Whom a proxy speaks for."""

    client: Address
    #: Where the client has connected to.
    proxy: Address

    @property
    def protocol(self) -> str:
        """``'TCP4'`` or ``'TCP6'``."""
        return "TCP6" if ":" in self.client[0] else "TCP4"


class ProxyHeader(NamedTuple):
    """What stands in front of a connection."""

    #: Its bytes; 0 means that there is no such header.
    size: int
    #: ``None`` where it tells nobody: the proxy speaks for itself, or for a client without an address.
    told: Told | None


ABSENT = ProxyHeader(0, None)

_V1_MARK = b"PROXY "
_V1_BYTES = 107  # section 2.1, its line end included
_PORT = rb"(0|[1-9][0-9]{0,4})"
_V1_LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) " + _PORT + b" " + _PORT)

_V2_MARK = b"\r\n\r\n\0\r\nQUIT\n"
_V2_BYTES = 16
_LOCAL, _PROXY = 0, 1
_STREAM = 1
_UNSPECIFIED, _INET, _INET6, _UNIX = 0, 1, 2, 3
# Section 2.2: bytes of the addresses of a family, with the ports.
_ADDRESS_BYTES = {_INET: 12, _INET6: 36, _UNIX: 216}


def read_proxy_header(data: bytes, mode: str, *, allowed: bool) -> ProxyHeader | None:
    """The PROXY header that ``data`` begins with; ``None`` where more of it has to come.

    ``mode`` is ``'v1'``, ``'v2'`` or ``'auto'``. Raises :class:`RequestRefused` for one that is malformed, and with
    403 for any where none is ``allowed`` (Gunicorn ``proxy_allow_ips``).
    """
    for mark, read, other in ((_V2_MARK, _read_v2, "v1"), (_V1_MARK, _read_v1, "v2")):
        if mode == other:
            continue
        if data.startswith(mark):
            if not allowed:
                raise _refuse("A PROXY header is not allowed from this address", HTTPStatus.FORBIDDEN)
            return read(data)
        if mark.startswith(data):
            return None
    return ABSENT


def _read_v1(data: bytes) -> ProxyHeader | None:
    """A line of text (section 2.1)."""
    end = data.find(b"\r\n", 0, _V1_BYTES)
    if end < 0:
        if len(data) >= _V1_BYTES:
            raise _refuse("The PROXY header is too long")
        return None
    line = data[:end]
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(end + 2, None)
    match = _V1_LINE.fullmatch(line)
    if match is None:
        raise _refuse("Invalid PROXY header")
    return ProxyHeader(end + 2, _addresses_v1(*match.groups()))


def _addresses_v1(family: bytes, source: bytes, destination: bytes, source_port: bytes, port: bytes) -> Told:
    parse = IPv4Address if family == b"4" else IPv6Address
    try:
        client = str(parse(source.decode("ascii"))), int(source_port)
        proxy = str(parse(destination.decode("ascii"))), int(port)
    except ValueError:
        raise _refuse("Invalid address in the PROXY header") from None
    if max(client[1], proxy[1]) > 65535:
        raise _refuse("Invalid port in the PROXY header")
    return Told(client, proxy)


def _read_v2(data: bytes) -> ProxyHeader | None:
    """A binary header (section 2.2)."""
    if len(data) < _V2_BYTES:
        return None
    version_command, family_protocol, length = struct.unpack_from(">BBH", data, len(_V2_MARK))
    version, command = divmod(version_command, 16)
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise _refuse("Invalid PROXY header")
    size = _V2_BYTES + length
    if size > PROXY_HEADER_BYTES:
        raise _refuse("The PROXY header is too long")
    if len(data) < size:
        return None
    family, protocol = divmod(family_protocol, 16)
    return ProxyHeader(size, _addresses_v2(family, protocol, data[_V2_BYTES:size]) if command == _PROXY else None)


def _addresses_v2(family: int, protocol: int, data: bytes) -> Told | None:
    """What is told in the address block that ``data`` begins with; what follows it (TLVs) is not looked at."""
    if family == _UNSPECIFIED:
        return None
    if protocol != _STREAM or len(data) < _ADDRESS_BYTES.get(family, len(data) + 1):
        raise _refuse("Invalid address in the PROXY header")
    if family == _UNIX:
        return None
    parse, size = (IPv4Address, 4) if family == _INET else (IPv6Address, 16)
    client_port, proxy_port = struct.unpack_from(">HH", data, 2 * size)
    return Told((str(parse(data[:size])), client_port), (str(parse(data[size : 2 * size])), proxy_port))
