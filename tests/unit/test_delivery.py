"""What members gather within a turn, without connections."""

from __future__ import annotations

from collections.abc import Callable

from uvicorn_worker.broadcast.delivery import NOTHING, Gathered, Turn
from uvicorn_worker.errors import ClientDisconnected

from .test_groups import Log


class Gatherer:
    """Keeps what it is to write, unless it fails."""

    def __init__(self, turn: Turn, failure: Exception | None = None) -> None:
        self.gathered: Gathered | None = NOTHING
        self.written: list[bytes] = []
        self._failure = failure
        turn.add([self])

    def write_gathered(self, data: bytes, is_due: bool) -> None:
        if self._failure is not None:
            raise self._failure
        self.written.append(data)


class Fixture:
    def __init__(self) -> None:
        self.log = Log()
        self.counts = {"delivered": 0, "failed": 0}
        #: What is to be called at the end of a turn.
        self.ends: list[Callable[[], None]] = []
        self.turn = Turn(1000, self.counts, self.log, self.ends.append)

    def gather(self, gatherer: Gatherer, *frames: bytes) -> None:
        for frame in frames:
            assert gatherer.gathered is not None
            gatherer.gathered = self.turn.gather(gatherer.gathered, frame)


def test_members_that_have_gathered_the_same_share_it_whoever_is_between_them() -> None:
    fixture = Fixture()
    members = [Gatherer(fixture.turn) for _ in range(6)]
    for frame, receivers in ((b"all", members), (b"even", members[::2]), (b"again", members)):
        for member in receivers:
            fixture.gather(member, frame)
    fixture.turn.end()
    assert [member.written for member in members] == [[b"allevenagain"], [b"allagain"]] * 3
    assert len({id(member.written[0]) for member in members}) == 2


def test_the_end_of_a_turn_is_asked_for_once_and_again_in_the_next() -> None:
    fixture = Fixture()
    for number in range(1, 4):
        members = [Gatherer(fixture.turn) for _ in range(3)]
        for member in members:
            fixture.gather(member, b"x")
        assert len(fixture.ends) == number
        fixture.ends[-1]()
        assert [member.written for member in members] == [[b"x"]] * 3


def test_one_frame_is_written_as_it_is() -> None:
    fixture = Fixture()
    member, frame = Gatherer(fixture.turn), b"frame"
    fixture.gather(member, frame)
    fixture.turn.end()
    assert member.written[0] is frame


def test_a_member_that_fails_keeps_nobody_from_what_was_gathered() -> None:
    fixture = Fixture()
    failures = None, ClientDisconnected("gone"), RuntimeError("broken"), None
    members = [Gatherer(fixture.turn, failure) for failure in failures]
    for member in members:
        fixture.gather(member, b"1", b"2")
    fixture.turn.end()
    assert [member.written for member in members] == [[b"12"], [], [], [b"12"]]
    assert fixture.counts == {"delivered": 4, "failed": 4}
    [line] = fixture.log.lines
    assert line.startswith("Groups: messages could not be written: ")


def test_thousands_of_small_frames_are_gathered_as_few_are() -> None:
    fixture = Fixture()
    member = Gatherer(fixture.turn)
    frames = [b"%d " % number for number in range(20_000)]
    fixture.gather(member, *frames)
    fixture.turn.end()
    assert member.written == [b"".join(frames)]
