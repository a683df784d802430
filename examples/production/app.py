"""An application that is served with all that a configuration for production has: see gunicorn.conf.py.

Start it from the top of the repository, in the environment that the package is installed in, with::

    cd examples/production && gunicorn

and ask beforehand whether the configuration is in order, with::

    cd examples/production && python -m uvicorn_worker --check-config
"""


async def production(message, channels):
    if message["channel"] != "http.request":
        return  # A WebSocket, which that rejects.
    if message["path"] == "/healthz":
        await channels["reply"].send({"status": 204})
    else:
        await channels["reply"].send({"status": 200, "content": b"Hello\n"})
