"""An observed exchange: the same bytes for the client, and one record of each answer for the access log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from uvicorn_worker.observe import ObservedProtocol, Observer
from uvicorn_worker.server import RecordedChannelsExchange, RecordedUpgrade

from .conftest import Serve
from .harness import Echo, Gate, Script, Worker, asyncio_only, get, hello, post, turn
from .test_replies import REFUSED, STREAMED, WHOLE
from .websocket_client import Talk, handshake


class Access:
    """Keeps what Gunicorn's ``Logger.access`` is given."""

    def __init__(self) -> None:
        self.records: list[tuple[Any, Any, dict[str, Any], timedelta]] = []

    def __call__(self, *record: Any) -> None:
        self.records.append(record)  # type: ignore[arg-type]


def observe(worker: Worker) -> Access:
    access = Access()
    worker.exchange_class = RecordedChannelsExchange
    worker.protocol_class = ObservedProtocol
    worker.service.observer = Observer(worker.log, access)
    worker.service.upgrade_class = RecordedUpgrade
    return access


@asyncio_only
@pytest.mark.parametrize(("request_", "message", "reply"), WHOLE.values(), ids=WHOLE)
async def test_a_whole_reply_is_the_same_and_recorded_once(
    serve: Serve, request_: bytes, message: dict[str, Any], reply: bytes
) -> None:
    worker = serve(Script(message))
    access = observe(worker)
    assert await worker.connect().ask(request_) == reply
    [(response, _, environ, took)] = access.records
    assert response.status_code == message["status"]
    assert response.sent == len(reply.partition(b"\r\n\r\n")[2])
    assert environ["REQUEST_METHOD"] in ("GET", "HEAD")
    assert took >= timedelta(0)


@asyncio_only
@pytest.mark.parametrize(("request_", "messages", "reply"), STREAMED.values(), ids=STREAMED)
async def test_a_reply_in_parts_is_the_same_and_recorded_once(
    serve: Serve, request_: bytes, messages: list[dict[str, Any]], reply: bytes
) -> None:
    worker = serve(Script(*messages))
    access = observe(worker)
    assert await worker.connect().ask(request_) == reply
    [(response, _, _, _)] = access.records
    assert response.status_code == messages[-1].get("status", messages[0]["status"])


async def test_a_record_says_what_was_asked_and_answered(serve: Serve) -> None:
    app = Script({"status": 201, "headers": [(b"X-A", b"b")], "content": b"hello"})
    worker = serve(app, root_path="/mount")
    access = observe(worker)
    await worker.connect().ask(post("/mount/a%20b?c=d", b"body", "User-Agent: me", "X-Two: 1", "X-Two: 2", "X_Two: 3"))
    [(response, request, environ, _)] = access.records
    assert response.status == "201 Created"
    assert response.headers == [("X-A", "b")]
    assert response.sent == 5
    assert ("USER-AGENT", "me") in request.headers
    assert ("X_TWO", "3") in request.headers
    assert environ["REQUEST_METHOD"] == "POST"
    assert environ["RAW_URI"] == "/mount/a%20b?c=d"
    assert environ["PATH_INFO"] == "/mount/a b"  # whole, though there is a root_path
    assert environ["QUERY_STRING"] == "c=d"
    assert environ["SCRIPT_NAME"] == "/mount"
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["REMOTE_ADDR"] == "192.0.2.7"
    assert environ["CONTENT_LENGTH"] == "4"
    assert environ["HTTP_USER_AGENT"] == "me"
    assert environ["HTTP_X_TWO"] == "1,2"


async def test_pipelined_requests_are_recorded_in_order(serve: Serve) -> None:
    worker = serve(Echo())
    access = observe(worker)
    await worker.connect().ask(get("/1") + post("/2", b"x") + get("/3"))
    assert [environ["PATH_INFO"] for _, _, environ, _ in access.records] == ["/1", "/2", "/3"]


async def test_a_reply_that_is_cut_is_recorded_with_what_was_sent_of_it(serve: Serve) -> None:
    app = Script({"status": 200, "content": b"hello", "more_content": True})
    worker = serve(app)
    access = observe(worker)
    await worker.connect().ask(get())
    [(response, _, _, _)] = access.records
    assert (response.status_code, response.sent) == (200, 5)
    assert len(worker.log.take()) == 1


