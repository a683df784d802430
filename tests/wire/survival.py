"""What must hold of any bytes: for the properties, which make few of them anew each time, and for the fuzzer.

Bytes are grown from the corpus by whoever chooses: ``choose(n)`` is a whole number below ``n``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import h11
from corpus import INVALID, VALID
from corpus.app import ASGIWitness, Witness
from corpus.checks import Reply, read_replies
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from .harness import ASGIWorker, Client, Worker, run, turn
from .websocket_client import TalkBack, close, frame

Choose = Callable[[int], int]

ENDS = ("reset", "end", "time")

# Requests.

_GOOD, _BAD = ([case.sent for case in cases.values() if len(case.sent) < 600] for cases in (VALID, INVALID))

_FRAGMENTS = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"\r\n\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n"),
    *(b"Host: b\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: Upgrade\r\nUpgrade: tea\r\n"),
    *(b"Expect: 100-continue\r\n", b"Transfer-Encoding: x, chunked\r\n", b" folded\r\n", b"X: y\r\n", b"\xff"),
]


def grow_requests(choose: Choose) -> bytes:
    """Some cases of the corpus one behind the other, with a few changes."""
    lines: list[bytes] = []
    for _ in range(1 + choose(3)):
        seeds = _GOOD if choose(6) else _BAD
        lines += seeds[choose(len(seeds))].splitlines(keepends=True)
    for _ in range(choose(3)):
        place = choose(len(lines))
        lines[place] = _CHANGES[choose(len(_CHANGES))](lines[place], choose)
    return b"".join(lines)


def _insert(line: bytes, choose: Choose) -> bytes:
    at = choose(len(line) + 1)
    return line[:at] + _FRAGMENTS[choose(len(_FRAGMENTS))] + line[at:]


def _replace_byte(line: bytes, choose: Choose) -> bytes:
    at = choose(len(line) + 1)
    return line[:at] + bytes((choose(256),)) + line[at + 1 :]


def _remove(line: bytes, choose: Choose) -> bytes:
    at = choose(len(line) + 1)
    return line[:at] + line[at + 1 + choose(4) :]


_CHANGES: list[Callable[[bytes, Choose], bytes]] = [
    _insert,
    _replace_byte,
    _remove,
    lambda line, choose: line * 2,
    lambda line, choose: b"",
    lambda line, choose: line.rstrip(b"\r\n") + (b"\n", b"\r", b"\r\r\n", b"\n\n")[choose(4)],
    lambda line, choose: _FRAGMENTS[choose(len(_FRAGMENTS))] + line,
    lambda line, choose: line.swapcase(),
]


def cut(sent: bytes, choose: Choose) -> list[bytes]:
    """Some pieces, or single bytes."""
    if not choose(4):
        return [sent[i : i + 1] for i in range(len(sent))]
    places = sorted({0, len(sent), *(choose(len(sent) + 1) for _ in range(choose(6)))})
    return [sent[start:end] for start, end in zip(places, places[1:], strict=False)]


class Outcome(NamedTuple):
    """What the application was called with, bodies included where they came whole, and what was answered."""

    calls: list[dict[str, Any]]
    replies: tuple[Reply, ...]


async def _talk(pieces: list[bytes], slowly: bool, end: str, *, by_asgi: bool = False) -> Outcome:
    app = ASGIWitness() if by_asgi else Witness()
    worker = (ASGIWorker if by_asgi else Worker)(app, {})
    worker.service.upgrades = {}
    client = worker.connect()
    for piece in pieces:
        client.send(piece)
        if slowly:
            await turn(3)
    await turn(80)
    outcome = Outcome([call for call in app.calls if call["body"] is not None], _read(app.calls, client.received))
    await leave_nothing(worker, client, end)
    return outcome


async def leave_nothing(worker: Worker, client: Client, end: str) -> None:
    """Have the connection end in one of the ways that there are: nothing of it is left."""
    if end == "time":
        await worker.wait(80)
    else:
        getattr(client, end)()
        await turn(30)
    assert client.transport.lost or client.state == "half-closed"
    assert not worker.service.running
    await worker.close()


def _read(calls: list[dict[str, Any]], received: bytes) -> tuple[Reply, ...]:
    """The replies: one to each call whose request came whole, and at most a refusal behind them."""
    whole = [call for call in calls if call["body"] is not None]
    assert calls[: len(whole)] == whole and len(calls) <= len(whole) + 1, "a call was made before the one before it"
    received = received.removesuffix(b"HTTP/1.1 100 Continue\r\n\r\n")
    ends_with_head = received.endswith(b"connection: close\r\n\r\n")
    replies = read_replies(received, (*(call["method"] for call in whole), "HEAD" if ends_with_head else "GET"))
    for call, reply in zip(whole, replies, strict=False):
        assert reply.status == 200
        assert call["method"] == "HEAD" or reply.body == Witness.describe(call)
    assert len(replies) >= len(whole)
    for refusal in replies[len(whole) :]:
        assert refusal.status >= 400 and refusal.fields["connection"] == "close"
    return replies


def try_requests(choose: Choose) -> None:
    """Feed some requests whole and cut, the latter by either interface: they come to the same, as far as h11 can tell
    to what was sent."""
    sent = grow_requests(choose)
    whole = run(_talk([sent], False, ENDS[choose(3)]))
    pieces = run(_talk(cut(sent, choose), bool(choose(2)), ENDS[choose(3)], by_asgi=bool(choose(2))))
    floods = any(reply.body.startswith(b"Too many empty lines") for reply in pieces.replies)
    assert pieces == whole or floods, (sent, whole, pieces)
    for call, request in zip(whole.calls, read_requests(sent), strict=False):
        assert (call["method"], call["body"]) == request[::2], sent
        assert not request[1].startswith("/") or request[1].partition("?")[::2] == (call["raw"], call["query"]), sent


def read_requests(sent: bytes) -> list[tuple[str, str, str]]:
    """The method, target and body of each request that h11 sees before it sees something bad."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(sent)
    requests: list[tuple[str, str, str]] = []
    try:
        while isinstance(event := connection.next_event(), h11.Request):
            body = b""
            while isinstance(data := connection.next_event(), h11.Data):
                body += data.data
            if not isinstance(data, h11.EndOfMessage):
                break
            requests.append((event.method.decode(), event.target.decode(), body.decode("latin-1")))
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
    except (h11.RemoteProtocolError, h11.LocalProtocolError):
        pass
    return requests


