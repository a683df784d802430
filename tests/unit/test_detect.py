"""Which interface a callable speaks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from uvicorn_worker.errors import InvalidApplication
from uvicorn_worker.interfaces.detect import Interface, detect_interface, fault_of_uri


async def channels_app(message: Any, channels: Any) -> None: ...


async def asgi_app(scope: Any, receive: Any, send: Any) -> None: ...


async def bound_first(settings: Any, message: Any, channels: Any) -> None: ...


async def bound_by_name(message: Any, channels: Any, *, settings: Any) -> None: ...


async def optional_third(message: Any, channels: Any, more: Any = None) -> None: ...


async def optional_fourth(scope: Any, receive: Any, send: Any, more: Any = None) -> None: ...


async def all_optional_two(message: Any = None, channels: Any = None) -> None: ...


async def with_keywords(message: Any, channels: Any, **more: Any) -> None: ...


async def two_and_more(message: Any, channels: Any, *more: Any) -> None: ...


async def three_and_more(scope: Any, receive: Any, send: Any, *more: Any) -> None: ...


async def positional_only(message: Any, channels: Any, /) -> None: ...


class Instance:
    async def __call__(self, message: Any, channels: Any) -> None: ...

    async def method(self, message: Any, channels: Any) -> None: ...

    @classmethod
    async def class_method(cls, message: Any, channels: Any) -> None: ...

    @staticmethod
    async def static_method(scope: Any, receive: Any, send: Any) -> None: ...


class ASGIInstance:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Inheriting(ASGIInstance):
    pass


class Framework:
    """As frameworks have it: a call that is decorated, on an instance that wraps another."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def decorated(app: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(app)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        await app(*args, **kwargs)

    return wrapper


