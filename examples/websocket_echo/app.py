"""Sends each WebSocket message back, text as text and bytes as bytes.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker --chdir examples/websocket_echo app:websocket_echo

and talk to it with::

    python -m websockets ws://127.0.0.1:8000/
"""


async def websocket_echo(message, channels):
    reply = channels["reply"]
    if message["channel"] == "websocket.connect":
        await reply.send({"accept": True})
    elif message["channel"] == "websocket.receive":
        # Exactly one of them is set.
        if message["text"] is not None:
            await reply.send({"text": message["text"]})
        else:
            await reply.send({"bytes": message["bytes"]})
