"""The chat, in a browser, as its users see it."""

import os
import signal
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from .browser import Browser, Page, needs_chromium
from .harness import Serve, Server, eventually

CHAT = Path(__file__).parents[2] / "examples" / "chat"

#: A file that a picture of the chat is written to, as that of the documents was: docs/chat.png.
SCREENSHOT = os.environ.get("SCREENSHOT")

SAID = ("Is anybody at the other worker?", "I am.", "Then we hear each other.", "In order, too.")
SAID_LATER = ("Did you notice the reload?", "No, the page came back by itself.", "So did mine.")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "browser") as browser:
        yield browser


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve("app:chat", cwd=CHAT, command=("-m", "uvicorn_worker"), workers=2)


def enter(browser: Browser, server: Server, name: str) -> Page:
    """Open the chat, and say who one is."""
    page = browser.open(f"http://127.0.0.1:{server.port}/")
    page.wait_until("document.readyState === 'complete' && document.activeElement.name === 'name'")
    page.type(name)
    page.wait_until(f"document.body?.innerText.includes('connected as {name}')")
    page.wait_until(f"document.querySelector('aside').innerText.includes('{name}')")
    return page


def worker_of(page: Page, name: str) -> str:
    """As the list of those who are there has it."""
    worker: str = page.value(
        "[...document.querySelectorAll('aside li')].find(each => each.textContent === "
        f"'{name}').parentElement.previousSibling.textContent"
    )
    return worker


def enter_elsewhere(browser: Browser, server: Server, name: str, worker: str) -> Page:
    """Open the chat until that is at another worker."""
    while worker_of(page := enter(browser, server, name), name) == worker:
        page.close()
    return page


def wait_to_be_seen(*pages: Page) -> None:
    """Until each page shows both to be there."""
    for page in pages:
        eventually(lambda page=page: sorted(page.texts("aside li")) == ["Ada", "Ben"])


def talk(pages: tuple[Page, Page], texts: tuple[str, ...]) -> None:
    """Say these, on the first page and the other in turn, each when both have heard the one before."""
    for speaker, text in zip(cycle(pages), texts, strict=False):
        speaker.type(text)
        for page in pages:
            eventually(lambda page=page, text=text: page.texts("#said li")[-1:] == [text])


@needs_chromium
def test_pages_at_two_workers_hear_each_other_and_find_their_way_back_after_a_reload(
    browser: Browser, server: Server
) -> None:
    ada = enter(browser, server, "Ada")
    worker = worker_of(ada, "Ada")
    ben = enter_elsewhere(browser, server, "Ben", worker)
    ben.resize(680, 440)
    wait_to_be_seen(ada, ben)
    assert worker_of(ben, "Ada") == worker
    talk((ada, ben), SAID)
    assert ada.texts("#said li") == ben.texts("#said li") == list(SAID)
    if SCREENSHOT:
        ben.screenshot(Path(SCREENSHOT))

    before = server.log.position()
    server.signal(signal.SIGHUP)
    for page in (ada, ben):
        page.wait_until("document.querySelector('#said .gap') !== null")
        page.wait_until("document.body.className === 'connected'")
    new = {f"Worker {pid}" for pid in server.ready_workers(before)}
    for page in (ada, ben):
        eventually(lambda page=page: set(page.texts("aside h2")) <= new)
    wait_to_be_seen(ada, ben)
    talk((ada, ben), SAID_LATER)
    for page in (ada, ben):
        assert page.texts("#said li:not(.gap)") == [*SAID, *SAID_LATER]
    assert not server.log.lines(r"Traceback|\[(WARNING|ERROR)\]")
