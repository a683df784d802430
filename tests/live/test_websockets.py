"""What a client and an application see of WebSockets."""

import json
import shutil
import socket
import ssl
import zlib
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import unix_connect

from .client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    TEXT,
    WebSocket,
    close_frame,
    frame,
    handshake,
    request,
    websocket,
)
from .harness import Serve, Server, eventually

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def calls(server: Server, path: str) -> list[str]:
    """What the application was called with for the WebSocket at `path`: event, order, code and reason."""
    lines = server.log.lines(rf"^websocket\.\w+ {path} ")
    return [line.removeprefix("websocket.").replace(f" {path}", "", 1) for line in lines]


def assert_over(server: Server, path: str, code: int, reason: str = "") -> None:
    """The application is told, once and last, of the WebSocket's end."""
    server.log.wait_for(rf"^websocket\.disconnect {path} ")
    assert server.ask("/hello").status == 200  # and meanwhile, of nothing more
    told = calls(server, path)
    assert [call.split()[0] for call in told].count("disconnect") == 1
    assert told[-1].split(maxsplit=2)[2] == f"{code} {reason!r}"
    assert [int(call.split()[1]) for call in told] == list(range(len(told)))


def trouble(server: Server, start: int) -> list[str]:
    """The lines of the error log that are no information, and those of tracebacks."""
    return server.log.lines(r"\[(WARNING|ERROR|CRITICAL)\]|Traceback", after=start)


# -- messages

MESSAGES = {
    "text": "hello",
    "text beyond ASCII": "grüße, κόσμε, 世界 🎉",
    "empty text": "",
    "binary": bytes(range(256)),
    "empty binary": b"",
    "binary that is text": b"hello",
    "large text": "0123456789abcdéf" * 65536,
    "large binary": bytes(range(256)) * 4096,
}


@pytest.mark.parametrize("compression", ["deflate", None])
def test_every_kind_of_message_comes_back_as_it_was_sent(websocket_server: Server, compression: str | None) -> None:
    with websocket_server.websocket("/echo/kinds", compression=compression) as client:
        for name, message in MESSAGES.items():
            assert client.ask(message) == message, name


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("name", ["text beyond ASCII", "binary", "large text", "large binary"])
def test_a_message_in_fragments_is_one_message(websocket_server: Server, name: str, compression: str | None) -> None:
    message = MESSAGES[name]
    size = len(message) // 7 + 1
    with websocket_server.websocket("/echo/fragments", compression=compression) as client:
        assert client.ask(message[at : at + size] for at in range(0, len(message), size)) == message


def test_a_ping_between_fragments_is_answered_and_they_stay_one_message(websocket_server: Server) -> None:
    sent = frame("one, ", TEXT, more=True), frame(b"there?", PING), frame("two", CONTINUATION)
    wire = websocket_server.raw_websocket("/echo", data=b"".join(sent))
    assert wire.frame() == (0x80 | PONG, b"there?")
    assert wire.frame() == (0x80 | TEXT, b"one, two")


def test_the_client_may_ping_the_server(websocket_server: Server) -> None:
    with websocket_server.websocket("/echo/ping") as client:
        assert client.ping().wait(15)


def test_many_messages_sent_at_once_come_back_in_order(websocket_server: Server) -> None:
    texts = [f"message {number}" for number in range(1000)]
    wire = websocket_server.raw_websocket("/quiet", data=b"".join(map(frame, texts)))
    assert [wire.frame()[1].decode() for _ in texts] == texts


def test_many_messages_to_a_client_that_reads_slowly_all_arrive(websocket_server: Server) -> None:
    wire = websocket_server.raw_websocket("/pour/slowly", receive_buffer=65536)
    websocket_server.log.wait_for("^send waits /pour/slowly")
    for number in range(256):
        first, payload = wire.frame()
        assert (first, len(payload), payload[:1]) == (0x80 | BINARY, 65536, bytes([number]))
    assert wire.closing() == (1000, "")


def test_a_connect_call_may_last_as_long_as_the_websocket(websocket_server: Server) -> None:
    with websocket_server.websocket("/ticking/along") as client:
        assert [client.recv() for _ in range(3)] == ["tick"] * 3
    websocket_server.log.wait_for("send raised ClientDisconnected /ticking/along")
    assert_over(websocket_server, "/ticking/along", 1000)
    assert "The application raised: WebSocket /ticking/along" not in websocket_server.log


