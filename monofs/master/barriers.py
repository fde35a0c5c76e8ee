"""Which state a handler of a master may answer from: the read barrier it runs behind.

Reads run behind the barrier of the consistency they ask for, changes at the leader. Invariant: no answer and no refusal is of a state older than was asked for:
a leader's refusal goes out only once a barrier after it has passed. With one voter every barrier passes at once, and all of this is plain calls.

Not here: what a barrier costs and proves (journal), what is a change (methods.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from monofs.journal.face import Consistency, Journal
from monofs.master.access import check_access
from monofs.master.proposing import Proposer
from monofs.model.errors import (
    DeadlineExceeded,
    InvalidArgument,
    MonofsError,
    NotLeader,
    NotReady,
    OutcomeUnknown,
    Overloaded,
)
from monofs.model.principal import Right
from monofs.rpc.api import Message
from monofs.rpc.service import Call, Handler

_READ = Right.READ.value
_LINEARIZABLE = Consistency.LINEARIZABLE.value
_SAYS_NOTHING = (NotLeader, NotReady, OutcomeUnknown, Overloaded, DeadlineExceeded)
"""Refusals that tell nothing of the state."""


class Barriers:
    """Of one master."""

    def __init__(self, journal: Journal, proposer: Proposer) -> None:
        self._read_barrier, self._proposer = journal.read_barrier, proposer

    def behind(self, handler: Callable[[Any, Call], Any]) -> Handler:
        """Rights and the read barrier; a plain call when the barrier passes at once, as it does for one voter."""
        read_barrier, linearizable = self._read_barrier, Consistency.LINEARIZABLE

        def handle(request: Any, call: Call) -> Any:
            principal = call.connection.principal
            if not int(principal.rights) & _READ:
                check_access(principal, Right.READ)
            barrier = _Barrier()
            read_barrier(linearizable, barrier, 0.0)
            if barrier.passed and barrier.error is None:
                return handler(request, call)
            return barrier.then(partial(handler, request, call))

        return handle

    def as_consistent_as_asked(self, handler: Callable[[Any, Call], Any]) -> Handler:
        """Behind the barrier that the request's options name."""
        linearizable = self.behind(handler)
        read_barrier = self._read_barrier

        def handle(request: Any, call: Call) -> Any:
            options = request.options
            if options.consistency == _LINEARIZABLE:
                return linearizable(request, call)
            try:
                consistency = Consistency(options.consistency)
            except ValueError:
                raise InvalidArgument(
                    f"consistency {options.consistency!r} is none of {', '.join(Consistency)}"
                ) from None
            check_access(call.principal, Right.READ)
            return _behind(read_barrier, consistency, options.bound_s, lambda: handler(request, call))

        return handle

    def as_leader(self, handler: Handler, request: Message, call: Call) -> Any:
        """Changes are for the leader. A refusal is a read: what it was decided by may be old, unless this master leads after it, too."""
        if not self._proposer.leads:
            return _behind(self._read_barrier, Consistency.LINEARIZABLE, 0.0, lambda: handler(request, call))
        try:
            answer = handler(request, call)
        except MonofsError as refusal:
            return self._refuse(refusal)
        return answer.addErrback(self._refused) if isinstance(answer, Deferred) else answer

    def _refused(self, failure: Failure) -> Any:
        if not isinstance(failure.value, MonofsError):
            return failure
        return self._refuse(failure.value)

    def _refuse(self, refusal: MonofsError) -> Any:
        def refuse() -> Any:
            raise refusal

        if isinstance(refusal, _SAYS_NOTHING):
            raise refusal
        return _behind(self._read_barrier, Consistency.LINEARIZABLE, 0.0, refuse)


class _Barrier:
    """Hears the read barrier, at once or later."""

    passed = False
    error: MonofsError | None = None
    waiter: Deferred[None] | None = None

    def __call__(self, error: MonofsError | None) -> None:
        self.passed, self.error = True, error
        if self.waiter is not None:
            if error is None:
                self.waiter.callback(None)
            else:
                self.waiter.errback(error)

    def then(self, answer: Callable[[], Any]) -> Any:
        """``answer()``, now when it has passed."""
        if self.passed:
            if self.error is not None:
                raise self.error
            return answer()
        self.waiter = Deferred()
        return self.waiter.addCallback(lambda _: answer())


def _behind(
    read_barrier: Callable[..., None], consistency: Consistency, bound_s: float, answer: Callable[[], Any]
) -> Any:
    """``answer()``, now when the barrier passes at once."""
    barrier = _Barrier()
    read_barrier(consistency, barrier, bound_s)
    return barrier.then(answer)
