"""Formats of the access log, compiled, and where its lines may be written without asking the logger."""

from __future__ import annotations

import base64
import io
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from uvicorn_worker.access_log import COMBINED, AccessLine, Entry, combined_line, join_fields
from uvicorn_worker.access_writer import AccessWriter
from uvicorn_worker.http11.framing import Target


def entry(*headers: tuple[bytes, bytes], raw: bytes = b"/a?b", **more: Any) -> Any:
    template = {"client": ("192.0.2.7", 50007)}
    known = {
        "connection": SimpleNamespace(template=template),
        "template": template,
        "method": "GET",
        "target": Target("/a", b"/a", b"b", raw),
        "version": "1.1",
        "headers": list(headers),
        "began": 0.0,
        "status": 200,
        "sent": 5,
        "fields": [],
    }
    return SimpleNamespace(**known | more)


def no_environ(entry: Entry) -> dict[str, Any]:
    raise AssertionError("the environment is not asked for")


def line(template: str, of: Any) -> str:
    return AccessLine(template, no_environ).make(of)


# Formats.


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("%(u)s", "me\\x0a127.0.0.1 - forged"),
        ("%(U)s", "/a\\x0ab\\x7f"),
        ("%({path_info}e)s", "/a\\x0ab\\x7f"),
    ],
)
def test_what_was_encoded_on_its_way_can_not_forge_a_line(template: str, made: str) -> None:
    credentials = b"Basic " + base64.b64encode(b"me\n127.0.0.1 - forged:x")
    of = entry((b"authorization", credentials), raw=b"/a%0ab%7f")
    assert AccessLine(template, lambda entry: {"PATH_INFO": "/a\nb\x7f"}).make(of) == made
    if template == "%(u)s":
        assert "\n" not in combined_line(of)


@pytest.mark.parametrize(
    "template", ["%", "%(h", "%(h)", "%(h)y", "%(s)d", "%(b)d", "%({x}i)d", "%s", "%(h)s %s", "%%%s"]
)
def test_a_format_that_can_not_be_compiled_is_an_error(template: str) -> None:
    with pytest.raises((TypeError, ValueError)):
        AccessLine(template, no_environ)


@pytest.mark.parametrize(
    ("template", "made"),
    [
        ("", ""),
        ("no atoms, 100%%", "no atoms, 100%"),
        ("%(s)s %(s)5s|%(s)-5s|", "200   200|200  |"),
        ("%(B)d %(B)05d %(b)s", "5 00005 5"),
        ("%(unknown)s %({unknown}i)s %({unknown}o)s", "- - -"),
        ("%%(h)s", "%(h)s"),
    ],
)
def test_a_format_is_filled_in_as_python_does_it(template: str, made: str) -> None:
    assert line(template, entry()) == made


def test_a_field_with_underscores_is_shown_by_its_own_name_alone() -> None:
    of = entry((b"x_two", b"3"), (b"x-two", b"1"))
    assert line("%({x_two}i)s %({x-two}i)s", of) == "3 1"


def test_the_time_taken_is_told_in_full_where_it_is_more_than_a_day() -> None:
    of = entry(began=time.monotonic() - 90_000)
    seconds, milliseconds, microseconds, decimal = line("%(T)s %(M)s %(D)s %(L)s", of).split()
    assert min(float(seconds), float(decimal), int(milliseconds) / 1e3, int(microseconds) / 1e6) >= 90_000


def test_a_number_that_its_conversion_can_not_show_is_an_error_of_its_line() -> None:
    compiled = AccessLine("%(B)c", no_environ)
    assert compiled.make(entry(sent=65)) == "A"
    with pytest.raises(OverflowError):
        compiled.make(entry(sent=1 << 30))


def test_one_line_leaves_nothing_in_the_next() -> None:
    compiled = AccessLine("%(a)s %({x}i)s %({y}o)s", no_environ)
    assert compiled.make(entry((b"user-agent", b"me"), (b"x", b"1"), fields=[(b"Y", b"2")])) == "me 1 2"
    assert compiled.make(entry()) == "- - -"


def test_only_what_the_format_names_is_looked_at() -> None:
    assert line("%(s)s %(B)d %(p)s", SimpleNamespace(status=200, sent=5)).startswith("200 5 <")


def test_the_environment_is_asked_for_where_the_format_names_a_variable() -> None:
    compiled = AccessLine("%({quoted}e)s %({NUMBER}e)s %({missing}e)s", lambda entry: {"QUOTED": '"a"', "NUMBER": 1})
    assert compiled.make(entry()) == '\\"a\\" 1 -'


@pytest.mark.parametrize(
    ("template", "reads"),
    [(COMBINED, False), ("%({a}i)s %({a}e)s", False), ("%({a}o)s", True), ("%({A}O)s", True), ("%%({a}o)s", False)],
)
def test_a_format_tells_whether_it_shows_fields_of_the_response(template: str, reads: bool) -> None:
    assert AccessLine(template, no_environ).reads_response is reads


def test_fields_are_joined_where_they_are_repeated() -> None:
    assert join_fields([(b"a", b"1"), (b"b", b"2")]) == {b"a": b"1", b"b": b"2"}
    assert join_fields([(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"a", b"")]) == {b"a": b"1,3,", b"b": b"2"}


# Where lines are written.


