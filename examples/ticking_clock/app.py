"""Tells each WebSocket client the time, once a second.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker --chdir examples/ticking_clock app:ticking_clock

and watch it with::

    python -m websockets ws://127.0.0.1:8000/
"""

import asyncio
import time


async def ticking_clock(message, channels):
    if message["channel"] != "websocket.connect":
        return
    # The call of the connect may last as long as the connection: send raises ClientDisconnected when that is over,
    # which ends the call, and needs no handling.
    while True:
        await channels["reply"].send({"text": time.strftime("%H:%M:%S")})
        await asyncio.sleep(1)
