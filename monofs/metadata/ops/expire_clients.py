"""EXPIRE_CLIENTS: forget clients that were silent for an hour, and the answers held for them."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import ExpireClients
from monofs.model.errors import InvalidArgument

CLIENTS_MAX = 1000


def expire_clients(draft: Draft, change: ExpireClients) -> None:
    """Clients that are not known are passed over. A later request of an expired client gets ``SessionExpired``."""
    if len(change.clients) > CLIENTS_MAX:
        raise InvalidArgument(f"at most {CLIENTS_MAX} clients expire in one entry")
    for client in change.clients:
        draft.changes += draft.state.sessions.expire(client)
        draft.expired.append(client)