# -- what is agreed


def agreed(client: WebSocket) -> dict[str, str]:
    """The parameters of permessage-deflate, as the server has answered them."""
    answer = client.response.headers["Sec-WebSocket-Extensions"]
    name, *parameters = answer.replace(" ", "").split(";")
    assert name == "permessage-deflate"
    return dict((parameter + "=").split("=")[:2] for parameter in parameters)


def test_compression_is_agreed_without_context_and_with_small_windows(websocket_server: Server) -> None:
    with websocket_server.websocket("/echo") as client:
        assert agreed(client) == {
            "server_no_context_takeover": "",
            "client_no_context_takeover": "",
            "server_max_window_bits": "12",
            "client_max_window_bits": "12",
        }


def test_a_long_message_is_sent_compressed_to_a_client_that_can_read_it(websocket_server: Server) -> None:
    text = b"again and " * 10_000
    wire = websocket_server.raw_websocket("/echo", DEFLATE, data=frame(text))
    first, payload = wire.frame()
    assert first == 0xC0 | TEXT
    assert len(payload) < 2000
    assert zlib.decompressobj(-12).decompress(payload + b"\0\0\xff\xff") == text


def test_a_client_that_offers_no_compression_gets_none(websocket_server: Server) -> None:
    text = b"again and " * 10_000
    wire = websocket_server.connect(handshake("/echo") + frame(text))
    assert b"sec-websocket-extensions" not in wire.until(b"\r\n\r\n").lower()
    assert wire.frame() == (0x80 | TEXT, text)


def test_compression_can_be_turned_off(serve: Serve) -> None:
    server = serve("websocket_apps:app", env={"UVICORN_WORKER_WS_PER_MESSAGE_DEFLATE": "false"})
    with server.websocket("/echo") as client:
        assert "Sec-WebSocket-Extensions" not in client.response.headers
        assert client.ask("again and " * 10_000) == "again and " * 10_000


def test_compression_with_context_can_be_turned_on(serve: Serve) -> None:
    server = serve("websocket_apps:app", env={"UVICORN_WORKER_WS_CONTEXT_TAKEOVER": "true"})
    with server.websocket("/echo") as client:
        assert not {"server_no_context_takeover", "client_no_context_takeover"} & set(agreed(client))
        for _ in range(3):
            assert client.ask("again and " * 1000) == "again and " * 1000


def test_the_application_chooses_a_subprotocol_and_adds_headers(websocket_server: Server) -> None:
    with websocket_server.websocket("/subprotocol", subprotocols=["soap", "wamp"]) as client:
        assert client.subprotocol == "wamp"
        assert client.response.headers.get_all("X-Extra") == ["one", "two"]


def test_the_handshake_is_answered_as_the_rfc_has_it(websocket_server: Server) -> None:
    wire = websocket_server.connect(handshake("/echo", key=KEY))
    status, *fields = wire.until(b"\r\n\r\n").decode().lower().split("\r\n")
    assert status == "http/1.1 101 switching protocols"
    assert "upgrade: websocket" in fields
    assert "connection: upgrade" in fields
    assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in fields
    assert not [field for field in fields if field.startswith(("content-length:", "transfer-encoding:"))]


# -- what an application is told


def test_the_connect_message_tells_the_application_what_was_asked(websocket_server: Server) -> None:
    path = "/what/caf%C3%A9/a%2Fb?q=1&r=%20"
    with websocket_server.websocket(path, subprotocols=["a", "b"], compression=None, user_agent_header=None) as client:
        message = json.loads(client.recv())
        headers = dict(message.pop("headers"))
        address = client.socket.getsockname()
    assert headers.pop("sec-websocket-key")
    assert headers == {
        "host": f"127.0.0.1:{websocket_server.port}",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-protocol": "a, b",
        "sec-websocket-version": "13",
    }
    assert message == {
        "channel": "websocket.connect",
        "scheme": "ws",
        "http_version": "1.1",
        "root_path": "",
        "path": "/what/café/a/b",
        "raw_path": "/what/caf%C3%A9/a%2Fb",
        "query_string": "q=1&r=%20",
        "server": ["127.0.0.1", websocket_server.port],
        "client": list(address),
        "order": 0,
        "subprotocols": ["a", "b"],
    }


