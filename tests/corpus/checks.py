"""What was received and called, held against a case. Replies are read by h11, which has nothing of ours."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

import h11

from . import Call, Case

#: What is sent behind cases that are refused or end their connection, and what must not be seen of it.
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

#: What is sent behind the others, and answered.
AFTER = b"GET /after HTTP/1.1\r\nHost: a\r\n\r\n"


class Reply(NamedTuple):
    status: int
    fields: dict[str, str]
    body: bytes


@lru_cache
def read_replies(received: bytes, methods: tuple[str, ...], *, ends: bool = False) -> tuple[Reply, ...]:
    """The final responses to requests with these methods, of which the last may be missing.

    ``ends`` says that the connection has ended, by which the last may be delimited. Raises ``h11.RemoteProtocolError``
    for what is no response, and ``AssertionError`` for what is beside them.
    """
    replies = []
    for method in methods:
        if received:
            reply, received = _read_reply(received, method, ends)
            replies.append(reply)
    assert not received, f"more than there were requests: {received!r:.300}"
    return tuple(replies)


def _read_reply(received: bytes, method: str, ends: bool) -> tuple[Reply, bytes]:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(received)
    if ends:
        connection.receive_data(b"")
    head: Any = None
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.Response):
            head = event
        else:
            assert isinstance(event, h11.InformationalResponse), f"{event!r} in {received!r:.300}"
    fields = {name.decode(): value.decode("latin-1") for name, value in head.headers}
    return Reply(head.status_code, fields, body), connection.trailing_data[0]


def is_as(call: Call, told: dict[str, Any]) -> bool:
    """Whether the application was ``told`` what it must be."""
    expected = {"method": call.method, "path": call.path, "query": call.query, "raw": call.raw, "body": call.body}
    return all(told[key] == value for key, value in expected.items() if value is not None) and all(
        field in told["fields"] for field in call.fields
    )


def assert_served(case: Case, received: bytes, calls: list[dict[str, Any]]) -> None:
    """Each request of a valid case was a call, answered in its turn, and so was what came behind, if it may."""
    expected = case.calls if case.ends else [*case.calls, Call("GET", "/after")]
    assert len(calls) == len(expected), calls
    for call, told in zip(expected, calls, strict=True):
        assert is_as(call, told), told
    replies = read_replies(received, tuple(call.method for call in expected))
    assert [reply.status for reply in replies] == [200] * len(expected)
    for told, reply in zip(calls, replies, strict=True):
        if told["method"] != "HEAD":
            assert json.loads(reply.body) == told


def assert_refused(case: Case, received: bytes, calls: list[dict[str, Any]]) -> None:
    """What is good before was answered, the rest was refused with one short reply, and nothing of it was a call."""
    served, begun = calls[: len(case.calls)], calls[len(case.calls) :]
    for call, told in zip(case.calls, served, strict=True):
        assert is_as(call, told), told
    for told in begun:
        assert case.begun and is_as(case.begun, told) and told["body"] is None, told
    assert len(begun) <= 1, begun
    *replies, refusal = read_replies(received, (*(call.method for call in case.calls), "GET"))
    assert [reply.status for reply in replies] == [200] * len(case.calls)
    assert refusal.status == case.refused
    assert refusal.fields["connection"] == "close"
    assert refusal.fields["content-type"] == "text/plain; charset=utf-8"
    assert 5 < len(refusal.body) < 100 and refusal.body.find(b"\n") == len(refusal.body) - 1
