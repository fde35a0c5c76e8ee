"""Capabilities: sealing them for readers, renewing them, and knowing which contents are retired.

A capability names content, not a path: a reader in flight may finish old content, so renewal looks only at the seal, the age and a
bounded memory of recently retired contents, which workers have been told to unlink. Life and grace are model.capability's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from monofs.metadata.namespace import Namespace
from monofs.model.capability import GRACE_S, LIFE_S, CacheGroup, Capability, Rights, open_capability, seal_capability
from monofs.model.errors import CapabilityExpired, CapabilityInvalid, InvalidArgument, NotReady
from monofs.model.ids import NO_CONTENT, MountId
from monofs.model.inode import Inode
from monofs.model.mount import Located
from monofs.rpc.api import FeedKind, RenewAnswer, RenewRequest

RENEW_MAX = 1000
RETIRED_KEPT = 200_000
FEED_SLICE = 100
"""Feed records read per renewal to catch up; each holds at most 1,000 contents."""


class Issuer:
    """Seals with the newest key, honours all of ``keys``."""

    def __init__(self, namespace: Namespace, keys: dict[int, bytes], now_ns: Callable[[], int]) -> None:
        self._namespace, self.keys, self._now_ns = namespace, keys, now_ns
        self._newest = max(keys)
        self._retired: OrderedDict[int, None] = OrderedDict()
        self._cursor = max(0, namespace.feed_bounds()[0] - 1)

    def issue(self, inode: Inode, located: Located | None, *, pinned: bool) -> tuple[bytes, int]:
        """(token, expiry in whole seconds since 1970) for reading a file; an empty token when there are no bytes to read."""
        issued_s = self._now_ns() // 1_000_000_000
        if not inode.size or inode.content == NO_CONTENT:
            return b"", issued_s + LIFE_S
        granted = Capability(
            self._newest,
            self._namespace.cluster,
            inode.content,
            inode.size,
            inode.layout,
            MountId(0) if located is None else located.mount.id,
            "" if located is None else located.key,
            inode.fingerprint,
            CacheGroup.PINNED if pinned else CacheGroup.DEFAULT,
            Rights.READ,
            issued_s,
            issued_s + LIFE_S,
        )
        return seal_capability(granted, self.keys[self._newest]), granted.expires_s

    def renew(self, request: RenewRequest) -> RenewAnswer:
        """A token that is not ours or too old, or whose content is retired, comes back empty: its file is to be opened again."""
        if len(request.capabilities) > RENEW_MAX:
            raise InvalidArgument(f"at most {RENEW_MAX} capabilities a request")
        if not self._namespace.cluster:
            raise NotReady
        self._catch_up()
        now_s = self._now_ns() // 1_000_000_000
        return RenewAnswer([self._renewed(token, now_s) for token in request.capabilities], now_s + LIFE_S)

    def _renewed(self, token: bytes, now_s: int) -> bytes:
        try:
            held = open_capability(token, self.keys, self._namespace.cluster, now_s, grace_s=GRACE_S)
        except (CapabilityExpired, CapabilityInvalid):
            return b""
        if held.content in self._retired:
            return b""
        # whether its file is pinned now is not known here, and a pin that has ended must not come back
        renewed = msgspec.structs.replace(
            held, key_id=self._newest, group=CacheGroup.DEFAULT, issued_s=now_s, expires_s=now_s + LIFE_S
        )
        return seal_capability(renewed, self.keys[self._newest])

    def _catch_up(self) -> None:
        for index, kind, contents in self._namespace.feed(self._cursor, FEED_SLICE):
            self._cursor = index
            if kind == FeedKind.RETIRED:
                self._retired.update(dict.fromkeys(contents))
        while len(self._retired) > RETIRED_KEPT:
            self._retired.popitem(last=False)
