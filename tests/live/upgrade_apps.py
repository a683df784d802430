"""Workers that serve other protocols than WebSocket, and the application beside them."""

import asyncio
from typing import Any

from apps import gates, say
from websocket_apps import app

from uvicorn_worker import Upgrade, UpgradedProtocol, UvicornWorker

__all__ = ["Worker", "app"]


class Reverse(UpgradedProtocol):
    """Sends each line back in reverse; "bye" closes."""

    rest = b""

    def data_received(self, data: bytes) -> None:
        say("received", data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.transport.write(line[::-1] + b"\n")
            if line == b"bye":
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        say("upgraded connection lost")


async def reverse(upgrade: Upgrade) -> None:
    """/switch switches; each other path does something else."""
    path = upgrade.target.path
    say("asked", upgrade.method, path, upgrade.protocol_name)
    if path == "/switch":
        upgrade.switch(Reverse(upgrade), [(b"x-extra", b"yes")])
    elif path == "/wait":
        await gates["upgrade"].wait()
        upgrade.switch(Reverse(upgrade))
    elif path == "/refuse":
        upgrade.send_whole(418, [(b"x-why", b"teapot")], b"No.")
    elif path == "/raise":
        raise RuntimeError("as the handler likes")
    elif path == "/bad-field":
        upgrade.switch(Reverse(upgrade), [(b"content-length", b"3")])
    elif path == "/raise-late":
        upgrade.switch(Reverse(upgrade))
        await asyncio.sleep(0)
        raise RuntimeError("as the handler likes")


class Worker(UvicornWorker):
    UPGRADES = {**UvicornWorker.UPGRADES, "Reverse": reverse}


def not_a_coroutine_function(upgrade: Any) -> None: ...
