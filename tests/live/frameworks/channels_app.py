"""A Django project with Channels, in one module: `python -m frameworks.channels_app COMMAND` manages it."""

import json
import os
import threading
from typing import Any

from apps import say
from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    ASGI_APPLICATION=f"{__name__}.app",
    INSTALLED_APPS=["channels"],
    SECRET_KEY="of a test",
    USE_TZ=True,
    CHANNEL_LAYERS={"default": {"BACKEND": "uvicorn_worker.channel_layer.GroupsChannelLayer"}},
)

from asgiref.sync import async_to_sync  # noqa: E402
from channels.consumer import SyncConsumer  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer, JsonWebsocketConsumer  # noqa: E402
from channels.layers import get_channel_layer  # noqa: E402
from channels.routing import ChannelNameRouter, ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.management import execute_from_command_line  # noqa: E402
from django.http import HttpRequest, HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402


class AsyncChat(AsyncWebsocketConsumer):  # type: ignore[misc]
    """Tells everybody in the room what it receives; first, its client is told the worker and the channel."""

    async def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        await self.channel_layer.group_add(self.room, self.channel_name)
        await self.accept()
        await self.send(text_data=json.dumps([os.getpid(), self.channel_name]))

    async def disconnect(self, code: int) -> None:
        await self.channel_layer.group_discard(self.room, self.channel_name)
        say("left", self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.channel_layer.group_send(self.room, {"type": "chat.message", "text": text_data})

    async def chat_message(self, event: dict[str, Any]) -> None:
        await self.send(text_data=event["text"])


class SyncChat(JsonWebsocketConsumer):  # type: ignore[misc]
    """The same, in threads, and by JSON."""

    def connect(self) -> None:
        self.room = self.scope["url_route"]["kwargs"]["room"]
        async_to_sync(self.channel_layer.group_add)(self.room, self.channel_name)
        self.accept()
        self.send_json([os.getpid(), self.channel_name])

    def disconnect(self, code: int) -> None:
        async_to_sync(self.channel_layer.group_discard)(self.room, self.channel_name)

    def receive_json(self, content: Any, **kwargs: Any) -> None:
        async_to_sync(self.channel_layer.group_send)(self.room, {"type": "chat.message", "text": content["say"]})

    def chat_message(self, event: dict[str, Any]) -> None:
        self.send_json({"said": event["text"]})


class Tasks(SyncConsumer):  # type: ignore[misc]
    """What `runworker` runs: says its result in a room."""

    def double(self, message: dict[str, Any]) -> None:
        text = f"{2 * message['number']}"
        async_to_sync(self.channel_layer.group_send)(message["room"], {"type": "chat.message", "text": text})


def tell(request: HttpRequest, room: str, text: str) -> HttpResponse:
    async_to_sync(get_channel_layer().group_send)(room, {"type": "chat.message", "text": text})
    return HttpResponse(str(os.getpid()))


def tell_one(request: HttpRequest, channel: str, text: str) -> HttpResponse:
    async_to_sync(get_channel_layer().send)(channel, {"type": "chat.message", "text": text})
    return HttpResponse(str(os.getpid()))


def tell_in_thread(request: HttpRequest, room: str, text: str) -> HttpResponse:
    """As a scheduler does: a thread that knows no loop, which lives for two calls."""

    def tell_twice() -> None:
        for number in range(2):
            tell(request, room, f"{text} {number}")

    thread = threading.Thread(target=tell_twice)
    thread.start()
    thread.join()
    return HttpResponse(str(os.getpid()))


async def ask(request: HttpRequest, room: str, number: int) -> HttpResponse:
    await get_channel_layer().send("tasks", {"type": "double", "number": number, "room": room})
    return HttpResponse(str(os.getpid()))


urlpatterns = [
    path("tell/<room>/<text>", tell),
    path("tell_one/<channel>/<text>", tell_one),
    path("tell_in_thread/<room>/<text>", tell_in_thread),
    path("ask/<room>/<int:number>", ask),
]

app = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("async/<room>", AsyncChat.as_asgi()), path("sync/<room>", SyncChat.as_asgi())]),
        "channel": ChannelNameRouter({"tasks": Tasks.as_asgi()}),
    }
)

if __name__ == "__main__":
    execute_from_command_line()