# WebSockets.

_KINDS = (0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0x89, 0x8A, 0x88, 0xC1, 0x41, 0xFF)
_PAYLOADS = (b"", b"a", "\u20ac".encode(), b"\xe2\x82", b"\xac", b"\xff", b"a" * 126, b"a" * 300, b"\3\xe8", b"J\4\0")


def grow_frames(choose: Choose) -> bytes:
    """Some frames, of which a few bytes may be changed, and perhaps a close."""
    sent = b"".join(
        frame(_KINDS[choose(len(_KINDS))] if choose(2) else 0x81, _PAYLOADS[choose(len(_PAYLOADS))])
        for _ in range(choose(6))
    )
    sent += close(1000) if choose(2) else b""
    for _ in range(choose(3)):
        sent = _replace_byte(sent, choose)
    return sent


async def _converse(pieces: list[bytes], slowly: bool, end: str) -> list[Any]:
    app = TalkBack()
    worker = Worker(app, {"ws_max_size": 260, "ws_context_takeover": True})
    reader = ClientProtocol(parse_uri("ws://a/"), extensions=[ClientPerMessageDeflateFactory()])
    reader.send_request(reader.connect())
    client = worker.connect()
    reader.receive_data(await client.ask(*reader.data_to_send()))
    reader.events_received()
    for piece in pieces:
        client.send(piece)
        if slowly:
            await turn(3)
    await turn(80)
    reader.receive_data(client.take())
    if end == "time":
        await worker.wait(80)
    else:
        getattr(client, end)()
        await turn(30)
    reader.receive_data(client.take())
    _assert_echoed(reader, app.calls)
    assert client.transport.lost and not worker.service.running
    await worker.close()
    return app.calls


def _assert_echoed(reader: ClientProtocol, calls: list[Any]) -> None:
    """What the other library reads is well-formed, and the messages among it are those of the first calls."""
    assert reader.parser_exc is None, reader.parser_exc
    assert calls[0] == "connect" and [type(call) is tuple for call in calls].index(True) == len(calls) - 1
    echoed: list[bytes] = []
    for event in reader.events_received():
        assert isinstance(event, Frame)
        if event.opcode in (Opcode.TEXT, Opcode.BINARY):
            echoed.append(bytes(event.data))
        elif event.opcode is Opcode.CONT:
            echoed[-1] += event.data
    messages = [call.encode() if isinstance(call, str) else call for call in calls[1:-1]]
    assert echoed == messages[: len(echoed)]


def try_frames(choose: Choose) -> None:
    """Send some frames whole and cut: the calls are the same, and what is answered is well-formed."""
    sent = grow_frames(choose)
    whole = run(_converse([sent], False, "reset"))
    pieces = run(_converse(cut(sent, choose), bool(choose(2)), ENDS[choose(3)]))
    assert pieces[:-1] == whole[:-1], (sent, whole, pieces)
