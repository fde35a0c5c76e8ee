"""Capabilities: sealing them for readers and writers, renewing them, and knowing which contents are retired.

A capability names content, not a path: a reader in flight may finish old content, so renewal looks only at the seal, the age and a
bounded memory of recently retired contents, which workers have been told to unlink; that of a writer ends with its intent. Life and grace are model.capability's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from monofs.metadata.namespace import Namespace
from monofs.metadata.state import Lookup
from monofs.metadata.tables import Intent
from monofs.model.capability import GRACE_S, LIFE_S, CacheGroup, Capability, Rights, open_capability, seal_capability
from monofs.model.errors import CapabilityExpired, CapabilityInvalid, InvalidArgument, NotReady
from monofs.model.ids import NO_CONTENT, ContentId, MountId
from monofs.model.inode import Inode
from monofs.model.mount import Located
from monofs.model.paths import Parts, format_path
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

    def issue(self, parts: Parts, inode: Inode, located: Located | None, *, pinned: bool) -> tuple[bytes, int]:
        """(token, expiry in whole seconds since 1970) for reading a file; an empty token when there are no bytes to read."""
        granted = self.grant(inode, located, self._namespace.policy_for(parts).id, pinned=pinned)
        return self.seal(granted), granted.expires_s

    def grant(self, inode: Inode, located: Located | None, policy: int, *, pinned: bool) -> Capability:
        """What a reader of a file below a policy may."""
        issued_s = self._now_ns() // 1_000_000_000
        return Capability(
            self._newest,
            self._namespace.store.meta.cluster,
            inode.content,
            inode.size,
            inode.layout,
            MountId(0) if located is None else located.mount.id,
            "" if located is None else located.key,
            inode.fingerprint,
            policy * 2 + (CacheGroup.PINNED if pinned else CacheGroup.DEFAULT),
            Rights.READ,
            issued_s,
            issued_s + LIFE_S,
        )

    def seal(self, granted: Capability) -> bytes:
        """The token of what was granted now; empty when there are no bytes."""
        if not granted.size or granted.content == NO_CONTENT:
            return b""
        return seal_capability(granted, self.keys[granted.key_id])

    def issue_write(self, intent: Intent, parts: Parts, found: Lookup) -> bytes:
        """The token to write the file of an open intent; ``found`` is what has the name now. Under no mount the key is the path."""
        return seal_capability(self._writing(intent, parts, found), self.keys[self._newest])

    def issue_part(
        self, intent: Intent, parts: Parts, found: Lookup, operation: int, number: int, size: int, offset: int
    ) -> bytes:
        """The token to send one part of an open upload. ``operation``: what its worker calls it."""
        granted = msgspec.structs.replace(
            self._writing(intent, parts, found),
            operation=operation,
            size=size,
            upload=intent.upload,
            part=number,
            part_offset=offset,
        )
        return seal_capability(granted, self.keys[self._newest])

    def _writing(self, intent: Intent, parts: Parts, found: Lookup) -> Capability:
        issued_s = self._now_ns() // 1_000_000_000
        replaced = found.inode
        return Capability(
            self._newest,
            self._namespace.cluster,
            ContentId(intent.content),
            intent.size,
            self._namespace.layout_for(parts),
            MountId(intent.mount),
            intent.key if intent.mount else format_path(parts)[1:],
            intent.replaced,
            self._group(parts, pinned=found.pinned),
            Rights.WRITE,
            issued_s,
            issued_s + LIFE_S,
            intent.number,
            intent.name,
            intent.write_type,
            NO_CONTENT if replaced is None else replaced.content,
            0 if replaced is None else replaced.size,
        )

    def opened(self, token: bytes) -> Capability | None:
        """What a token of ours grants or granted, however old; None: it is none."""
        try:
            return open_capability(token, self.keys, self._namespace.cluster, 0)
        except (CapabilityExpired, CapabilityInvalid):
            return None

    def _group(self, parts: Parts, *, pinned: bool) -> int:
        return self._namespace.policy_for(parts).id * 2 + (CacheGroup.PINNED if pinned else CacheGroup.DEFAULT)

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
        if held.content in self._retired or (held.operation and self._namespace.intent(held.operation) is None):
            return b""
        # whether its file is pinned now is not known here, and a pin that has ended must not come back
        renewed = msgspec.structs.replace(
            held, key_id=self._newest, group=held.group & ~CacheGroup.PINNED, issued_s=now_s, expires_s=now_s + LIFE_S
        )
        return seal_capability(renewed, self.keys[self._newest])

    def _catch_up(self) -> None:
        for index, kind, contents in self._namespace.feed(self._cursor, FEED_SLICE):
            self._cursor = index
            if kind == FeedKind.RETIRED:
                self._retired.update(dict.fromkeys(contents))
        while len(self._retired) > RETIRED_KEPT:
            self._retired.popitem(last=False)
