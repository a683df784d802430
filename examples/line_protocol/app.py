"""A protocol of its own beside HTTP: a client upgrades to it, and gets each line back in upper case.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k app.Worker --chdir examples/line_protocol app:line_protocol

and try it with::

    python examples/line_protocol/client.py
"""

from uvicorn_worker import UpgradedProtocol, UvicornWorker

LONGEST_LINE = 4096  # bytes


class Lines(UpgradedProtocol):
    """What is spoken after the upgrade: a protocol as those of asyncio."""

    rest = b""

    def data_received(self, data):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.transport.write(line.upper() + b"\n")
        if len(self.rest) > LONGEST_LINE:
            self.transport.close()


async def lines(upgrade):
    """Answers requests with ``Upgrade: lines``: this one by switching, unless they are for another path."""
    if upgrade.target.path == "/":
        upgrade.switch(Lines(upgrade))
    else:
        upgrade.send_whole(404, [(b"content-type", b"text/plain")], b"There are lines at / only.\n")


class Worker(UvicornWorker):
    UPGRADES = {**UvicornWorker.UPGRADES, "lines": lines}


async def line_protocol(message, channels):
    """The application, for everything else."""
    if message["channel"] == "http.request":
        await channels["reply"].send({"status": 200, "content": b"Upgrade to lines, if you can.\n"})
    elif message["channel"] == "websocket.connect":
        await channels["reply"].send({"accept": False})
