"""ADD_TOKEN and REMOVE_TOKEN: which tokens are honoured. Their secrets are not here: nothing in the journal lets anybody in."""

from __future__ import annotations

from monofs.metadata.draft import Draft
from monofs.metadata.entries import AddToken, RemoveToken
from monofs.metadata.tables import TOKENS_MAX, Key
from monofs.model.errors import AlreadyExists, NotFound, NotReady, Overloaded
from monofs.model.token import check_body, check_name


def add_token(draft: Draft, change: AddToken) -> bytes:
    """The record as stored. Of those that have expired, one of the same name goes, and all of them when the table is full."""
    if not draft.meta.cluster:
        raise NotReady("the namespace is not initialised yet")
    check_name(change.name)
    check_body(change.rights, change.expires_s, change.uid, change.groups, change.salt)
    keys = draft.state.tokens()
    expired = {key.number for key in keys if key.expires_s and draft.now_ns >= key.expires_s * 10**9}
    full = len(keys) >= TOKENS_MAX
    for key in keys:
        if key.number in expired and (full or key.name == change.name):
            draft.put_key(key.number, None)
        elif key.name == change.name:
            raise AlreadyExists(f"a token called {key.name} exists: remove it first, or choose another name")
    if full and not expired:
        raise Overloaded(f"{TOKENS_MAX} tokens are issued already: remove some")
    draft.meta.last_key += 1
    return draft.put_key(
        draft.meta.last_key,
        Key(
            draft.meta.last_key,
            change.name,
            change.rights,
            change.expires_s,
            change.salt,
            change.uid,
            change.groups,
            draft.now_ns,
            change.issuer,
        ),
    )


def remove_token(draft: Draft, change: RemoveToken) -> None:
    """``NotFound`` when it is not there (any more)."""
    if change.number not in draft.state.known_keys.by_number:
        raise NotFound(f"there is no token {change.number}: `monofs token ls` lists them")
    draft.put_key(change.number, None)
