"""Sends the body of a request back while it arrives, so that no upload is too large.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker --chdir examples/streamed_echo app:streamed_echo

and try it with::

    curl --data-binary @README.rst http://127.0.0.1:8000/
"""

HEAD = {"status": 200, "headers": [(b"content-type", b"application/octet-stream")]}


async def streamed_echo(message, channels):
    reply = channels["reply"]
    if "body" not in channels:  # a request without a body, such as most GETs
        await reply.send(HEAD)
        return
    part = await channels["body"].receive()
    await reply.send({**HEAD, **part})
    while part["more_content"]:
        part = await channels["body"].receive()
        await reply.send(part)  # what is received has the keys of what is sent
