"""The access log, line by line as Gunicorn's own WSGI worker writes it."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from uvicorn_worker.access_log import AccessLine

from .client import Reply, Wire, chunked, request
from .harness import SERVED, Serve, Server, eventually

pytestmark = pytest.mark.unmeasured


def basic(credentials: bytes) -> str:
    return f"Authorization: Basic {b64encode(credentials).decode()}"


BODY = b"a=b"

REQUESTS: dict[str, bytes] = {
    "plain": request("/plain", "User-Agent: curl/8.0", "Referer: http://localhost/"),
    "without fields": request("/plain"),
    "query": request("/plain?a=b&c=%22d%22"),
    "lone question mark": request("/plain?"),
    "two question marks": request("/plain?a?b"),
    "percent-escapes": request("/plain/caf%C3%A9/%22%20%25?caf%C3%A9=%ff"),
    "broken percent-escapes": request("/plain/%/%zz/%e"),
    "quotes": request('/plain/"a"?b="c"', 'User-Agent: "me"', 'Referer: "there"', 'X-A: a "b" c'),
    "semicolon": request("/plain;a=b;c?d;e"),
    "two slashes": request("//plain//a?b=//c"),
    "colon in the path": request("/plain/http://localhost/?a"),
    "absolute form": request("http://localhost/plain/a?b=c"),
    "absolute form without a path": request("http://localhost"),
    "absolute form with a query alone": request("http://localhost?a=b"),
    "asterisk form": request("*", method="OPTIONS"),
    "HEAD": request("/plain", method="HEAD"),
    "HEAD of a streamed reply": request("/streamed", method="HEAD"),
    "POST": request("/plain", "Content-Type: application/x-www-form-urlencoded", method="POST", body=BODY),
    "POST in chunks": request("/plain", "Transfer-Encoding: chunked", method="POST") + chunked(b"a", b"bc"),
    "POST that waits": request("/plain", "Expect: 100-continue", method="POST", body=BODY),
    "PUT": request("/created", method="PUT", body=BODY),
    "DELETE": request("/empty", method="DELETE"),
    "repeated fields": request(
        "/plain", "X-A: 1", "User-Agent: a", "x-a: 2", "Referer: b", "User-Agent: c", "Cookie: d", "Cookie: e"
    ),
    "empty and padded fields": request("/plain", "X-A:", "User-Agent:", "Referer:   a b  \t"),
    "bytes outside ASCII": request("/plain", "User-Agent: caf\xc3\xa9", "Referer: caf\xe9", "X-A: \xa0"),
    "created": request("/created"),
    "streamed": request("/streamed"),
    "streamed with a length": request("/measured"),
    "no content": request("/empty"),
    "not modified": request("/unchanged"),
    "not found": request("/missing"),
    "failed": request("/failed"),
    "HTTP/1.0": request("/plain", version="1.0"),
    "HTTP/1.0 without a Host": request("/plain", version="1.0", host=None),
    "HTTP/1.0 kept": request("/plain", "Connection: keep-alive", version="1.0"),
    "HTTP/1.0 streamed": request("/streamed", version="1.0"),
    "closed": request("/plain", "Connection: close"),
    "Host with a port": request("/plain", host="example.org:8080"),
    "user": request("/plain", basic(b"me:secret")),
    "user in small letters": request("/plain", basic(b"me:secret").replace("Basic", "basic")),
    "user without a password": request("/plain", basic(b"me")),
    "no user": request("/plain", basic(b":secret")),
    "user with a quote": request("/plain", basic(b'"me":secret')),
    "user outside ASCII": request("/plain", basic("caf\xe9:secret".encode())),
    "user in no UTF-8": request("/plain", basic(b"caf\xe9:secret")),
    "padded credentials": request("/plain", basic(b"me:secret").replace("Basic ", "Basic    ")),
    "credentials cut short": request("/plain", basic(b"me:secret")[:-2]),
    "credentials of strange letters": request("/plain", "Authorization: Basic b!W\xe9U6c2VjcmV0"),
    "credentials that are none": request("/plain", "Authorization: Basic"),
    "credentials without a space": request("/plain", "Authorization: Basicbad"),
    "another scheme": request("/plain", "Authorization: Bearer bWU6c2VjcmV0"),
    "two users": request("/plain", basic(b"me:secret"), basic(b"you:secret")),
}

#: Those that go to a Unix socket, too.
TO_SOCKET = ("plain", "HTTP/1.0 without a Host", "Host with a port", "user")

_FIELDS = (
    "user-agent",
    "User-Agent",
    "X-A",
    "x-a",
    "HOST",
    "content-length",
    "Content-Type",
    "cookie",
    "Authorization",
)
_REPLY_FIELDS = ("Content-Type", "x-quote", "X-Two", "X-Padded", "Content-Length", "X-Latin", "ETag", "server", "Date")
_VARIABLES = (
    "REQUEST_METHOD",
    "request_method",
    "QUERY_STRING",
    "RAW_URI",
    "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
    "SERVER_NAME",
    "SERVER_PORT",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "PATH_INFO",
    "SCRIPT_NAME",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
    "HTTP_HOST",
    "HTTP_X_A",
    "HTTP_USER_AGENT",
    "HTTP_COOKIE",
    "HTTP_CONTENT_TYPE",
    "wsgi.url_scheme",
    "PATH",
)

#: Every atom by itself, and what Python's % can do with them.
ATOMS = (
    *(f"%({letter})s" for letter in "hlutrsmUqHbBfaTDMLp"),
    *(f"%({{{name}}}i)s" for name in (*_FIELDS, "missing", "")),
    *(f"%({{{name}}}o)s" for name in (*_REPLY_FIELDS, "missing")),
    *(f"%({{{name}}}e)s" for name in (*_VARIABLES, "MISSING")),
    *("%({User-Agent}I)s", "%(H)s %({X-Two}O)s", "%({PATH_INFO}E)s", "%({host}x)s", "%({host)s", "%(host}i)s", "%()s"),
    *("%(x)s", "%(R)s", "%(hh)s", "100%%", "%%(h)s", 'a "quoted" part', "caf\xe9"),
    *("%(s)5s", "%(s)-5s|", "%(r).3s", "%(B)d", "%(B)08d", "%(B)x", "%(B)+.1f", "%(D)d", "%(T)5d", "%(U)r", "%(h)a"),
)


def mask(atom: str, part: str) -> str:
    """What came of an atom, without what is never the same twice, or can't be the same for two servers."""
    if not atom:
        return re.sub(r"\[.*?\]", lambda time: re.sub(r"\d", "0", time[0]), part)
    varying = ("(t)", "(D)", "(M)", "(L)", "(p)", "SERVER_PORT", "REMOTE_PORT")
    return re.sub(r"\d+", "0", part) if any(name in atom for name in varying) else part