def decorated_synchronously(app: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(app)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return app(*args, **kwargs)

    return wrapper


class DecoratedCall:
    @decorated
    async def __call__(self, message: Any, channels: Any) -> None: ...


class CoroutineFactory:
    @decorated_synchronously
    async def __call__(self, message: Any, channels: Any) -> None: ...


CHANNELS = {
    "a function": channels_app,
    "a method": Instance().method,
    "a class method": Instance.class_method,
    "a class method through an instance": Instance().class_method,
    "an instance": Instance(),
    "a method of its call": Instance().__call__,
    "a partial that gives the first": functools.partial(bound_first, {}),
    "a partial that gives another": functools.partial(bound_by_name, settings={}),
    "a partial of a partial": functools.partial(functools.partial(bound_by_name), settings={}),
    "a partial of a method": functools.partial(Instance().method),
    "a partial of an instance": functools.partial(Instance()),
    "a partial that leaves two of three": functools.partial(asgi_app, {}),
    "an optional third": optional_third,
    "two optional": all_optional_two,
    "keywords": with_keywords,
    "two and more": two_and_more,
    "positional only": positional_only,
    "a decorated function": decorated(channels_app),
    "a function decorated twice": decorated(decorated(channels_app)),
    "a function decorated synchronously": decorated_synchronously(channels_app),
    "a decorated instance": decorated(Instance()),
    "a partial of a decorated function": functools.partial(decorated(channels_app)),
    "an instance with a decorated call": DecoratedCall(),
    "an instance with a synchronously decorated call": CoroutineFactory(),
}

ASGI3 = {
    "a function": asgi_app,
    "a static method": Instance.static_method,
    "an instance": ASGIInstance(),
    "an instance that inherits its call": Inheriting(),
    "a framework": Framework(asgi_app),
    "a decorated framework": decorated(Framework(asgi_app)),
    "a partial that gives the first of four": functools.partial(optional_fourth),
    "three and more": three_and_more,
    "an optional fourth": optional_fourth,
}


@pytest.mark.parametrize("app", CHANNELS.values(), ids=CHANNELS)
def test_two_positional_arguments_are_message_and_channels(app: Any) -> None:
    assert detect_interface(app) is Interface.CHANNELS


@pytest.mark.parametrize("app", ASGI3.values(), ids=ASGI3)
def test_three_positional_arguments_are_asgi_3(app: Any) -> None:
    assert detect_interface(app) is Interface.ASGI3


async def none() -> None: ...


async def one(scope: Any) -> None: ...


async def four(a: Any, b: Any, c: Any, d: Any) -> None: ...


async def required_keyword(message: Any, channels: Any, *, more: Any) -> None: ...


def synchronous(message: Any, channels: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> Any:
    return []


async def generator(message: Any, channels: Any) -> Any:
    yield


class Synchronous:
    def __call__(self, message: Any, channels: Any) -> None: ...


class NotCallable:
    def __repr__(self) -> str:
        return "<a database>"


class ASGI2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


REFUSED = {
    "no argument": (none, "unit.test_detect:none takes 0"),
    "one argument": (one, "unit.test_detect:one takes 1"),
    "four arguments": (four, "unit.test_detect:four takes 4"),
    "a keyword that nobody gives": (required_keyword, "required_keyword"),
    "a function that is not asynchronous": (synchronous, "unit.test_detect:synchronous is not a coroutine function"),
    "an application of WSGI": (wsgi, "unit.test_detect:wsgi is not a coroutine function"),
    "an asynchronous generator": (generator, "unit.test_detect:generator is not a coroutine function"),
    "an instance whose call is not asynchronous": (Synchronous(), "Synchronous"),
    "a partial of a function that is not": (functools.partial(synchronous), "unit.test_detect:synchronous"),
    "a lambda": (lambda message, channels: None, "<lambda> is not a coroutine function"),
    "a class of applications": (Instance, "unit.test_detect:Instance is a class, and not an instance"),
    "a builtin": (print, "print is not a coroutine function"),
    "no callable": (NotCallable(), "<a database> can't be called"),
    "nothing": (None, "None can't be called"),
    "a module": (functools, "can't be called"),
    "text": ("app:app", "'app:app' can't be called"),
}


@pytest.mark.parametrize(("app", "named"), REFUSED.values(), ids=REFUSED)
def test_what_is_neither_is_refused_in_one_line_that_names_it_and_both_signatures(app: Any, named: str) -> None:
    with pytest.raises(InvalidApplication) as refusal:
        detect_interface(app)
    text = str(refusal.value)
    assert named in text
    assert "async def app(message, channels)" in text
    assert "async def app(scope, receive, send)" in text
    assert "\n" not in text
    assert len(text) < 250


def asgi2_function(scope: Any) -> Any: ...


@pytest.mark.parametrize("app", [ASGI2, asgi2_function], ids=["a class", "a function"])
def test_asgi_2_is_refused_with_the_adapter_to_use(app: Any) -> None:
    with pytest.raises(InvalidApplication, match="guarantee_single_callable"):
        detect_interface(app)


class CalledThrice:
    """No application, though each call of it gives something to call."""

    def __init__(self, scope: Any, receive: Any) -> None: ...

    async def __call__(self, send: Any) -> None: ...


def test_a_class_that_is_not_called_as_asgi_2_is_not_taken_for_it() -> None:
    with pytest.raises(InvalidApplication, match="CalledThrice is a class, and not an instance of one") as refusal:
        detect_interface(CalledThrice)
    assert "ASGI 2" not in str(refusal.value)


class Endpoint:
    """As frameworks have it: a class whose instances are awaited in place of a call."""

    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Any:
        yield


def test_a_class_whose_instances_are_awaited_is_asgi_3() -> None:
    assert detect_interface(Endpoint) is Interface.ASGI3


class AwaitedWithoutArguments:
    def __await__(self) -> Any:
        yield


def test_a_class_whose_instances_are_awaited_takes_three_arguments() -> None:
    with pytest.raises(InvalidApplication, match="is a class"):
        detect_interface(AwaitedWithoutArguments)


async def anything(*args: Any) -> None: ...


async def optional_all(scope: Any = None, receive: Any = None, send: Any = None) -> None: ...


@pytest.mark.parametrize("app", [anything, optional_all, decorated(anything)])
def test_what_takes_both_numbers_of_arguments_is_asgi_3(app: Any) -> None:
    assert detect_interface(app) is Interface.ASGI3


@pytest.mark.parametrize("app", [channels_app, asgi_app, optional_third, synchronous, anything, ASGI2])
@pytest.mark.parametrize("wanted", [Interface.CHANNELS, Interface.ASGI3])
def test_what_is_wanted_is_not_guessed(app: Any, wanted: Interface) -> None:
    assert detect_interface(app, wanted.value) is wanted


@pytest.mark.parametrize("wanted", ["auto", "channels", "asgi3"])
def test_what_can_not_be_called_is_refused_whatever_is_wanted(wanted: str) -> None:
    with pytest.raises(InvalidApplication, match="can't be called"):
        detect_interface(NotCallable(), wanted)


def test_asgi_2_is_refused_by_its_own_name() -> None:
    with pytest.raises(InvalidApplication, match=r"guarantee_single_callable\(ASGI2\)") as refusal:
        detect_interface(ASGI2)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("uri", "meant"),
    [
        ("./app:web", "app:web"),
        (".app:web", "app:web"),
        ("./app.py:web", "app:web"),
        ("app/:web", "app:web"),
        ("sub/app", "--chdir sub app:application"),
        ("../app:web", "--chdir .. app:web"),
        ("/srv/app:make('/path')", "--chdir /srv app:make('/path')"),
    ],
)
def test_a_path_in_the_place_of_a_module_is_told_what_may_be_meant(uri: str, meant: str) -> None:
    fault = fault_of_uri(uri)
    assert fault
    assert fault.endswith(f": did you mean {meant!r}?")


@pytest.mark.parametrize("uri", ["app:web", "shop.web:app", "app", "app:make('/path')", ""])
def test_the_name_of_a_module_has_no_fault(uri: str) -> None:
    assert fault_of_uri(uri) is None
