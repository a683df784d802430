"""A Django project in one module, with asynchronous and synchronous views."""

import asyncio
import hashlib
import json as encoder
import os
from collections.abc import AsyncIterator
from typing import Any

from apps import gates, say
from asgiref.sync import sync_to_async
from django.conf import settings
from frameworks import common

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    SECRET_KEY="of a test",
    USE_TZ=True,
    LOGGING={
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"console": {"class": "logging.StreamHandler"}},
        "loggers": {"django": {"handlers": ["console"], "level": "ERROR"}},
    },
)

from django.core.asgi import get_asgi_application  # noqa: E402
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse  # noqa: E402
from django.shortcuts import redirect as redirect_to  # noqa: E402
from django.urls import path, re_path, reverse  # noqa: E402
from django.views.static import serve as serve_static  # noqa: E402

background_tasks = set()


async def json(request: HttpRequest) -> HttpResponse:
    return JsonResponse({"hello": "world"} if request.method != "POST" else encoder.loads(request.body))


async def form(request: HttpRequest) -> HttpResponse:
    return JsonResponse(request.POST.dict())


def upload(request: HttpRequest) -> HttpResponse:
    file, digest, size = request.FILES["file"], hashlib.sha256(), 0
    for part in file.chunks():
        digest.update(part)
        size += len(part)
    return JsonResponse({"name": file.name, "size": size, "sha256": digest.hexdigest()})


async def count(request: HttpRequest) -> HttpResponse:
    size = 0
    while part := request.read(65536):
        size += len(part)
    return JsonResponse({"size": size})


async def parts(request: HttpRequest, name: str) -> StreamingHttpResponse:
    return StreamingHttpResponse(common.two_parts(name))


def sync_parts(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter((b"first ", b"second")))


async def events(request: HttpRequest, name: str) -> StreamingHttpResponse:
    return StreamingHttpResponse(common.events(name), content_type="text/event-stream")


async def silent_events(request: HttpRequest, name: str) -> StreamingHttpResponse:
    return StreamingHttpResponse(common.silent_events(name), content_type="text/event-stream")


async def background(request: HttpRequest, name: str) -> HttpResponse:
    task = asyncio.ensure_future(common.slow_work(name))
    background_tasks.add(task)
    task.add_done_callback(background_tasks.discard)
    return HttpResponse("accepted")


async def wait(request: HttpRequest, name: str) -> HttpResponse:
    say("waiting", name)
    try:
        await gates[name].wait()
    except asyncio.CancelledError:
        say("cancelled", name)
        raise
    return HttpResponse("waited")


async def fail(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("as the framework likes")


async def fail_amid(request: HttpRequest) -> StreamingHttpResponse:
    async def content() -> AsyncIterator[bytes]:
        yield b"some "
        raise RuntimeError("amid the body")

    return StreamingHttpResponse(content())


async def teapot(request: HttpRequest) -> HttpResponse:
    return HttpResponse("short and stout", status=418, headers={"x-pot": "tea"})


def in_thread(request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse(common.wait_in_thread(name))


async def bridge(request: HttpRequest, name: str) -> HttpResponse:
    return JsonResponse(await sync_to_async(common.wait_in_thread)(name))


async def open_gate(request: HttpRequest, name: str) -> HttpResponse:
    common.open_gate(name)
    return HttpResponse("open")


def cookies(request: HttpRequest) -> HttpResponse:
    response = JsonResponse(request.COOKIES)
    response.set_cookie("one", "1")
    response.set_cookie("two", "2", httponly=True)
    return response


def redirect(request: HttpRequest) -> HttpResponse:
    return redirect_to("json")


async def where(request: HttpRequest) -> HttpResponse:
    url = request.build_absolute_uri
    return JsonResponse({"client": request.META["REMOTE_ADDR"], "url": url(), "json": url(reverse("json"))})


urlpatterns: list[Any] = [
    path("json", json, name="json"),
    path("form", form),
    path("upload", upload),
    path("count", count),
    path("parts/<name>", parts),
    path("sync_parts", sync_parts),
    path("events/<name>", events),
    path("silent_events/<name>", silent_events),
    path("background/<name>", background),
    path("wait/<name>", wait),
    path("fail", fail),
    path("fail_amid", fail_amid),
    path("teapot", teapot),
    path("thread/<name>", in_thread),
    path("bridge/<name>", bridge),
    path("open/<name>", open_gate),
    path("cookies", cookies),
    path("redirect", redirect),
    path("where", where),
    re_path(r"^static/(?P<path>.*)$", serve_static, {"document_root": os.fspath(common.STATIC)}),
]

app = get_asgi_application()
