"""Waiting for the database to hold what was applied: before a check, before a copy."""

from __future__ import annotations

import time
from typing import Any

from twisted.internet.task import deferLater

from monofs.metadata.store import Store
from monofs.model.errors import Overloaded

FLUSH_WAIT_S = 30.0
FLUSH_POLL_S = 0.02


async def flush_through(store: Store, index: int, reactor: Any) -> None:
    """Return once everything up to ``index`` is in the database. ``Overloaded`` when it lags behind for too long."""
    began = time.monotonic()
    while store.flushed_index < index:
        if time.monotonic() - began > FLUSH_WAIT_S:
            raise Overloaded("the metadata database lags behind: try again shortly")
        store.flush()
        await deferLater(reactor, FLUSH_POLL_S)
