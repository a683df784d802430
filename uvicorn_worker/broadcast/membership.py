"""The place of one channel in one group, which several may ask for at the same time."""

from __future__ import annotations

from collections.abc import Awaitable


class Membership:
    """It holds as soon as one of those who ask for it has it, whatever becomes of the others."""

    __slots__ = ("_asking", "_holds")

    def __init__(self) -> None:
        self._asking = 0
        self._holds = False

    async def confirm(self, joining: Awaitable[None]) -> None:
        """Have it hold when ``joining`` is done; raises what that raises."""
        self._asking += 1
        try:
            await joining
            self._holds = True
        finally:
            self._asking -= 1

    @property
    def is_void(self) -> bool:
        """Whether nobody has it, nor may get it any more: it is to be undone."""
        return not self._holds and not self._asking
