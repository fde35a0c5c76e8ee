"""The tokens issued, kept decoded in memory. Invariant: equal to the table ``keys``."""

from __future__ import annotations

from monofs.metadata.store import Store
from monofs.metadata.tables import KEYS, TOKENS_MAX, Key, decode_key


class KnownKeys:
    """All tokens by number."""

    def __init__(self, store: Store) -> None:
        found = [decode_key(raw) for _, raw in store.scan(KEYS, b"", TOKENS_MAX)]
        self.by_number = {key.number: key for key in found}

    def take(self, number: int, key: Key | None) -> None:
        """Take over a token; None: it was removed."""
        if key is None:
            self.by_number.pop(number, None)
        else:
            self.by_number[number] = key
