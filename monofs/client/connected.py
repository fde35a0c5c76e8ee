"""What every client object is: addresses and options, and a session made at first use in each process.

Invariant: the object is a value. It may be shared by threads, inherited over a fork, and pickled to another machine; connections, locks
and client ids never are.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Any, Self

from monofs.client.session import Options, Session


class Connected:
    """Base of FileSystem."""

    def _setup(self, options: Options, *, patient: bool) -> None:
        self._options = options
        self._patient = patient
        self._lock = threading.Lock()
        self._live: Session | None = None
        self._closed = False
        _objects.add(self)

    @property
    def masters(self) -> tuple[str, ...]:
        """Addresses given."""
        return self._options.masters

    def close(self) -> None:
        """Close all connections; files still open can read no more."""
        with self._lock:
            self._closed = True
            live, self._live = self._live, None
        if live is not None:
            live.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_unpickle, (type(self), self._options))

    def __repr__(self) -> str:
        return f"<monofs.{type(self).__name__} {','.join(self._options.masters)}>"

    def _session(self) -> Session:
        live = self._live
        if live is None or live.pid != os.getpid():
            with self._lock:
                live = self._live
                if live is None or live.pid != os.getpid():
                    live = self._live = Session(self._options, patient=self._patient)
                    weakref.finalize(self, _close_session, live)
                    if self._closed:
                        live.close()
        return live

    def _after_fork(self) -> None:
        self._lock = threading.Lock()
        self._patient = self._patient or (self._live is not None and self._live.patient)
        self._live = None


def _close_session(live: Session) -> None:
    """When a file system object was dropped without close(), or the program ends; never in a child of fork."""
    if live.pid == os.getpid():
        live.close()


def _unpickle(cls: type[Connected], options: Options) -> Connected:
    new = cls.__new__(cls)
    new._setup(options, patient=True)
    return new


_objects: weakref.WeakSet[Connected] = weakref.WeakSet()


def _forget_parents_sessions() -> None:
    for each in list(_objects):
        each._after_fork()


os.register_at_fork(after_in_child=_forget_parents_sessions)