def test_a_receive_message_has_path_and_order_and_either_text_or_bytes(websocket_server: Server) -> None:
    with websocket_server.websocket("/what/is/it?q=1") as client:
        client.recv()
        common = {"channel": "websocket.receive", "path": "/what/is/it"}
        assert json.loads(client.ask("hello")) == {**common, "order": 1, "text": "hello", "bytes": None}
        assert json.loads(client.ask(b"hello")) == {**common, "order": 2, "text": None, "bytes": "hello"}
        assert json.loads(client.ask("")) == {**common, "order": 3, "text": "", "bytes": None}
        assert json.loads(client.ask(b"")) == {**common, "order": 4, "text": None, "bytes": ""}


def test_calls_are_made_in_order_and_numbered(websocket_server: Server) -> None:
    with websocket_server.websocket("/echo/in/order") as client:
        for text in ("one", "two", "three"):
            assert client.ask(text) == text
        client.close(4000, "that is all")
    assert_over(websocket_server, "/echo/in/order", 4000, "that is all")
    assert calls(websocket_server, "/echo/in/order") == [
        "connect 0",
        "receive 1",
        "receive 2",
        "receive 3",
        "disconnect 4 4000 'that is all'",
    ]


# -- how it ends


def test_a_client_that_closes_gets_its_close_frame_back_and_then_the_end(websocket_server: Server) -> None:
    wire = websocket_server.raw_websocket("/echo/closed", data=close_frame(4000, "bye"))
    assert wire.closing() == (4000, "bye")
    assert wire.rest() == b""
    assert_over(websocket_server, "/echo/closed", 4000, "bye")


def test_a_client_that_closes_without_a_code_is_1005_to_the_application(websocket_server: Server) -> None:
    wire = websocket_server.raw_websocket("/echo/codeless", data=frame(b"", CLOSE))
    assert wire.frame() == (0x80 | CLOSE, b"")
    assert wire.rest() == b""
    assert_over(websocket_server, "/echo/codeless", 1005)


@pytest.mark.parametrize("how", ["close", "say_no_more", "reset"])
def test_a_client_that_vanishes_is_1006_to_the_application(websocket_server: Server, how: str) -> None:
    start = websocket_server.log.position()
    wire = websocket_server.raw_websocket(f"/echo/vanishes/{how}", data=frame("here"))
    assert wire.frame()[1] == b"here"
    getattr(wire, how)()
    assert_over(websocket_server, f"/echo/vanishes/{how}", 1006)
    assert trouble(websocket_server, start) == []


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_vanishes_within_a_message_is_1006_to_the_application(websocket_server: Server, how: str) -> None:
    start = websocket_server.log.position()
    data = frame("whole") + frame("never whole")[:-3]
    wire = websocket_server.raw_websocket(f"/echo/within/{how}", data=data)
    assert wire.frame()[1] == b"whole"
    getattr(wire, how)()
    assert_over(websocket_server, f"/echo/within/{how}", 1006)
    assert calls(websocket_server, f"/echo/within/{how}")[:2] == ["connect 0", "receive 1"]
    assert trouble(websocket_server, start) == []


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_before_the_answer_is_told_of_at_once_and_accepting_it_raises(
    websocket_server: Server, how: str
) -> None:
    start = websocket_server.log.position()
    path = f"/late/gone/{how}"
    wire = websocket_server.connect(handshake(path))
    websocket_server.log.wait_for(f"^websocket.connect {path}")
    getattr(wire, how)()
    websocket_server.log.wait_for(f"^websocket.disconnect {path}")
    assert websocket_server.ask(f"/admit/{how}").status == 200
    websocket_server.log.wait_for(f"^accept raised ClientDisconnected {path}")
    assert_over(websocket_server, path, 1006)
    assert trouble(websocket_server, start) == []


def test_the_application_closes_with_last_words_a_code_and_a_reason(websocket_server: Server) -> None:
    with websocket_server.websocket("/close/now") as client:
        assert client.ask("go") == "last words"
        assert client.closing() == (4001, "enough")
    websocket_server.log.wait_for("^send raised ClientDisconnected")
    assert_over(websocket_server, "/close/now", 4001, "enough")


def test_a_receive_call_that_raises_closes_with_1011_and_is_logged_once(websocket_server: Server) -> None:
    start = websocket_server.log.position()
    with websocket_server.websocket("/fail/receive/once") as client:
        client.send("go")
        assert client.closing()[0] == 1011
    assert_over(websocket_server, "/fail/receive/once", 1011)
    lines = trouble(websocket_server, start)
    assert len(lines) == 2
    assert "The application raised: WebSocket /fail/receive/once" in lines[0]
    assert "Traceback" in lines[1]
    assert len(websocket_server.log.lines("RuntimeError: as the application likes", after=start)) == 1


