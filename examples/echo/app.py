"""Says the method and the path of each request.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker --chdir examples/echo app:echo
"""


async def echo(message, channels):
    if message["channel"] != "http.request":
        return  # A WebSocket, which that rejects.
    await channels["reply"].send(
        {
            "status": 200,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
            "content": f"{message['method']} {message['path']}\n".encode(),
        }
    )
