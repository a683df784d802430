"""Which interface an application speaks, found once, when it is loaded."""

from __future__ import annotations

import functools
import inspect
import os.path
import sys
from collections.abc import Callable
from enum import Enum
from typing import Any

from uvicorn_worker.errors import InvalidApplication


class Interface(Enum):
    CHANNELS = "channels"
    ASGI3 = "asgi3"


_ACCEPTED = "expected `async def app(message, channels)` or `async def app(scope, receive, send)`"


def detect_interface(app: Any, wanted: str = "auto") -> Interface:
    """The interface of ``app``: as ``wanted``, or for ``'auto'`` by the number of positional arguments that it takes.

    Raises :class:`InvalidApplication`, which names the object and what is expected of one.
    """
    name = _name_of(app)
    if wanted != "auto" and callable(app):
        return Interface(wanted)
    if _is_asgi2(app):
        raise InvalidApplication(
            f"{name} is an ASGI 2 application, called once with the scope: make it one of ASGI 3 by"
            f" `asgiref.compatibility.guarantee_single_callable({name.rpartition(':')[2]})`"
        )
    if inspect.isclass(app):
        if hasattr(app, "__await__") and _takes_three(app):
            return Interface.ASGI3
        raise InvalidApplication(f"{name} is a class, and not an instance of one: {_ACCEPTED}")
    if not callable(app):
        raise InvalidApplication(f"{name} can't be called: {_ACCEPTED}")
    if not is_coroutine_function(app):
        hint = ""
        if inspect.isfunction(app) and _positional_arguments(app)[0] == 0:
            hint = f"; if it makes the application, name a call: '…:{app.__name__}()'"
        raise InvalidApplication(f"{name} is not a coroutine function: {_ACCEPTED}{hint}")
    required, accepted = _positional_arguments(app)
    keywords = [p.name for p in _signature(app).parameters.values() if _is_required_keyword(p)]
    if keywords:
        raise InvalidApplication(f"{name} needs the keyword argument {keywords[0]!r}, which nobody gives: {_ACCEPTED}")
    if _takes_three(app):
        return Interface.ASGI3
    if required <= 2 <= accepted:
        return Interface.CHANNELS
    count = f"{required}" if required == accepted else f"{required} to {accepted}"
    raise InvalidApplication(f"{name} takes {count} positional argument{'s' * (count != '1')}: {_ACCEPTED}")


def fault_of_uri(uri: str) -> str | None:
    """What is wrong with ``uri``, ``'module:name'``, where it has a path or nothing in the place of the module.

    The import system would say, or raise, what helps nobody. An empty ``uri`` is of an application without one.
    """
    module, _, name = uri.partition(":")
    if uri and not module:
        return f"{uri!r} names no module: expected 'module:name'"
    if "/" not in module and not module.startswith("."):
        return None
    folder, _, file = os.path.normpath(module).rpartition("/")
    where = f"--chdir {folder} " if folder else ""
    meant = f"{where}{file.lstrip('.').removesuffix('.py')}:{name or 'application'}"
    return f"{module!r} is a path, where the name of a module is expected: did you mean {meant!r}?"


def applications_beside(uri: str) -> str:
    """For a line that says what is wrong with ``uri``, ``'module:name'``: what its module has that could be served."""
    module = uri.partition(":")[0]
    found = [name for name, value in vars(sys.modules.get(module, object)).items() if _is_served(value, module)]
    return f" (there is {', '.join(f'{module}:{name}' for name in found[:5])})" if found else ""


def _is_served(value: Any, module: str) -> bool:
    """Whether that is an application which was made in the module, and not imported by it to make one."""
    if inspect.isclass(value) or not callable(value) or getattr(value, "__module__", module) != module:
        return False
    try:
        detect_interface(value)
    except InvalidApplication:
        return False
    return True


def _takes_three(app: Callable[..., Any]) -> bool:
    required, accepted = _positional_arguments(app)
    return required <= 3 <= accepted and (required != 2 or "send" in _signature(app).parameters)


def _signature(app: Callable[..., Any]) -> inspect.Signature:
    if inspect.isclass(app) or inspect.isroutine(app) or isinstance(app, functools.partial):
        return inspect.signature(app)
    call: Any = app
    return inspect.signature(call.__call__)


def _is_asgi2(app: Any) -> bool:
    """Whether ``app`` is called with a scope alone, and what that gives with ``receive`` and ``send``."""
    if not callable(app) or is_coroutine_function(app):
        return False
    if inspect.isclass(app):
        call = vars(app).get("__call__")
        if not inspect.isfunction(call) or _positional_arguments(call) != (3, 3):
            return False
    return _positional_arguments(app) == (1, 1)


def _name_of(app: Any) -> str:
    named = inspect.unwrap(app) if callable(app) else app
    while isinstance(named, functools.partial):
        named = named.func
    if hasattr(named, "__qualname__"):
        return f"{getattr(named, '__module__', '?')}:{named.__qualname__}"
    return f"{named!r:.100}"


def is_coroutine_function(app: Callable[..., Any]) -> bool:
    """Whether calling ``app`` gives a coroutine, as far as can be seen through partials, decorators and instances."""
    while isinstance(app, functools.partial):
        app = app.func
    app = inspect.unwrap(app)
    if inspect.iscoroutinefunction(app):
        return True
    # Of the instance, which may have one of its own.
    instance: Any = app
    if inspect.isclass(app) or inspect.isroutine(app):
        return False
    return callable(app) and inspect.iscoroutinefunction(inspect.unwrap(instance.__call__))


def _is_required_keyword(parameter: inspect.Parameter) -> bool:
    return parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty


def _positional_arguments(app: Callable[..., Any]) -> tuple[int, float]:
    """How many positional arguments ``app`` needs at least, and how many it takes at most."""
    required = accepted = 0
    for parameter in _signature(app).parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL:
            return required, float("inf")
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            accepted += 1
            required += parameter.default is parameter.empty
    return required, accepted