def test_a_disconnect_call_that_raises_is_logged_once(websocket_server: Server) -> None:
    start = websocket_server.log.position()
    with websocket_server.websocket("/fail/disconnect/once"):
        pass
    websocket_server.log.wait_for("RuntimeError: as the application likes", after=start)
    assert_over(websocket_server, "/fail/disconnect/once", 1000)
    assert len(trouble(websocket_server, start)) == 2


# -- handshakes that lead to nothing


def test_a_rejected_handshake_is_a_403(websocket_server: Server) -> None:
    start = websocket_server.log.position()
    wire = websocket_server.connect(handshake("/reject"))
    reply = wire.reply()
    assert (reply.status, reply.headers["connection"]) == (403, "close")
    assert wire.rest() == b""
    assert_over(websocket_server, "/reject", 1006)
    assert trouble(websocket_server, start) == []


def test_a_handshake_may_be_answered_with_a_response(websocket_server: Server) -> None:
    with pytest.raises(InvalidStatus) as refused:
        websocket_server.websocket("/respond")
    response = refused.value.response
    assert (response.status_code, response.body) == (401, b"Who are you?")
    assert response.headers["www-authenticate"] == "Basic"
    assert response.headers["content-length"] == "12"
    assert_over(websocket_server, "/respond", 1006)


def test_a_connect_call_that_returns_without_an_answer_rejects_with_a_warning(websocket_server: Server) -> None:
    start = websocket_server.log.position()
    wire = websocket_server.connect(handshake("/forget"))
    assert wire.reply().status == 403
    assert wire.rest() == b""
    assert_over(websocket_server, "/forget", 1006)
    (line,) = trouble(websocket_server, start)
    assert "[WARNING]" in line
    assert "/forget" in line


def test_a_connect_call_that_raises_is_a_500_and_logged_once(websocket_server: Server) -> None:
    start = websocket_server.log.position()
    wire = websocket_server.connect(handshake("/fail/connect"))
    assert wire.reply().status == 500
    assert wire.rest() == b""
    assert_over(websocket_server, "/fail/connect", 1006)
    lines = trouble(websocket_server, start)
    assert len(lines) == 2
    assert "The application raised: " in lines[0]
    assert "/fail/connect" in lines[0]


