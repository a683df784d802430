"""The corpus, against a live worker: each case whole, and each in small pieces, many of them at a time."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import IPPROTO_TCP, TCP_NODELAY
from typing import Any

import pytest
from corpus import INVALID, VALID, Case
from corpus.checks import AFTER, SMUGGLED, assert_refused, assert_served, read_replies

from .client import Wire, request
from .harness import Server

TESTS = Path(__file__).parents[1]

CASES = VALID | INVALID


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker that tells what it was called with, and by `/calls` of all calls since the last time."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    folder = tmp_path_factory.mktemp("witness")
    with Server("corpus.app:app", "--keep-alive", "30", folder=folder, env={"PYTHONPATH": path}) as server:
        yield server


def calls(server: Server) -> list[dict[str, Any]]:
    return json.loads(server.ask("/calls").body)


def talk(wire: Wire, case: Case, piece: int) -> bytes:
    """Send a case with a request behind it, in pieces of so many bytes, and receive all that is answered."""
    wire.socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    for start in range(0, len(case.sent) - 1, piece):
        wire.send(case.sent[start : min(start + piece, len(case.sent) - 1)])
    goes_on = not case.refused and not case.ends
    wire.send(case.sent[-1:] + (AFTER if goes_on else SMUGGLED))
    if goes_on:
        wire.say_no_more()
    return wire.rest()


@pytest.mark.parametrize("name", CASES)
def test_a_case_ends_as_it_must(witness: Server, name: str) -> None:
    case = CASES[name]
    calls(witness)
    with Wire(witness.address) as wire:
        received = talk(wire, case, len(case.sent))
    (assert_refused if case.refused else assert_served)(case, received, calls(witness))


def dribble(server: Server, case: Case) -> bytes:
    with Wire(server.address) as wire:
        return talk(wire, case, 1 if len(case.sent) < 1000 else 4000)


def test_all_cases_in_pieces_at_once_end_as_they_must(witness: Server) -> None:
    calls(witness)
    with ThreadPoolExecutor(16) as pool:
        received = dict(zip(CASES, pool.map(lambda case: dribble(witness, case), CASES.values()), strict=True))
    called = calls(witness)
    assert "/smuggled" not in [call["path"] for call in called]
    for name, case in CASES.items():
        if case.refused:
            *served, _ = read_replies(received[name], (*(call.method for call in case.calls), "GET"))
            assert_refused(case, received[name], [json.loads(reply.body) for reply in served])
        elif "HEAD" not in [call.method for call in case.calls]:
            methods = (*(call.method for call in case.calls), "GET")
            told = [json.loads(reply.body) for reply in read_replies(received[name], methods)]
            assert_served(case, received[name], told)


# What applications send.

EVIL = ["%0d%0aSet-Cookie:%20evil=1", "%0d%0a%0d%0aevil", "%0aevil:%201", "%0devil:%201", "%00evil", "a%0d%0a%20evil"]


@pytest.mark.parametrize("value", EVIL)
def test_a_redirect_to_what_a_client_has_sent_splits_no_response(server: Server, value: str) -> None:
    wire = server.connect(request(f"/redirect/{value}") + request("/hello"))
    reply = wire.reply()
    assert reply.status == 500
    assert "evil" not in str(reply.headers) + reply.text
    assert wire.reply().text == "<h1>Hello World</h1>"


def test_a_redirect_to_what_a_client_has_sent_stays_one_line(server: Server) -> None:
    reply = server.ask("/redirect/a%20b%C3%A9%3Cc%3E")
    assert reply.status == 303
    assert reply.headers["location"] == "a b\xc3\xa9<c>"
