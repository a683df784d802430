"""What the access log is told of requests of ASGI 3 applications."""

from __future__ import annotations

from typing import Any

import pytest

from uvicorn_worker.observe import ObservedProtocol, Observer
from uvicorn_worker.server import RecordedASGIExchange, RecordedUpgrade

from .asgi_apps import ACCEPT, Event, Script, close_event, denial, denial_body, last, part, start, trailers
from .conftest import Serve
from .harness import ASGIWorker, get
from .websocket_client import handshake


def observe(worker: ASGIWorker) -> list[tuple[int, int]]:
    """The status and the bytes of each reply."""
    records: list[tuple[int, int]] = []

    def record(response: Any, request: Any, environ: Any, took: Any) -> None:
        records.append((response.status_code, response.sent))

    worker.exchange_class = RecordedASGIExchange
    worker.protocol_class = ObservedProtocol
    worker.service.observer = Observer(worker.log, record)
    worker.service.upgrade_class = RecordedUpgrade
    return records


REPLIES: dict[str, tuple[list[Event | None], tuple[int, int]]] = {
    "whole": ([start(201), last(b"hello")], (201, 5)),
    "with a length": ([start(200, (b"content-length", b"5")), last(b"hello")], (200, 5)),
    "in parts": ([start(), part(b"he"), None, last(b"llo")], (200, 5)),
    "with trailers": ([start(trailers=True), last(b"hello"), trailers((b"x-a", b"b"))], (200, 5)),
    "without a body": ([start(304), last()], (304, 0)),
}


@pytest.mark.parametrize(("events", "record"), REPLIES.values(), ids=REPLIES)
async def test_a_reply_is_recorded_once(serve: Serve, events: list[Event | None], record: tuple[int, int]) -> None:
    worker = serve.asgi(Script(*events))
    records = observe(worker)
    client = worker.connect()
    plain = await serve.asgi(Script(*events)).connect().ask(get())
    assert await client.ask(get()) == plain
    assert records == [record]
    await client.ask(get())
    assert records == [record] * 2


async def test_what_the_server_answers_for_the_application_is_recorded(serve: Serve) -> None:
    worker = serve.asgi(Script(start(201)))
    records = observe(worker)
    await worker.connect().ask(get())
    assert records == [(500, 21)]
    assert len(worker.log.take()) == 1


HANDSHAKES: dict[str, tuple[list[Event | None], int]] = {
    "accepted": ([ACCEPT], 101),
    "closed": ([close_event()], 403),
    "denied": ([denial(401), denial_body(b"a")], 401),
    "denied in parts": ([denial(401), denial_body(b"a", more=True), denial_body(b"b")], 401),
}


@pytest.mark.parametrize(("events", "status"), HANDSHAKES.values(), ids=HANDSHAKES)
async def test_a_handshake_is_recorded_once(serve: Serve, events: list[Event | None], status: int) -> None:
    worker = serve.asgi(Script(*events))
    records = observe(worker)
    await worker.connect().ask(handshake())
    assert [record[0] for record in records] == [status]