BAD = {
    "no key": handshake("/echo/bad", key=None),
    "a short key": handshake("/echo/bad", key="c2hvcnQ="),
    "a key that is no base64": handshake("/echo/bad", key="!" * 24),
    "two keys": handshake("/echo/bad", f"Sec-WebSocket-Key: {KEY}"),
    "POST": handshake("/echo/bad", method="POST"),
    "HEAD": handshake("/echo/bad", method="HEAD"),
    "a body": handshake("/echo/bad", body=b"body"),
    "a chunked body": handshake("/echo/bad", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
    "a bad subprotocol": handshake("/echo/bad", "Sec-WebSocket-Protocol: a b"),
    "a bad extension": handshake("/echo/bad", "Sec-WebSocket-Extensions: ;"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_handshake_is_a_400_and_no_call_of_the_application(websocket_server: Server, name: str) -> None:
    start = websocket_server.log.position()
    wire = websocket_server.connect(BAD[name] + frame("not read"))
    reply = wire.reply("HEAD" if name == "HEAD" else "GET")
    assert (reply.status, reply.headers["connection"]) == (400, "close")
    assert wire.rest() == b""
    assert websocket_server.ask("/hello").status == 200
    assert not websocket_server.log.lines("/echo/bad", after=start)
    refusal = "Invalid request from ip=127.0.0.1: "  # Of one with a body, the server says so before it is a handshake.
    assert [line for line in trouble(websocket_server, start) if refusal not in line] == []


@pytest.mark.parametrize("version", ["8", "14", "not a number"])
def test_another_version_is_a_426_that_names_the_one_that_is_spoken(websocket_server: Server, version: str) -> None:
    start = websocket_server.log.position()
    wire = websocket_server.connect(handshake("/echo/version", version=version))
    reply = wire.reply()
    assert reply.status == 426
    assert reply.headers["sec-websocket-version"] == "13"
    assert reply.headers["upgrade"] == "websocket"
    assert wire.rest() == b""
    assert not websocket_server.log.lines("/echo/version", after=start)


def test_without_the_upgrade_it_is_a_request_as_any_other(websocket_server: Server) -> None:
    wire = websocket_server.connect()
    for sent in (
        request("/hello", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
        request("/hello", "Connection: Upgrade", "Upgrade: h2c"),
        handshake("/hello", version=None, key=None).replace(b"websocket", b"webrocket"),
    ):
        wire.send(sent)
        assert wire.reply().body == b"<h1>Hello World</h1>"


# -- the connection before


def test_a_connection_may_serve_requests_before_its_upgrade(websocket_server: Server) -> None:
    wire = websocket_server.connect()
    assert wire.ask("/hello").status == 200
    assert wire.ask("/hello").status == 200
    wire.send(handshake("/echo"))
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    wire.send(frame("now this"))
    assert wire.frame() == (0x80 | TEXT, b"now this")


def test_a_request_the_handshake_and_the_first_frames_may_come_in_one_packet(websocket_server: Server) -> None:
    sent = request("/hello") + handshake("/echo") + frame("one") + frame(b"two", BINARY)
    wire = websocket_server.connect(sent)
    assert wire.reply().status == 200
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert wire.frame() == (0x80 | TEXT, b"one")
    assert wire.frame() == (0x80 | BINARY, b"two")


def test_frames_that_come_before_the_answer_wait_for_it(websocket_server: Server) -> None:
    start = websocket_server.log.position()
    second = frame("two")
    wire = websocket_server.connect(handshake("/late/early") + frame("one") + second[:4])
    websocket_server.log.wait_for("^websocket.connect /late/early")
    wire.send(second[4:])
    websocket_server.ask("/admit/early")
    assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 101 ")
    assert wire.frame() == (0x80 | TEXT, b"one")
    assert wire.frame() == (0x80 | TEXT, b"two")
    assert websocket_server.log.lines("^(called|websocket).*/early", after=start) == [
        "websocket.connect /late/early 0",
        "called GET /admit/early",
        "websocket.receive /late/early 1",
        "websocket.receive /late/early 2",
    ]


# -- listeners


def test_two_workers_share_the_websockets(serve: Serve) -> None:
    server = serve("websocket_apps:app", workers=2)

    def is_served_by(pid: int) -> bool:
        with server.websocket("/pid") as client:
            return bool(client.recv() == str(pid))

    for pid in server.ready_workers():
        eventually(partial(is_served_by, pid))


def test_ipv6(serve: Serve) -> None:
    server = serve("websocket_apps:app", bind="[::1]:0")
    with websocket(f"ws://[::1]:{server.port}/what") as client:
        message = json.loads(client.recv())
        assert message["server"] == ["::1", server.port]
        assert message["client"] == list(client.socket.getsockname()[:2])


def test_a_unix_socket_has_no_client_and_its_path_for_a_server(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    serve("websocket_apps:app", bind=f"unix:{path}")
    with unix_connect(str(path), "ws://localhost/what", create_connection=WebSocket) as client:
        message = json.loads(client.recv())
        assert (message["server"], message["client"]) == ([str(path), None], None)
        assert json.loads(client.ask("still there"))["text"] == "still there"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_websockets_come_over_tls_with_the_scheme_wss(serve: Serve, certificate: tuple[str, str]) -> None:
    certfile, keyfile = certificate
    server = serve("websocket_apps:app", "--certfile", certfile, "--keyfile", keyfile)
    context = ssl.create_default_context(cafile=certfile)
    uri = f"wss://localhost:{server.port}/what/tls"
    with websocket(uri, sock=socket.create_connection(server.address), ssl=context) as client:
        assert json.loads(client.recv())["scheme"] == "wss"
        large = "x" * (1 << 20)
        assert json.loads(client.ask(large))["text"] == large
        client.close(4000, "bye")
    assert client.close_code == 4000
    server.log.wait_for("^websocket.disconnect /what/tls 2 4000 'bye'")
    uri = f"wss://localhost:{server.port}/close/tls"
    with websocket(uri, sock=socket.create_connection(server.address), ssl=context) as client:
        assert client.ask("go") == "last words"
        assert client.closing() == (4001, "enough")
    server.log.wait_for("^websocket.disconnect /close/tls 2 4001 'enough'")
    assert "Traceback" not in server.log
