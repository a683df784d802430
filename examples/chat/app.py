"""A chat: what one says, all are told. It is for one worker process, because who is there is only known to that.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker --chdir examples/chat app:chat

open http://127.0.0.1:8000/ in two windows of a browser, and say something in one of them.
"""

import asyncio

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

present = set()  # the reply channels of everybody who is here


async def tell_all(text):
    # All at once, so that one who reads slowly keeps nobody waiting; one who has just left is no error.
    await asyncio.gather(*(reply.send({"text": text}) for reply in present), return_exceptions=True)


async def chat(message, channels):
    reply = channels["reply"]
    if message["channel"] == "http.request":
        headers = [(b"content-type", b"text/html; charset=utf-8")]
        await reply.send({"status": 200, "headers": headers, "content": PAGE.encode()})
    elif message["channel"] == "websocket.connect":
        await reply.send({"accept": True})
        present.add(reply)
        await tell_all(f"{len(present)} here")
    elif message["channel"] == "websocket.receive":
        await tell_all(message["text"] or "")
    elif message["channel"] == "websocket.disconnect":
        present.discard(reply)
        await tell_all(f"{len(present)} here")
