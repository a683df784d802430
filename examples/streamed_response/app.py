"""Sends ten lines, each as soon as it is there.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker --chdir examples/streamed_response app:streamed_response

and watch the lines come with::

    curl --no-buffer http://127.0.0.1:8000/
"""

import asyncio

LINES = 10
PAUSE = 0.1  # seconds between two lines


async def streamed_response(message, channels):
    reply = channels["reply"]
    await reply.send(
        {"status": 200, "headers": [(b"content-type", b"text/plain; charset=utf-8")], "more_content": True}
    )
    for number in range(1, LINES + 1):
        await reply.send({"content": b"line %d\n" % number, "more_content": number < LINES})
        if number < LINES:
            await asyncio.sleep(PAUSE)
