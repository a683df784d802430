"""Many clients at once, that know when a request was sent and not answered."""

import asyncio
import re
import threading
from typing import Any

import uvloop

from .client import DEADLINE, request

_SIZE = re.compile(rb"^content-length: (\d+)\r$", re.IGNORECASE | re.MULTILINE)
_CLOSE = re.compile(rb"^connection: close\r$", re.IGNORECASE | re.MULTILINE)


class Crowd:
    """Clients in a thread of their own that ask and ask over persistent connections, until a `with` ends.

    One whose connection has ended opens another. That is as it should be where a reply has announced it, or while
    nothing has been asked; all else is a failure. Every second client asks again as soon as it has its reply, and
    the others leave their connections idle for a moment.
    """

    IDLE = 0.05  # seconds

    def __init__(self, address: Any, clients: int, path: str = "/") -> None:
        self.failures: list[str] = []
        self.replies = self.connections = 0
        self._address = address
        self._request = request(path)
        self._clients = clients
        self._is_over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Crowd":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over = True
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "a request was never answered"

    def wait_for_more(self, replies: int = 200) -> None:
        """Until so many more requests have been answered."""
        with self._changed:
            goal = self.replies + replies
            enough = self._changed.wait_for(lambda: self.replies >= goal, DEADLINE)
        assert enough, f"{self.replies} replies, {self.failures[:5]}"

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        await asyncio.gather(*(self._client(self.IDLE * (number % 2)) for number in range(self._clients)))

    async def _client(self, idle: float) -> None:
        while not self._is_over:
            self.connections += 1
            try:
                reader, writer = await asyncio.open_connection(*self._address)
            except OSError as error:
                self.failures.append(f"no connection: {error!r}")
                continue
            try:
                await self._use(reader, writer, idle)
            finally:
                writer.close()

    async def _use(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, idle: float) -> None:
        asked = 0
        while not self._is_over and not reader.at_eof():
            asked += 1
            try:
                writer.write(self._request)
                head = await self._reply(reader)
            except (OSError, EOFError) as error:
                self.failures.append(f"request {asked} of a connection: {error!r}")
                return
            if not head.startswith(b"HTTP/1.1 200 "):
                self.failures.append(f"request {asked} of a connection: {head!r}")
            if _CLOSE.search(head):
                return
            await asyncio.sleep(idle)

    async def _reply(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        size = _SIZE.search(head)
        await reader.readexactly(int(size[1]) if size else 0)
        with self._changed:
            self.replies += 1
            self._changed.notify_all()
        return head