def read_lines(file: Path, names: list[str], atoms: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """What was logged, by request and atom."""
    eventually(lambda: file.read_text().count("\n") >= len(names))
    lines = [line.split("\t") for line in file.read_text().replace(str(file.parent), "").splitlines()]
    return {
        (name, atom): mask(atom, part)
        for name, line in zip(names, lines, strict=True)
        for atom, part in zip(atoms, line, strict=True)
    }


def send(address: Any, raw: bytes) -> Reply:
    """The reply to a request on a connection of its own."""
    with Wire(address) as wire:
        wire.send(raw)
        return wire.reply(raw.split(b" ", 1)[0].decode())


def send_all(server: Server, socket: Path) -> list[str]:
    """The names of the requests, each of which was answered on a connection of its own."""
    for raw in REQUESTS.values():
        send(server.address, raw)
    for name in TO_SOCKET:
        send(str(socket), REQUESTS[name])
    return [*REQUESTS, *(f"{name}, to a Unix socket" for name in TO_SOCKET)]


Logged = dict[str, dict[tuple[str, str], str]]


@pytest.fixture(scope="module", params=["Gunicorn's own format", "every atom"])
def logged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    """What each server has written of each request, in one format."""
    conf, atoms = 'accesslog = "access.log"\n', ("",)
    if request.param == "every atom":
        atoms = ATOMS
        conf += "access_log_format = " + repr("\t".join(ATOMS))
    found: Logged = {}
    with ExitStack() as stack:
        servers = []
        for name, (command, app) in SERVED.items():
            folder = tmp_path_factory.mktemp(name)
            options = ("-b", f"unix:{folder / 'socket'}")
            servers.append((name, folder, Server(app, *options, folder=folder, conf=conf, command=command)))
        for name, folder, server in servers:
            stack.enter_context(server)
            found[name] = read_lines(folder / "access.log", send_all(server, folder / "socket"), atoms)
        yield found


def test_the_formats_are_compiled() -> None:
    AccessLine("\t".join(ATOMS), lambda entry: {})


@pytest.mark.parametrize("interface", ["channels", "asgi"])
def test_each_line_is_the_one_of_a_wsgi_worker(logged: Logged, interface: str) -> None:
    ours, theirs = logged[interface], logged["gthread"]
    assert [(key, ours[key], part) for key, part in theirs.items() if ours[key] != part] == []


# Another class of logger.

SHOWING_LOGGER = """
import json
from gunicorn.glogging import Logger

REQUEST = "method uri path query fragment version headers scheme req_number trailers proxy_protocol_info".split()
RESPONSE = "status status_code headers headers_sent sent response_length chunked upgrade version".split()


class logger_class(Logger):
    def access(self, resp, req, environ, request_time):
        assert type(request_time).__name__ == "timedelta"
        assert resp.req is req
        shown = {
            "request": {name: getattr(req, name) for name in REQUEST},
            "response": {name: getattr(resp, name) for name in RESPONSE},
            "environ": {name: environ[name] for name in environ if name.isupper()},
            "addresses": [str(address)[:12] for address in (req.peer_addr, req.remote_addr)],
            "closes": [req.should_close(), resp.should_close()],
        }
        shown["environ"]["REMOTE_PORT"] = shown["environ"]["SERVER_PORT"] = ""
        self.info("shown %s", json.dumps(shown, sort_keys=True))
"""

SHOWN = (
    "plain",
    "query",
    "percent-escapes",
    "absolute form",
    "absolute form without a path",
    "HEAD",
    "POST",
    "POST in chunks",
    "repeated fields",
    "bytes outside ASCII",
    "created",
    "streamed",
    "no content",
    "not modified",
    "HTTP/1.0",
    "HTTP/1.0 kept",
    "HTTP/1.0 streamed",
    "closed",
)


def test_another_class_of_logger_is_shown_what_a_wsgi_worker_shows_it(serve: Serve) -> None:
    shown = {}
    for name, (command, app) in SERVED.items():
        server = serve(app, conf=SHOWING_LOGGER, command=command)
        for number, sent in enumerate(SHOWN, 1):
            send(server.address, REQUESTS[sent])
            eventually(lambda server=server, number=number: len(server.log.lines(" shown ")) == number)
        lines = [line.partition(" shown ")[2] for line in server.log.lines(" shown ")]
        shown[name] = dict(zip(SHOWN, map(json.loads, lines), strict=True))
    for sent in SHOWN:
        assert shown["channels"][sent] == shown["gthread"][sent], sent
        assert shown["asgi"][sent] == shown["gthread"][sent], sent


@pytest.mark.parametrize("interface", ["channels", "asgi"])
def test_a_logger_can_have_atoms_and_a_time_of_its_own(serve: Serve, interface: str) -> None:
    conf = """
from gunicorn.glogging import Logger

accesslog = "-"
access_log_format = "own %(t)s %(x)s %({x-two}o)s"

class logger_class(Logger):
    def now(self):
        return "now"

    def atoms(self, resp, req, environ, request_time):
        return {**super().atoms(resp, req, environ, request_time), "x": environ["PATH_INFO"]}
"""
    server = serve(SERVED[interface][1], conf=conf)
    server.ask("/plain")
    server.log.wait_for("^own now /plain 2$")
