"""FETCH: make pages of a group present for a reader that holds the group's descriptor.

Invariant: the answer's ``present`` is of the file named in it, and every page in it is verified. Not here: sending bytes.
"""

from __future__ import annotations

from monofs.model.block import GROUP_PAGES, GROUP_SIZE_BYTES, PAGE_SIZE_BYTES, group_length, page_count
from monofs.model.capability import Capability
from monofs.model.errors import CapabilityExpired, MonofsError, invariant
from monofs.observe import metrics
from monofs.observe.tracing import TRACE
from monofs.rpc.api import FetchAnswer
from monofs.rpc.service import Call
from monofs.tiering.cache import Group
from monofs.tiering.group import mask_bytes
from monofs.worker.delivery import Parts, count_pages
from monofs.worker.fetcher import is_tier_error, tier_reason
from monofs.worker.planner import group_masks


class Filling:
    """One FETCH. Start it with :meth:`resume`; it answers or fails the call."""

    def __init__(
        self,
        parts: Parts,
        call: Call,
        capability: Capability,
        number: int,
        pages: int,
        ahead: int,
        *,
        giver: int = 0,
        age_ms: int = 0,
        unread: bool = False,
    ) -> None:
        """``giver``: the worker that has the pages, who alone is asked for them; ``age_ms``: since when, which counts here too. ``unread``: no reader waits for
        them, so that they are no hits or misses."""
        self._parts, self._call, self._capability, self._number = parts, call, capability, number
        self._length = group_length(capability.size, number)
        self._pages, self._giver, self._is_asked = pages, giver, False
        self._age_ms = age_ms if giver else 0
        self._ahead = min(ahead, parts.config.read_ahead_bytes // PAGE_SIZE_BYTES)
        self._counts = not giver and not unread
        self._missed: int | None = None
        self._fetched_bytes = 0
        """Of pages this request sent for, those read ahead too; of all requests of a load together, each page once."""
        self._group: Group | None = None
        self._over = False
        call.on_end(self._finish)

    def resume(self, error: MonofsError | None = None) -> None:
        """Go on until there is something to wait for."""
        if self._over:
            return
        token = TRACE.set(self._call.trace)  # what this starts carries the request's id
        try:
            if error is not None:
                raise error
            self._step()
        except MonofsError as failure:
            if is_tier_error(failure):
                metrics.NOT_ADMITTED(tier_reason(failure)).value += 1
                self._answer(cached=False)
                return
            self._finish()
            self._call.fail(failure)
        except Exception as bug:  # noqa: BLE001 - called from flights, where other readers must not suffer from it
            self._finish()
            self._call.crash(bug)
        finally:
            TRACE.reset(token)

    def _step(self) -> None:
        parts, capability, number = self._parts, self._capability, self._number
        group = parts.cache.lookup(capability.content, number)
        if group is not self._group:
            self._release()
            if group is not None:
                parts.cache.hold(group)
                self._group = group
        if group is not None and not group.verified:
            parts.disks.verify(group, self.resume)
            return
        missing = self._pages & ~(group.present if group is not None else 0)
        if self._missed is None:
            self._missed = missing
            if self._counts:
                count_pages(capability.mount, self._pages, missing)
            if group is not None:
                parts.cache.touch(group)
        if missing and self._giver and self._is_asked:  # once: what it does not give now, it does not have
            self._await(missing & parts.fetcher.flying(capability.content, number))
            return
        if not parts.gate.is_stale(capability):
            if missing:
                self._is_asked = True
                started = parts.fetcher.ensure(capability, number, missing, urgent=missing, giver=self._giver)
                self._fetched_bytes += mask_bytes(self._length, started)
            self._read_ahead()
        elif missing:
            raise CapabilityExpired("no master answers, and these pages are not cached: try again when one is back")
        if not missing:
            self._answer(cached=True)
            return
        self._call.waits_for = parts.fetcher.awaited(capability)
        self._await(missing)

    def _await(self, coming: int) -> None:
        """Go on when the first of these pages has come; at the end, if there are none."""
        if not coming:
            self._answer(cached=False)
            return
        first = (coming & -coming).bit_length() - 1
        waits = self._parts.fetcher.wait(self._capability.content, self._number, first, self.resume)
        invariant(waits, "a page that was asked for is on its way")

    def _read_ahead(self) -> None:
        """Once: start on the pages that may follow, if there is room for them."""
        ahead, self._ahead = self._ahead, 0
        first = self._number * GROUP_PAGES + self._pages.bit_length()
        last = min(first + ahead, page_count(self._capability.size)) - 1
        if last >= first:
            near, far = first * PAGE_SIZE_BYTES - 1, (last + 1) * PAGE_SIZE_BYTES
            last = page_count(self._parts.peers.reach(self._capability, near, far)) - 1
        if last < first:
            return
        for number, pages in group_masks(first, last):
            group = self._parts.cache.lookup(self._capability.content, number)
            if group is not None and not group.verified:
                continue
            try:
                started = self._parts.fetcher.ensure(self._capability, number, pages, urgent=0)
            except MonofsError:
                return  # nobody asked for these bytes yet; who does is told
            self._fetched_bytes += mask_bytes(group_length(self._capability.size, number), started)

    def _answer(self, *, cached: bool) -> None:
        if self._over:
            return
        group = self._parts.cache.lookup(self._capability.content, self._number)
        present, file = (group.present, group.file) if group is not None and group.verified else (0, 0)
        if self._age_ms and present and group is not None:
            self._parts.cache.age(group, self._age_ms * 10**6)
        served = mask_bytes(self._length, (self._missed or 0) & present)
        if served and self._counts:
            metrics.SERVED_BYTES("store", "descriptor").value += served
        self._finish()
        self._call.answer(FetchAnswer(present, cached=cached, fetched_bytes=self._fetched_bytes, file=file))

    def _release(self) -> None:
        if self._group is not None:
            group, self._group = self._group, None
            self._parts.cache.release(group)

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._release()


def pages_of(size: int, number: int) -> int:
    """Bitmap of all pages a group of a content of ``size`` bytes has; 0 beyond its end."""
    if number < 0 or number * GROUP_SIZE_BYTES >= size:
        return 0
    return int((1 << page_count(group_length(size, number))) - 1)
