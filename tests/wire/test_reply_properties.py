"""What holds for any reply: another library reads what the application has sent, or nothing of it has left."""

from __future__ import annotations

import re
from typing import Any

import pytest
from corpus.checks import Reply, read_replies
from hypothesis import example, given, settings
from hypothesis import strategies as st

from uvicorn_worker.errors import InvalidReply

from .asgi_apps import last, part, start
from .harness import ASGIWorker, Worker, get, run, turn

pytestmark = pytest.mark.unmeasured

quick = settings(max_examples=150, deadline=None, derandomize=True, database=None)

Field = tuple[bytes, bytes]

tokens = st.from_regex(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,12}", fullmatch=True).map(lambda name: b"x-" + name)
good_values = st.from_regex(rb"([!-~\x80-\xff]([ \t!-~\x80-\xff]{0,20}[!-~\x80-\xff])?)?", fullmatch=True)
good_fields = st.tuples(tokens, good_values)
#: Header injection, in the name or in the value, where it begins, ends or is within.
evil = st.builds(
    lambda before, byte, after: before + byte + after,
    good_values,
    st.sampled_from([b"\r", b"\n", b"\0", b"\r\n", b"\r\n\r\n", b"\r\nevil: b", b"\n evil", b"\r\n\r\nevil"]),
    good_values,
)
bad_fields = st.one_of(
    st.tuples(tokens, evil),
    st.tuples(evil, good_values),
    st.tuples(st.sampled_from([b"", b" x", b"x ", b"x:", b"x y", b"\xe9", b"x(", b"Content-Length:"]), good_values),
    st.tuples(st.sampled_from([b"date", b"Server", b"content-length", b"connection"]), evil),
)

statuses = st.sampled_from([200, 201, 204, 206, 301, 304, 400, 404, 451, 500, 503, 599])
contents = st.lists(st.binary(max_size=30), min_size=1, max_size=4)
OLD = get("/", version="1.0")
OLD_KEPT = get("/", "Connection: keep-alive", version="1.0")
requests = st.sampled_from([get("/"), get("/").replace(b"GET", b"HEAD"), OLD, OLD_KEPT])


class Sends:
    """Sends one reply in parts, by either interface; what ``send`` has raised is kept."""

    def __init__(self, status: int, fields: list[Field], parts: list[bytes]) -> None:
        self.status, self.fields, self.parts = status, fields, parts
        self.errors: list[Exception] = []

    async def by_channels(self, message: dict[str, Any], channels: dict[str, Any]) -> None:
        first, *others = self.parts
        reply = {"status": self.status, "headers": self.fields, "content": first, "more_content": bool(others)}
        try:
            await channels["reply"].send(reply)
            while others:
                content = others.pop(0)
                await channels["reply"].send({"content": content, "more_content": bool(others)})
        except InvalidReply as error:
            self.errors.append(error)

    async def by_asgi(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await send(start(self.status, *self.fields))
            for content in self.parts[:-1]:
                await send(part(content))
            await send(last(self.parts[-1]))
        except InvalidReply as error:
            self.errors.append(error)


async def answer(app: Sends, request: bytes, asgi: bool) -> tuple[bytes, list[str]]:
    """What is received, and what is logged."""
    worker = ASGIWorker(app.by_asgi, {}) if asgi else Worker(app.by_channels, {})
    client = worker.connect()
    received = await client.ask(request)
    await turn(20)
    assert received == client.received
    logged = worker.log.take()
    await worker.close()
    return received, logged


def read(received: bytes, request: bytes, ends: bool) -> Reply:
    [reply] = read_replies(received, (request.split()[0].decode(),), ends=ends)
    return reply


@quick
@given(statuses, st.lists(good_fields, max_size=5), contents, requests, st.booleans())
@example(200, [(b"x-a", b""), (b"x-a", b"b")], [b"", b"a", b"", b"b"], OLD, True)
def test_what_is_read_is_what_was_sent(
    status: int, fields: list[Field], parts: list[bytes], request: bytes, asgi: bool
) -> None:
    app = Sends(status, fields, parts)
    received, logged = run(answer(app, request, asgi))
    assert not app.errors and not logged
    reply = read(received, request, ends=True)
    has_body = request.startswith(b"GET") and status not in (204, 304)
    assert reply.status == status
    assert reply.body == (b"".join(parts) if has_body else b"")
    lines = [line.partition(b": ")[::2] for line in received.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert [line for line in lines if line[0].startswith(b"x-")] == fields
    names = {line[0] for line in lines if not line[0].startswith(b"x-")}
    assert names <= {b"content-length", b"transfer-encoding", b"connection"}


@quick
@given(statuses, st.lists(good_fields, max_size=3), bad_fields, st.integers(0, 3), contents, requests, st.booleans())
def test_nothing_leaves_of_a_reply_with_an_illegal_byte(
    status: int, fields: list[Field], bad: Field, place: int, parts: list[bytes], request: bytes, asgi: bool
) -> None:
    app = Sends(status, [*fields[:place], bad, *fields[place:]], parts)
    received, logged = run(answer(app, request, asgi))
    assert app.errors
    assert len(logged) == 1
    assert read(received, request, ends=True).status == 500
    assert not re.search(rb"(?i)evil|x-|\0|\r(?!\n)|(?<!\r)\n(?!\Z)", received)
