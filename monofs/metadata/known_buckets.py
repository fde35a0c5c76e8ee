"""Buckets that were given a path, kept decoded in memory. Invariant: equal to the table ``buckets``."""

from __future__ import annotations

from monofs.metadata.store import Store
from monofs.metadata.tables import BUCKETS, BUCKETS_MAX, Bucket, decode_bucket


class KnownBuckets:
    """All by name."""

    def __init__(self, store: Store) -> None:
        self.by_name = {key.decode(): decode_bucket(raw) for key, raw in store.scan(BUCKETS, b"", BUCKETS_MAX)}

    def take(self, name: str, bucket: Bucket | None) -> None:
        """Take over a bucket; None: it was removed."""
        if bucket is None:
            self.by_name.pop(name, None)
        else:
            self.by_name[name] = bucket
