"""One audit record per change, written when its outcome is known."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from monofs.model.errors import Internal, MonofsError, PermissionDenied, ReadOnly, SessionExpired
from monofs.observe.audit import audit
from monofs.rpc.service import Call

T = TypeVar("T")


class Record:
    """Who asked for what; call it with the error, or None for success."""

    __slots__ = ("_call", "_command", "_source", "_target")

    def __init__(self, call: Call, command: str, source: str, target: str) -> None:
        self._call, self._command, self._source, self._target = call, command, source, target

    def __call__(self, error: MonofsError | None) -> None:
        if isinstance(
            error, SessionExpired
        ):  # nothing was decided: the client asks again under another id, and that is recorded
            return
        call = self._call
        audit(
            principal=call.principal.name,
            peer=call.peer,
            command=self._command,
            source=self._source,
            target=self._target,
            allowed=not isinstance(error, PermissionDenied | ReadOnly),
            succeeded=error is None,
            error=0 if error is None else error.code,
            trace=call.trace,
            by=call.principal.by,
        )

    def around(self, work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        """Run ``work`` and write the record when it ends."""
        return Deferred.fromCoroutine(self._around(work))

    async def _around(self, work: Coroutine[Deferred[Any], Any, T]) -> T:
        try:
            result = await work
        except MonofsError as error:
            self(error)
            raise
        except Exception:
            self(Internal())
            raise
        self(None)
        return result


def audited(call: Call, command: str, source: str, target: str) -> Record:
    """The record of one call."""
    return Record(call, command, source, target)