class Turn:
    """The end of a loop's turn, which comes when a test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], object]] = []

    def end(self) -> None:
        while self.waiting:
            self.waiting.pop()()


class Log:
    def __init__(self, path: Path) -> None:
        self.path = path
        # Not by getLogger: pytest has handlers for those.
        self.logger = logging.Logger("gunicorn.access", logging.INFO)
        self.logger.propagate = False
        self.handler: logging.StreamHandler[Any] = logging.FileHandler(path)
        self.handler.setFormatter(logging.Formatter("%(message)s"))
        self.logger.addHandler(self.handler)
        self.turn = Turn()
        self.writer = AccessWriter("%(s)s", no_environ, self.logger, self.logger, self.turn.waiting.append)

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "access.log")
    yield log
    log.handler.close()


def filter_out(record: logging.LogRecord) -> bool:
    return False


def use_another_formatter(log: Log) -> None:
    log.handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))


def use_a_subclass_of_the_formatter(log: Log) -> None:
    log.handler.setFormatter(type("Formatter", (logging.Formatter,), {})("%(message)s"))


def use_a_subclass_of_the_handler(log: Log) -> None:
    log.logger.handlers[:] = [type("Handler", (logging.StreamHandler,), {})(io.StringIO())]
    log.logger.handlers[0].setFormatter(logging.Formatter("%(message)s"))


CHANGES: dict[str, Callable[[Log], object]] = {
    "disabled": lambda log: setattr(log.logger, "disabled", True),
    "propagation": lambda log: setattr(log.logger, "propagate", True),
    "a filter": lambda log: log.logger.addFilter(filter_out),
    "a filter of the handler": lambda log: log.handler.addFilter(filter_out),
    "a level of the handler": lambda log: log.handler.setLevel(logging.WARNING),
    "no handler": lambda log: log.logger.handlers.clear(),
    "a second handler": lambda log: log.logger.addHandler(logging.NullHandler()),
    "another handler": use_a_subclass_of_the_handler,
    "another formatter": use_another_formatter,
    "a subclass of the formatter": use_a_subclass_of_the_formatter,
    "no formatter": lambda log: log.handler.setFormatter(None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_logger_is_asked_where_anything_about_it_is_not_gunicorns(
    log: Log, change: Callable[[Log], object]
) -> None:
    assert log.writer.look_again()
    change(log)
    assert not log.writer.look_again()


def test_the_logger_is_asked_where_its_level_is_higher(log: Log) -> None:
    log.logger.setLevel(logging.WARNING)
    assert not log.writer.look_again()


def test_the_logger_is_asked_where_records_are_made_otherwise(log: Log) -> None:
    logging.setLogRecordFactory(lambda *arguments, **more: logging.LogRecord(*arguments, **more))
    try:
        assert not log.writer.look_again()
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    assert log.writer.look_again()


def test_the_logger_is_asked_where_it_is_of_another_class(log: Log) -> None:
    log.logger.__class__ = type("Logger", (logging.Logger,), {})
    assert not log.writer.look_again()


def test_lines_are_written_together_at_the_end_of_the_turn(log: Log) -> None:
    log.writer.look_again()
    log.writer.write(entry())
    log.writer.write(entry(status=404))
    assert log.lines() == []
    assert len(log.turn.waiting) == 1
    log.turn.end()
    assert log.lines() == ["200", "404"]
    log.writer.write(entry(status=500))
    log.turn.end()
    assert log.lines() == ["200", "404", "500"]


def test_lines_can_be_written_before_the_turn_ends(log: Log) -> None:
    log.writer.look_again()
    log.writer.write(entry())
    log.writer.flush()
    log.turn.end()
    assert log.lines() == ["200"]


def test_a_file_that_is_opened_again_gets_the_lines_from_then_on(log: Log, tmp_path: Path) -> None:
    log.writer.look_again()
    log.writer.write(entry())
    log.turn.end()
    log.path.rename(tmp_path / "old.log")
    log.writer.write(entry(status=404))
    log.handler.close()
    log.handler.stream = log.handler._open()  # type: ignore[attr-defined]  # as Gunicorn does it
    log.turn.end()
    assert (tmp_path / "old.log").read_text() == "200\n"
    assert log.lines() == ["404"]


def test_a_file_that_is_not_open_yet_is_opened_by_its_handler(log: Log) -> None:
    log.logger.handlers[:] = [logging.FileHandler(log.path, delay=True)]
    log.logger.handlers[0].setFormatter(logging.Formatter("%(message)s"))
    assert log.writer.look_again()
    for _ in range(2):
        log.writer.write(entry())
        log.turn.end()
    assert log.lines() == ["200", "200"]
    log.logger.handlers[0].close()


def test_a_handler_that_is_replaced_within_a_turn_gets_its_lines(log: Log) -> None:
    log.writer.look_again()
    log.writer.write(entry())
    other = io.StringIO()
    log.logger.handlers[:] = [logging.StreamHandler(other), logging.NullHandler()]
    log.writer.look_again()
    log.turn.end()
    assert log.lines() == []
    assert other.getvalue() == "200\n"


def test_a_line_that_can_not_be_made_is_an_error_and_not_written(log: Log) -> None:
    errors = io.StringIO()
    log.writer.look_again()
    log.writer.write(SimpleNamespace())  # type: ignore[arg-type]
    log.logger.handlers[:] = [logging.StreamHandler(errors)]
    log.writer.write(SimpleNamespace())  # type: ignore[arg-type]
    log.turn.end()
    assert errors.getvalue().startswith("The access log failed")
