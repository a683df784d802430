"""Server-sent events: what is posted, everybody who listens is told, whichever worker process has their connection.

Start it from the top of the repository, in the environment that the package is installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker -w 2 --chdir examples/server_sent_events app:server_sent_events

listen with a browser at http://127.0.0.1:8000/ or with ``curl --no-buffer http://127.0.0.1:8000/events``, and tell by::

    curl --data hello http://127.0.0.1:8000/
"""

PAGE = b"""<!doctype html>
<title>Events</title>
<ul></ul>
<script>
    new EventSource("/events").onmessage = event => {
        const line = document.createElement("li");
        line.textContent = event.data;
        document.querySelector("ul").append(line);
    };
</script>
"""


async def server_sent_events(message, channels):
    if message["channel"] != "http.request":
        return  # A WebSocket, which that rejects.
    if message["path"] == "/events":
        await listen(channels)
    elif message["method"] == "POST":
        await tell(channels)
    else:
        await say(channels["reply"], 200, b"text/html", PAGE)


async def listen(channels):
    """Begin a response, and leave it to the group: it is held open until the client goes."""
    head = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    # The comment is there to be sent: the head alone would wait for the first event.
    await channels["reply"].send({"status": 200, "headers": head, "content": b": hello\n\n", "more_content": True})
    await channels["groups"].send({"group": "events", "add": channels["reply"].name})


async def tell(channels):
    content, more = b"", "body" in channels
    while more and len(content) < 10_000:
        part = await channels["body"].receive()
        content, more = content + part["content"], part["more_content"]
    event = b"".join(b"data: %b\n" % line for line in content.splitlines()) + b"\n"
    await channels["groups"].send({"group": "events", "send": {"content": event, "more_content": True}})
    await say(channels["reply"], 202, b"text/plain", b"told\n")


async def say(reply, status, kind, content):
    await reply.send({"status": status, "headers": [(b"content-type", kind)], "content": content})