async def test_an_error_is_recorded_as_it_was_answered(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        raise ValueError("broken")

    worker = serve(app)
    access = observe(worker)
    await worker.connect().ask(get())
    [(response, _, _, _)] = access.records
    assert response.status_code == 500
    worker.log.take()


async def test_what_was_refused_out_of_send_is_not_counted(serve: Serve) -> None:
    async def app(message: dict, channels: dict) -> None:
        reply = channels["reply"]
        await reply.send({"status": 200, "headers": [(b"content-length", b"5")], "more_content": True})
        with pytest.raises(ValueError):
            await reply.send({"content": b"more than five", "more_content": True})
        await reply.send({"content": b"hello"})

    worker = serve(app)
    access = observe(worker)
    await worker.connect().ask(get())
    assert [response.sent for response, _, _, _ in access.records] == [5]


async def test_a_client_that_does_not_wait_for_its_answer_is_recorded_with_499(serve: Serve) -> None:
    worker = serve(Echo())
    access = observe(worker)
    client = worker.connect()
    client.send(post("/", b"hello")[:-2])
    await turn()
    client.reset()
    await turn()
    [(response, _, _, _)] = access.records
    assert (response.status, response.sent) == ("499", 0)


async def test_a_client_that_a_stopping_worker_leaves_unanswered_is_recorded_with_503(serve: Serve) -> None:
    worker = serve(Echo())
    access = observe(worker)
    client = worker.connect()
    client.send(post("/", b"hello")[:-2])
    await turn()
    worker.service.draining = True
    client.reset()
    await turn()
    assert [response.status for response, _, _, _ in access.records] == ["503 Service Unavailable"]


async def test_a_client_that_goes_with_requests_waiting_is_recorded_for_the_one_that_was_begun(serve: Serve) -> None:
    gate = Gate()
    worker = serve(gate)
    access = observe(worker)
    client = worker.connect()
    client.send(get("/1") + get("/2"))
    await turn()
    client.reset()
    await turn()
    assert [(response.status_code, environ["PATH_INFO"]) for response, _, environ, _ in access.records] == [(499, "/1")]
    await gate.open_all()


async def test_a_request_that_waits_for_another_takes_no_time_while_it_waits(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("uvicorn_worker.observe.monotonic", lambda: clock[0])
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    gate = Gate()
    worker = serve(gate)
    access = observe(worker)
    client = worker.connect()
    client.send(get("/1") + get("/2"))
    await turn()
    clock[0] += 5
    await gate.open()
    clock[0] += 1
    await gate.open()
    assert [took for _, _, _, took in access.records] == [timedelta(seconds=5), timedelta(seconds=1)]


async def test_a_unix_socket_has_no_client(serve: Serve) -> None:
    worker = serve(hello)
    access = observe(worker)
    await worker.connect(client=None, server=("/run/app.sock", None)).ask(get())
    [(_, _, environ, _)] = access.records
    assert (environ["REMOTE_ADDR"], environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("", "a", "80")


async def test_an_access_log_that_fails_does_no_harm(serve: Serve) -> None:
    def fail(*record: Any) -> None:
        raise ValueError("disk full")

    worker = serve()
    observe(worker)
    worker.service.observer = Observer(worker.log, fail)
    client = worker.connect()
    assert (await client.ask(get() + get())).count(b"HTTP/1.1 200 OK") == 2
    assert client.state == "open"
    assert len(worker.log.take()) == 2


@asyncio_only
@pytest.mark.parametrize(("messages", "error", "named"), REFUSED.values(), ids=REFUSED)
async def test_what_can_not_be_sent_is_the_same_error(
    serve: Serve, messages: list[dict[str, Any]], error: type[Exception], named: str
) -> None:
    app = Script(*messages)
    worker = serve(app)
    access = observe(worker)
    assert (await worker.connect().ask(get())).startswith(b"HTTP/1.1 500 ")
    assert type(app.error) is error
    assert named in str(app.error)
    assert [response.status_code for response, _, _, _ in access.records] == [500]
    worker.log.take()


@asyncio_only
@pytest.mark.parametrize(
    ("answer", "status"),
    [({"accept": True}, 101), ({"accept": False}, 403), ({"status": 401, "content": b"who?"}, 401)],
    ids=["accepted", "rejected", "answered by a response"],
)
async def test_a_handshake_is_recorded_once_with_its_status(serve: Serve, answer: dict[str, Any], status: int) -> None:
    worker = serve(Talk(answer))
    access = observe(worker)
    client = worker.connect()
    await client.ask(handshake("/path"))
    assert client.received.startswith(b"HTTP/1.1 %d " % status)
    client.end()
    await turn()
    [(response, _, environ, _)] = access.records
    assert response.status_code == status
    assert environ["PATH_INFO"] == "/path"
