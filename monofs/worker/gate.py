"""Who may read what: capabilities checked against keys, cluster and time.

Invariant: no byte is served but for a token whose HMAC this worker has verified under a key that is valid now, within the
token's life by the master's clock, or for what the master of this very process grants. A verified token is remembered (an HMAC costs more than a small read); a change of keys or
cluster forgets all. While no master was heard of for :data:`SILENCE_S`, tokens up to ``GRACE_S`` too old open cached content, never
a fetch. Not here: where keys come from (membership.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from monofs.model.capability import GRACE_S, LIFE_S, Capability, Rights, open_capability, seal_capability
from monofs.model.errors import CapabilityInvalid, NotReady
from monofs.model.ids import ContentId, MountId

SILENCE_S = 30.0
"""A master silent for so long is taken for gone."""
REMEMBERED_TOKENS = 16384


class Gate:
    """Keys, cluster and clock of one worker. ``wall`` gives seconds since 1970, ``monotonic`` seconds of any origin."""

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        on_shown: Callable[[Capability], None] = lambda _: None,
    ) -> None:
        """``on_shown`` is called with every capability for reading when its token is verified."""
        self._wall, self._monotonic, self._on_shown = wall, monotonic, on_shown
        self._keys: dict[int, bytes] = {}
        self._cluster = b""
        self._offset_s = 0.0
        self._heard = monotonic()
        self._is_closed = False
        self._seen: dict[bytes, Capability] = {}
        self._admitted: dict[ContentId, Capability] = {}
        """The last that was admitted of each content."""

    def close(self) -> None:
        """Open nothing to readers from now on: the worker is stopping."""
        self._is_closed = True

    def set_keys(self, keys: dict[int, bytes], cluster: bytes) -> None:
        """Take over the keys valid from now on; tokens of others are refused at once."""
        if keys != self._keys or cluster != self._cluster:
            self._keys, self._cluster = dict(keys), cluster
            self._seen.clear()
            self._admitted.clear()

    def hear(self, master_now_ns: int) -> None:
        """A master answered just now, and this was its clock."""
        self._heard = self._monotonic()
        self._offset_s = master_now_ns / 1e9 - self._wall()

    @property
    def now_s(self) -> float:
        """The master's clock, seconds since 1970."""
        return self._wall() + self._offset_s

    @property
    def offset_ns(self) -> int:
        """The master's clock less this machine's, in whole seconds: what is stamped here is told with it, and does not move by milliseconds with every heartbeat."""
        return round(self._offset_s) * 10**9

    @property
    def silent_s(self) -> float:
        """For how long no master has answered."""
        return self._monotonic() - self._heard

    @property
    def remembered(self) -> int:
        """Verified capabilities kept."""
        return len(self._seen) + len(self._admitted)

    def open(self, token: bytes) -> Capability:
        """The capability of a token that opens cached content now.

        Raises ``CapabilityInvalid``, ``CapabilityExpired``, or ``NotReady`` before the first registration and once closed.
        """
        if self._is_closed:
            raise NotReady("the worker is stopping")
        capability = self._seen.get(token)
        now_s = self.now_s
        if capability is not None and now_s <= capability.expires_s:
            return capability
        if not self._keys:
            raise NotReady("this worker has not reached a master yet; try again shortly")
        grace_s = GRACE_S if self.silent_s > SILENCE_S else 0.0
        capability = open_capability(token, self._keys, self._cluster, now_s, grace_s=grace_s)
        if not capability.rights & Rights.READ:
            raise CapabilityInvalid("the capability does not allow reading")
        _make_room(self._seen)
        self._seen[token] = capability
        self._on_shown(capability)
        return capability

    def admit(self, capability: Capability) -> None:
        """Honour what the master of this process grants now: no seal tells more than that it says so. Raises as :meth:`open`."""
        if self._is_closed:
            raise NotReady("the worker is stopping")
        if not self._keys:
            raise NotReady("this worker has not reached a master yet; try again shortly")
        if capability.cluster != self._cluster or capability.key_id not in self._keys:
            raise CapabilityInvalid("the capability is not of a cluster and a key known here")
        known = self._admitted.get(capability.content)
        if known is None or known.issued_s != capability.issued_s or known.group != capability.group:
            _make_room(self._admitted)
            self._admitted[capability.content] = capability
            self._on_shown(capability)

    def seal(self, capability: Capability) -> bytes:
        """ANY thread: the token of a capability that was opened here. Raises ``NotReady`` when its key is not valid any more."""
        key = self._keys.get(capability.key_id)
        if key is None:
            raise NotReady("the key of this capability is not valid any more: open the file again")
        return seal_capability(capability, key)

    def vouch(self, content: ContentId, size: int, layout: int, mount: MountId, group: int, issued_s: int) -> bytes:
        """A token for cached bytes of a content, to show to another worker; ``group`` is what was known of it at ``issued_s``. Raises ``NotReady``."""
        if not self._keys:
            raise NotReady("this worker has not reached a master yet; try again shortly")
        key = max(self._keys)
        return self.seal(
            Capability(
                key,
                self._cluster,
                content,
                size,
                layout,
                mount,
                "",
                "",
                group,
                Rights.READ,
                issued_s,
                int(self.now_s) + LIFE_S,
            )
        )

    def open_write(self, token: bytes) -> Capability:
        """The capability of a token that may begin a write now. Raises as :meth:`open`."""
        if not self._keys:
            raise NotReady("this worker has not reached a master yet; try again shortly")
        capability = open_capability(token, self._keys, self._cluster, self.now_s)
        if not capability.rights & Rights.WRITE or not capability.operation:
            raise CapabilityInvalid("the capability does not allow writing")
        return capability

    def is_stale(self, capability: Capability) -> bool:
        """Whether the capability is past its life: it then opens what is cached, never a fetch."""
        return self.now_s > capability.expires_s


def _make_room(remembered: dict[Any, Capability]) -> None:
    """For one more; those remembered longest go."""
    if len(remembered) >= REMEMBERED_TOKENS:
        for old in list(remembered)[: REMEMBERED_TOKENS // 4]:
            del remembered[old]
