"""ADD_TOKEN, ROTATE_KEY and REMOVE_TOKEN: which tokens and S3 keys are honoured. Their secrets are not here: nothing in the journal lets anybody in."""

from __future__ import annotations

import msgspec

from monofs.metadata.draft import Draft
from monofs.metadata.entries import AddToken, RemoveToken, RotateKey
from monofs.metadata.tables import TOKENS_MAX, Key, KeyKind
from monofs.model.errors import AlreadyExists, InvalidArgument, NotFound, NotReady, Overloaded
from monofs.model.s3_key import check_s3_body
from monofs.model.token import SALT_BYTES, check_body, check_name


def add_token(draft: Draft, change: AddToken) -> bytes:
    """The record as stored. Of those that have expired, a token of the same name goes, and all of them when the table is full."""
    if not draft.meta.cluster:
        raise NotReady("the namespace is not initialised yet")
    check_name(change.name)
    check_body(change.rights, change.expires_s, change.uid, change.groups, change.salt)
    if change.kind not in frozenset(KeyKind):
        raise InvalidArgument(f"there are no keys of kind {change.kind}")
    key = Key(
        0,
        change.name,
        change.rights,
        change.expires_s,
        change.salt,
        change.uid,
        change.groups,
        draft.now_ns,
        change.issuer,
        change.kind,
        change.prefix,
    )
    return _issue(draft, key)


def rotate_key(draft: Draft, change: RotateKey) -> bytes:
    """The record of the new key. ``NotFound`` when there is no such S3 key (any more)."""
    key = draft.state.known_keys.by_number.get(change.number)
    if key is None or key.kind != KeyKind.S3 or _is_expired(draft, key):
        raise NotFound(f"there is no S3 key {change.number}: `monofs token s3 ls` lists them")
    if len(change.salt) != SALT_BYTES:
        raise InvalidArgument(f"the salt of a key has {SALT_BYTES} bytes")
    raw = _issue(draft, msgspec.structs.replace(key, salt=change.salt, issued_ns=draft.now_ns, issuer=change.issuer))
    if draft.now_ns >= change.ends_s * 10**9:
        draft.put_key(key.number, None)
    elif not key.expires_s or change.ends_s < key.expires_s:
        draft.put_key(key.number, msgspec.structs.replace(key, expires_s=change.ends_s))
    return raw


def remove_token(draft: Draft, change: RemoveToken) -> None:
    """``NotFound`` when it is not there (any more)."""
    if change.number not in draft.state.known_keys.by_number:
        raise NotFound(f"there is no token {change.number}: `monofs token ls` lists them")
    draft.put_key(change.number, None)


def _issue(draft: Draft, key: Key) -> bytes:
    """Give it a number, and room. Names tell tokens apart; of an S3 key a user may have several."""
    keys = draft.state.tokens()
    full, expired = len(keys) >= TOKENS_MAX, {each.number for each in keys if _is_expired(draft, each)}
    for each in keys:
        is_named_so = key.kind == each.kind == KeyKind.TOKEN and key.name == each.name
        if each.number in expired and (full or is_named_so):
            draft.put_key(each.number, None)
        elif is_named_so:
            raise AlreadyExists(f"a token called {key.name} exists: remove it first, or choose another name")
    if full and not expired:
        raise Overloaded(f"{TOKENS_MAX} tokens are issued already: remove some")
    draft.meta.last_key += 1
    number = draft.meta.last_key
    if key.kind == KeyKind.S3:
        check_s3_body(number, key.rights, key.prefix)
    return draft.put_key(number, msgspec.structs.replace(key, number=number))


def _is_expired(draft: Draft, key: Key) -> bool:
    return bool(key.expires_s) and draft.now_ns >= key.expires_s * 10**9
