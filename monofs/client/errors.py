"""Errors as Python programs expect them: every MonofsError a client raises is an OSError too.

``except FileNotFoundError`` and ``except monofs.model.errors.NotFound`` both catch a missing path. Each class here is its
namesake of ``model.errors`` joined with the builtin that Python itself picks for the same errno; code, message and detail are
unchanged, and errors pickle.

Invariant: whatever leaves the client's public methods passed through :func:`python_error`.
"""

from __future__ import annotations

import errno
import functools
import io
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from monofs.model.errors import BY_CODE, Closed, Internal, MonofsError, NotSupported, ProtocolError, from_code

P = ParamSpec("P")
T = TypeVar("T")


def _builtin(cls: type[MonofsError]) -> type[OSError]:
    if cls in (Closed, NotSupported):
        return io.UnsupportedOperation  # also a ValueError: what Python's own files raise when closed or not writable
    if cls.errno in (errno.EAGAIN, errno.EWOULDBLOCK):
        return OSError  # BlockingIOError would make io.BufferedReader treat it as "no data yet"
    return type(OSError(cls.errno, ""))


def _rebuild(code: int, message: str, detail: dict[str, str | int | None]) -> MonofsError:
    return python_error(from_code(code, message, detail))


def _reduce(self: MonofsError) -> tuple[Callable[..., MonofsError], tuple[Any, ...]]:
    return (_rebuild, (self.code, self.message, self.detail))


def _join(cls: type[MonofsError]) -> type[MonofsError]:
    namespace = {"__module__": __name__, "__doc__": cls.__doc__, "__reduce__": _reduce}
    return type(cls.__name__, (cls, _builtin(cls)), namespace)


_JOINED: dict[type[MonofsError], type[MonofsError]] = {cls: _join(cls) for cls in BY_CODE.values()}


_TRACED = (Internal.code, ProtocolError.code, MonofsError.code)
"""Errors that may be bugs of the client: they keep the frames they came through."""


def python_error(error: MonofsError) -> MonofsError:
    """The same error as an instance of the builtin exception of its errno too, without the client's own frames where they tell nothing."""
    trace = error.__traceback__ if error.code in _TRACED else None
    joined = _JOINED.get(type(error))
    if joined is None:
        return error.with_traceback(trace)
    new: Any = joined(error.message, **error.detail)
    new.strerror = error.message
    if isinstance(error.detail.get("path"), str):
        new.filename = error.detail["path"]
    result: MonofsError = new.with_traceback(trace)
    return result


def public(method: Callable[P, T]) -> Callable[P, T]:
    """A method whose errors leave as :func:`python_error`."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except MonofsError as error:
            raise python_error(error) from error.__cause__

    return wrapper


def public_iterator(method: Callable[P, Iterator[T]]) -> Callable[P, Iterator[T]]:
    """The same for generators."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        try:
            yield from method(*args, **kwargs)
        except MonofsError as error:
            raise python_error(error) from error.__cause__

    return wrapper
