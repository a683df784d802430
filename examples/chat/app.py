"""A chat: what one says, all are told, whichever worker process they are connected to.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker -w 2 --chdir examples/chat app:chat

open http://127.0.0.1:8000/ in two windows of a browser, and say something in one of them.
"""

import os

PAGE = """<!doctype html>
<title>Chat</title>
<form><input autofocus autocomplete="off"> <button>Say</button></form>
<ul></ul>
<script>
    const socket = new WebSocket(location.href.replace("http", "ws"));
    const [form, input, list] = ["form", "input", "ul"].map(name => document.querySelector(name));
    const show = text => list.prepend(Object.assign(document.createElement("li"), {textContent: text}));
    socket.onmessage = event => show(event.data);
    socket.onclose = event => show("closed: " + event.code);
    form.onsubmit = event => {
        event.preventDefault();
        socket.send(input.value);
        input.value = "";
    };
</script>
"""


async def chat(message, channels):
    reply, groups = channels["reply"], channels["groups"]
    if message["channel"] == "http.request":
        headers = [(b"content-type", b"text/html; charset=utf-8")]
        await reply.send({"status": 200, "headers": headers, "content": PAGE.encode()})
    elif message["channel"] == "websocket.connect":
        hello = {"text": f"somebody has come, to worker {os.getpid()}"}
        await groups.send({"group": "chat", "add": reply.name, "send": hello})
    elif message["channel"] == "websocket.receive":
        await groups.send({"group": "chat", "send": {"text": message["text"] or ""}})
    elif message["channel"] == "websocket.disconnect":
        await groups.send({"group": "chat", "send": {"text": "somebody has left"}})
