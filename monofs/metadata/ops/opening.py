"""Opening an intent: its number, its name, and for whom it is.

Invariant: an intent carries all that its asker is, so that whatever ends it can answer and audit. Not here: whether it may be opened (guarding.py), what its act is
about (the operations begin_*).
"""

from __future__ import annotations

import msgspec

from monofs.metadata.draft import Draft
from monofs.metadata.intent_entries import Asker
from monofs.metadata.tables import Intent


def new_intent_number(draft: Draft) -> tuple[int, str]:
    """The next number, and the operation's name as stores are told it."""
    meta = draft.meta
    meta.last_intent += 1
    return meta.last_intent, f"{meta.cluster.hex()[:12]}-{meta.incarnation:x}-{meta.last_intent:x}"


def open_for(draft: Draft, asker: Asker, intent: Intent) -> bytes:
    """Open ``intent`` now, for who asks: its outcome will be the answer of that request. The intent, encoded."""
    return draft.open_intent(
        msgspec.structs.replace(
            intent,
            client=asker.client,
            sequence=asker.sequence,
            lowest=asker.lowest,
            created_ns=draft.now_ns,
            principal=asker.principal,
            by=asker.by,
        )
    )
