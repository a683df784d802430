"""A room full of clients, light enough for thousands, and an exact account of what each of them has to hear."""

import asyncio
import random
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from typing import Any

import uvloop

from .client import CLOSE, DEADLINE, PING, PONG, TEXT, close_frame, frame, handshake
from .harness import eventually

#: Clients that connect at the same time, as many as a worker is sure to have room for.
AT_ONCE = 100


class Member(asyncio.Protocol):
    """One connection of a client, from its handshake to its end. It is a member once it was told the worker's pid."""

    def __init__(self, room: "Room") -> None:
        self._room = room
        self._unread = b""
        self._is_accepted = False
        self._awaited = -1
        self._echo: asyncio.Future[None] | None = None
        self._transport: Any = None
        self.pid = 0
        #: How many messages had been said when it was told.
        self.since = 0
        self.heard: list[int] = []
        #: How it has ended: the code of the server's close frame, "left", or "lost".
        self.end: int | str | None = None
        loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()

    def __str__(self) -> str:
        return f"a client of worker {self.pid}, member since message {self.since}, its end: {self.end}"

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.write(handshake(self._room.path))

    def data_received(self, data: bytes) -> None:
        data = self._unread + data
        if not self._is_accepted:
            head, end, rest = data.partition(b"\r\n\r\n")
            if end and not head.startswith(b"HTTP/1.1 101 "):
                self._room.failures.append(f"a handshake was answered with {data!r}")
            self._is_accepted = bool(end)
            data = rest if end else data
        self._unread = self._read(data) if self._is_accepted else data

    def _read(self, data: bytes) -> bytes:
        """Take the frames, and return what is not a whole one."""
        at = 0
        while len(data) >= at + 2:
            size, begin = data[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            if len(data) < begin + size:
                break
            self._take(data[at] & 0x0F, data[begin : begin + size])
            at = begin + size
        return data[at:]

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == TEXT and payload.startswith(b"#"):
            self.heard.append(int(payload[1:]))
            if self.heard[-1] == self._awaited:
                self._settle()
        elif opcode == TEXT:
            self.pid = int(payload)
            self.since = len(self._room.said)
            self._room.present.append(self)
            self.answered.set_result(None)
        elif opcode == CLOSE:
            self._is_over(int.from_bytes(payload[:2], "big"))
            self._transport.write(frame(payload, CLOSE))
            self._transport.close()
        elif opcode == PING:
            self._transport.write(frame(payload, PONG))

    def say(self, number: int) -> asyncio.Future[None]:
        """Say that to the group; done when it is heard here, too, or nothing is heard any more."""
        self._awaited, self._echo = number, asyncio.get_running_loop().create_future()
        self._transport.write(frame(f"#{number}"))
        return self._echo

    def _settle(self) -> None:
        if self._echo is not None and not self._echo.done():
            self._echo.set_result(None)

    def leave(self, politely: bool) -> None:
        self._is_over("left")
        if politely:
            self._transport.write(close_frame(1000))
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_over("lost")
        self._room.unanswered += self.end == "lost" and not self._is_accepted
        for future in (self.answered, self.ended):
            if not future.done():
                future.set_result(None)

    def _is_over(self, end: int | str) -> None:
        if self.end is None:
            self.end = end
            self._settle()
            if self.pid:
                self._room.present.remove(self)


class Room:
    """Clients in a thread of their own that are members of one group; a `with` begins when all are.

    Any of them says something, a number, each `pause` seconds, and hears it before another one at the same worker says
    the next: so what a worker sends has the order of the numbers. One whose connection has ended opens another; each
    time that so many messages were said as `restless` says, somebody leaves, and comes again. Who comes to a worker
    that has its `share` of the clients, where there is one, leaves and tries again.
    """

    path = "/chat"

    def __init__(
        self, address: Any, clients: int, *, pause: float, talkers: int = 1, restless: int = 0, share: int = 0
    ) -> None:
        self.failures: list[str] = []
        #: By whom each message was said.
        self.said: list[Member] = []
        self.members: list[Member] = []
        self.present: list[Member] = []
        #: Workers that were killed: what one of them has sent last may have reached some of the others only.
        self.killed: set[int] = set()
        #: Handshakes that have had no answer.
        self.unanswered = 0
        self.left = 0
        self._address = address
        self._clients, self._share, self._restless = clients, share, restless
        self._pause, self._talkers, self._talking = pause, talkers, 0
        #: Workers where somebody waits to hear what he has said.
        self._busy: set[int] = set()
        self._is_silent = self._is_over = False
        self._loop: asyncio.AbstractEventLoop
        self._has_loop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Room":
        self._thread.start()
        assert self._has_loop.wait(DEADLINE)
        self.wait_until_full()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over = True
        self._loop.call_soon_threadsafe(self._empty)
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "a client never ended"

    # What a test waits for.

    def wait_until_full(self) -> None:
        """Until every client is a member."""
        eventually(lambda: len(self.present) == self._clients)

    def wait_for_more(self, messages: int) -> None:
        """Until so many more have been said."""
        goal = len(self.said) + messages
        eventually(lambda: len(self.said) >= goal, within=DEADLINE + messages * self._pause)

    def fullest(self) -> int:
        """The worker that has the most clients."""
        return Counter(member.pid for member in tuple(self.present)).most_common(1)[0][0]

    def check(self) -> None:
        """Wait until those who are there have heard all that they should have of what has been said by now."""
        checking = asyncio.run_coroutine_threadsafe(self._faults_that_stay(len(self.said)), self._loop)
        faults = checking.result()
        assert not faults, (len(faults), faults[:5])

    def finish(self) -> None:
        """Say nothing any more, check what was heard, and tell of it."""
        self._is_silent = True
        eventually(lambda: not self._talking)
        self.check()
        print(self)

    def __str__(self) -> str:
        deliveries = sum(len(member.heard) for member in self.members)
        ends = dict(Counter(str(member.end) for member in self.members if member.pid))
        return (
            f"{self._clients} clients, {len(self.said)} messages said, {deliveries} heard, {len(self.said_in_vain())} "
            f"never sent, ends of members: {ends}, 0 missed"
        )

    # The clients.

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._door = asyncio.Semaphore(AT_ONCE)
        self._has_loop.set()
        talkers = [self._talk() for _ in range(self._talkers)]
        await asyncio.gather(*talkers, *(self._client() for _ in range(self._clients)))

    def _empty(self) -> None:
        for member in tuple(self.present):
            member.leave(politely=False)

    async def _client(self) -> None:
        while not self._is_over:
            member = Member(self)
            async with self._door:
                try:
                    await self._loop.create_connection(lambda member=member: member, *self._address)
                except OSError as error:
                    self.failures.append(f"no connection: {error!r}")
                    continue
                self.members.append(member)
                await member.answered
            if member.end is None and (self._is_over or self._is_one_too_many(member)):
                member.leave(politely=False)
            await member.ended

    def _is_one_too_many(self, member: Member) -> bool:
        return 0 < self._share < sum(each.pid == member.pid for each in self.present)

    async def _talk(self) -> None:
        self._talking += 1
        while not self._is_over and not self._is_silent:
            speaker = self._anybody()
            if speaker is not None:
                await self._say(speaker)
            await asyncio.sleep(self._pause)
        self._talking -= 1

    async def _say(self, speaker: Member) -> None:
        self.said.append(speaker)
        self._busy.add(speaker.pid)
        await asyncio.wait([speaker.say(len(self.said) - 1)], timeout=DEADLINE)
        self._busy.remove(speaker.pid)
        if self._restless and len(self.said) % self._restless == 0:
            self._let_go(self._anybody())

    def _anybody(self) -> Member | None:
        """Of those at workers where nobody waits for what he has said."""
        for _ in range(10):
            member = random.choice(self.present) if self.present else None
            if member is not None and member.pid not in self._busy:
                return member
        return None

    def _let_go(self, member: Member | None) -> None:
        if member is not None:
            self.left += 1
            member.leave(politely=bool(self.left % 2))

    # What they have heard.

    def said_in_vain(self) -> set[int]:
        """What nobody has heard."""
        return set(range(len(self.said))).difference(*(member.heard for member in self.members))

    async def _faults_that_stay(self, count: int) -> list[str]:
        end = self._loop.time() + DEADLINE
        while (faults := self._faults(count)) and self._loop.time() < end:
            await asyncio.sleep(0.05)
        return faults

    def _faults(self, count: int) -> list[str]:
        """What has gone wrong with the messages said so far, but for those behind `count` that are still to come."""
        in_vain = self.said_in_vain()
        faults = [f"nobody hears {each}" for each in in_vain if each < count and self.said[each].end is None]
        sent: dict[int, list[int]] = defaultdict(list)
        for number, speaker in enumerate(self.said):
            if number not in in_vain:
                sent[speaker.pid].append(number)
        for member in self.members:
            if member.pid:
                faults += self._faults_of(member, sent, count)
        return self.failures + faults

    def _faults_of(self, member: Member, sent: dict[int, list[int]], count: int) -> list[str]:
        """It has to hear, of each worker, all that was said since it was a member, in order; all to the last one
        where it still is."""
        heard: dict[int, list[int]] = defaultdict(list)
        for number in member.heard:
            heard[self.said[number].pid].append(number)
        faults = []
        for pid, numbers in sent.items():
            row = heard[pid]
            first = bisect_left(numbers, member.since)
            begin = min(first, bisect_left(numbers, row[0])) if row else first
            end = begin + len(row)
            if row != numbers[begin:end]:
                faults.append(f"{member} heard of {pid} {row}, and not {numbers[begin:end]}")
            due = bisect_left(numbers, count) - (pid in self.killed)
            if member.end is None and end < due:
                faults.append(f"{member} misses of {pid} {numbers[end:due]}")
        return faults
