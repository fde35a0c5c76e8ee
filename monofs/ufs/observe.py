"""How a store tells its owner about every request, for metrics: kind, outcome, seconds, bytes.

Kinds are ``list``, ``head`` and ``get`` for what is asked; ``look``, ``put``, ``upload`` (its beginning), ``part``, ``complete``, ``abort``, ``copy``, ``rename``,
``make`` and ``delete`` for acts. The outcome is ``ok`` or the name of the error's class. The bytes of a ``get`` were read, those of any other kind
written. The callback runs on the thread that made the request and must not block.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from monofs.model.errors import MonofsError

Observer = Callable[[str, str, float, int], None]


class Observed:
    """One request under observation; ``bytes`` grows with what it delivered."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


@contextmanager
def observed(observe: Observer | None, kind: str) -> Iterator[Observed]:
    """Report the request made inside the block. A reader that walks away early counts as ``abandoned``."""
    request, began, outcome = Observed(), time.perf_counter(), "ok"
    try:
        yield request
    except MonofsError as error:
        outcome = type(error).__name__
        raise
    except GeneratorExit:
        outcome = "abandoned"
        raise
    finally:
        if observe is not None:
            observe(kind, outcome, time.perf_counter() - began, request.bytes)
