"""A chat that shows who is there, across the workers, with nothing to store that in.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker -w 2 --chdir examples/chat app:chat

open http://127.0.0.1:8000/ in two windows of a browser, and say something in one of them. Then reload the server (HUP
to the master): the pages find their way back by themselves.

Each worker knows who is connected to it, and tells that to the group: whenever it changes, and every BEAT seconds. A
page puts the lists of the workers together, and forgets a worker that it has not heard of for a while, one that was
killed, say. Who comes has the whole picture within a BEAT.
"""

import asyncio
import json
import os
from pathlib import Path
from urllib.parse import parse_qs

from uvicorn_worker import groups

PAGE = Path(__file__).with_name("page.html").read_bytes()
BEAT = 1  # seconds
LONGEST_NAME, LONGEST_TEXT = 30, 2000  # characters

#: The names of those who are connected to this worker, by the names of their channels.
here = {}

beats = None  # the task that tells of them while there are any


async def chat(message, channels):
    reply = channels["reply"]
    if message["channel"] == "http.request":
        headers = [(b"content-type", b"text/html; charset=utf-8")]
        await reply.send({"status": 200, "headers": headers, "content": PAGE})
    elif message["channel"] == "websocket.connect":
        await channels["groups"].send({"group": "chat", "add": reply.name})
        await come(reply.name, name_in(message["query_string"]))
    elif message["channel"] == "websocket.receive":
        await tell(name=here[reply.name], text=(message["text"] or "")[:LONGEST_TEXT])
    elif message["channel"] == "websocket.disconnect":
        await leave(reply.name)


def name_in(query):
    names = parse_qs(query.decode("ascii", "replace")).get("name", ["Somebody"])
    return names[0][:LONGEST_NAME]


async def come(channel, name):
    global beats
    here[channel] = name
    await tell_who_is_here()
    if beats is None:
        beats = asyncio.create_task(beat())


async def leave(channel):
    global beats
    if here.pop(channel, None) is not None:
        await tell_who_is_here()
    if not here and beats is not None:
        beats.cancel()
        beats = None


async def beat():
    while True:
        await asyncio.sleep(BEAT)
        await tell_who_is_here()


async def tell_who_is_here():
    await tell(here=sorted(here.values()))


async def tell(**news):
    """Send that to all pages, and which worker says it."""
    await groups.send("chat", {"text": json.dumps({"worker": os.getpid(), **news})})
