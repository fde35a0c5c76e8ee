"""One read asked of a second server when the first says nothing for a while; the first answer is taken, the other request given up.

Invariant: bytes in the caller's buffer are all of one of the two when the read returns, and both were asked for the same bytes. A second server that
refuses, breaks or does not answer costs nothing but its request: the first is waited for as if there had been none. Not here: after how
long, how often, and whom (client/hedging.py).
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

from monofs.model.errors import MonofsError
from monofs.rpc.api import Message
from monofs.rpc.conversation import Conversation
from monofs.rpc.sync import Pool, encode_request

CONNECT_S = 0.5
"""What connecting to the second server may take: the first may answer meanwhile."""
RACE_S = 1.0
"""How long both may be silent before the second is given up; then, at the latest, the first has to prove that it lives (Pool's ``silence_s``)."""


class _Overtaken(Exception):
    """The second server has sent all bytes."""

    def __init__(self, count: int) -> None:
        self.count = count
        super().__init__()


class Hedge:
    """Of one read; of slots, because every read makes one. ``second`` is asked for once, after ``delay_s`` of silence: whom to ask and what; None: nobody."""

    __slots__ = ("_delay_s", "_second", "first_byte_s", "has_won", "was_due")

    def __init__(self, delay_s: float, second: Callable[[], tuple[Pool, Message] | None]) -> None:
        self._delay_s, self._second = delay_s, second
        self.first_byte_s = 0.0
        """How long the first server kept its caller waiting, as far as it was waited for."""
        self.was_due = self.has_won = False
        """Whether the first server was silent for too long, and whether the second server's bytes were taken."""

    def read_into(
        self, talk: Conversation, method: int, body: bytes, view: memoryview, deadline: float, trace: int
    ) -> int:
        """As :meth:`Conversation.read_into`."""
        began_s = time.monotonic()

        def ask_second() -> None:
            self.was_due = True
            second = self._second()
            count = None if second is None else self._race(talk, *second, method, view, deadline, trace)
            if count is not None:
                raise _Overtaken(count)

        talk.slow_s = self._delay_s
        request_id = talk.start_stream(method, body, deadline, trace)
        talk.on_slow = ask_second
        try:
            count = talk.fill(request_id, view)
            self.first_byte_s = talk.heard_s - began_s
        except _Overtaken as overtaken:
            count = overtaken.count
            self.first_byte_s, self.has_won = time.monotonic() - began_s, True
        return count

    def _race(
        self,
        talk: Conversation,
        pool: Pool,
        request: Message,
        method: int,
        view: memoryview,
        deadline: float,
        trace: int,
    ) -> int | None:
        """The bytes that came from the second server; None: the first one speaks, or is waited for."""
        try:
            rival = pool.borrow(min(CONNECT_S, deadline - time.monotonic()))
        except MonofsError:
            return None
        is_over = False
        try:
            rival_id = rival.start_stream(method, encode_request(request), deadline, trace)
            if not _speaks_first(rival, talk, min(RACE_S, deadline - time.monotonic())):
                return None
            count = rival.fill(rival_id, view)
            is_over = True
        except MonofsError:
            is_over = not rival.broken  # it refused, and can be asked other things
            return None
        finally:
            if not is_over:
                rival.close()
            pool.conversations.give_back(rival)
        talk.close()
        talk.answer = b""
        return count


def _speaks_first(rival: Conversation, talk: Conversation, limit_s: float) -> bool:
    """Whether ``rival`` says something within so long, and the other nothing before."""
    poll = select.poll()
    for each in (rival, talk):
        poll.register(each.fileno(), select.POLLIN)
    spoke = [fd for fd, _ in poll.poll(max(0.0, limit_s) * 1000)]
    return spoke == [rival.fileno()]
