"""A FastAPI application whose WebSockets hear of what is posted, whichever worker process they are connected to.

Start it from the top of the repository, in the environment that the package and ``fastapi`` are installed in, with::

    gunicorn -k uvicorn_worker.UvicornWorker -w 2 --chdir examples/fastapi_groups app:fastapi_groups

listen to a room with ``python -m websockets ws://127.0.0.1:8000/rooms/kitchen``, and tell it something with::

    curl --json '{"text": "Dinner is ready"}' http://127.0.0.1:8000/rooms/kitchen

http://127.0.0.1:8000/docs has the rest.
"""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel

from uvicorn_worker import groups

fastapi_groups = FastAPI(title="Rooms")


class Message(BaseModel):
    text: str


@fastapi_groups.post("/rooms/{room}", status_code=202)
async def tell(room: str, message: Message) -> Message:
    await groups.send(f"room.{room}", {"text": message.model_dump_json()})
    return message


@fastapi_groups.websocket("/rooms/{room}")
async def listen(websocket: WebSocket, room: str) -> None:
    """What is received here is for the room, too."""
    own = websocket.scope["extensions"]["uvicorn_worker.groups"]
    await own["send"]({"group": f"room.{room}", "add": own["channel"]})
    await websocket.accept()
    try:
        while True:
            message = Message(text=await websocket.receive_text())
            await groups.send(f"room.{room}", {"text": message.model_dump_json()})
    except WebSocketDisconnect:
        pass  # It has left its groups.
