"""What the S3 door of a node goes by, as heartbeats tell it: which keys are honoured and what each of them allows, and which paths are buckets under a
name of their own. Secrets are computed when they are first asked for.

Invariant: a key is honoured only while it is in the list last taken over, and not past its end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from monofs.model.paths import Parts, parse_path
from monofs.model.principal import Principal, Right
from monofs.model.s3_key import S3_RIGHTS, access_key_id, key_number, s3_secret
from monofs.rpc.api import BucketInfo, S3KeyGrant


@dataclass(frozen=True, slots=True, eq=False)
class S3Key:
    """A key that is honoured. ``principal`` acts by the node that shows it; ``prefix``: the path it is bound to. One object as long as nothing of it
    changes: channels are looked up by it with every request."""

    access_key: str
    secret: str
    principal: Principal
    prefix: Parts
    expires_s: int
    """Seconds since 1970, 0: never."""


class S3Keys:
    """Of one node; reactor thread only. ``now_s`` tells seconds since 1970 by the cluster's clock."""

    def __init__(self, cluster_secret: bytes, now_s: Callable[[], float] = time.time) -> None:
        self.now_s = now_s
        self._cluster_secret = cluster_secret
        self._cluster = b""
        self._granted: dict[int, S3KeyGrant] = {}
        self._known: dict[str, S3Key] = {}
        self.buckets: dict[str, BucketInfo] = {}
        """Those that have a name of their own; every directory at the top is one besides."""

    def take(self, cluster: bytes, granted: Iterable[S3KeyGrant], buckets: Iterable[BucketInfo] = ()) -> None:
        """Honour these from now on, and no others."""
        before, self._granted = self._granted, {each.number: each for each in granted}
        same = {number for number, each in self._granted.items() if before.get(number) == each}
        if cluster != self._cluster:
            same.clear()
        self._known = {name: key for name, key in self._known.items() if key_number(name) in same}
        self._cluster = cluster
        self.buckets = {each.name: each for each in buckets}

    def find(self, access_key: str) -> S3Key | None:
        """The key of an access key id; None: there is none, or it was removed or rotated away. Whether it has expired is to be looked at."""
        known = self._known.get(access_key)
        if known is not None:
            return known
        granted = self._granted.get(key_number(access_key))
        if granted is None or access_key != access_key_id(granted.number, granted.salt):
            return None
        rights = Right(granted.rights) & S3_RIGHTS
        known = self._known[access_key] = S3Key(
            access_key,
            s3_secret(self._cluster_secret, self._cluster, granted.number, granted.salt),
            Principal(granted.name, granted.uid, tuple(granted.groups), rights, by="node"),
            parse_path(granted.prefix or "/"),
            granted.expires_s,
        )
        return known

    def is_expired(self, key: S3Key) -> bool:
        """Whether a key's time has passed."""
        return bool(key.expires_s) and self.now_s() >= key.expires_s
