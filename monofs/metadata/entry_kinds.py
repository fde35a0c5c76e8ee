"""The kinds of entries: their numbers, and how the journal carries them, as (kind, version, body).

Invariant: a number is never reused, and what this release does not know is never skipped: the node stops.

Not here: the bodies (entries.py, intent_entries.py), what each does (ops), from which level on a kind or field may be proposed (tables.py).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from monofs.metadata.entries import (
    AddJob,
    AddMount,
    AddToken,
    AdoptPage,
    AdoptPath,
    AssignSlots,
    Change,
    Create,
    Delete,
    ExpireClients,
    Forget,
    Free,
    Initialize,
    MakeDirectory,
    Moved,
    RegisterWorker,
    RemoveBelow,
    RemoveMount,
    RemoveToken,
    RemoveTree,
    Rename,
    RenameTree,
    RotateKey,
    SetAttributes,
    SetBucket,
    SetLevel,
    SetPin,
    SetPolicy,
    SetTtl,
    Touch,
    TrimFeed,
    UpdateJob,
    UpdateMount,
)
from monofs.metadata.intent_entries import (
    Abandon,
    BeginCopy,
    BeginDelete,
    BeginMakeDirectory,
    BeginRename,
    BeginWrite,
    End,
    Publish,
    RecordUpload,
    Reopen,
)
from monofs.model.attributes import encode_holder
from monofs.model.entry import Entry
from monofs.model.errors import UnknownEntry

ENTRY_VERSION = 1
"""Version of all bodies. A body is only extended at its end; a change of meaning is a new kind or version."""


class EntryKind(IntEnum):
    """Kinds of entries."""

    INITIALIZE = 1
    SET_LEVEL = 2
    EXPIRE_CLIENTS = 3
    ADD_MOUNT = 10
    UPDATE_MOUNT = 11
    REMOVE_MOUNT = 12
    ADOPT_PAGE = 20
    ADOPT_PATH = 21
    MAKE_DIRECTORY = 30
    CREATE = 31
    DELETE = 32
    RENAME = 33
    SET_PIN = 34
    FREE = 40
    TRIM_FEED = 41
    REGISTER_WORKER = 50
    REMOVE_BELOW = 51
    ASSIGN_SLOTS = 52
    BEGIN_WRITE = 60
    PUBLISH = 61
    RECORD_UPLOAD = 62
    BEGIN_DELETE = 63
    BEGIN_RENAME = 64
    BEGIN_MAKE_DIRECTORY = 65
    BEGIN_COPY = 66
    END = 67
    ABANDON = 68
    REMOVE_TREE = 69
    RENAME_TREE = 70
    MOVED = 71
    REOPEN = 72
    ADD_JOB = 80
    UPDATE_JOB = 81
    SET_POLICY = 82
    SET_TTL = 83
    FORGET = 84
    TOUCH = 85
    SET_ATTRIBUTES = 86
    ADD_TOKEN = 90
    REMOVE_TOKEN = 91
    ROTATE_KEY = 92
    SET_BUCKET = 93


BODIES: dict[EntryKind, type[Change]] = {
    EntryKind.INITIALIZE: Initialize,
    EntryKind.SET_LEVEL: SetLevel,
    EntryKind.EXPIRE_CLIENTS: ExpireClients,
    EntryKind.ADD_MOUNT: AddMount,
    EntryKind.UPDATE_MOUNT: UpdateMount,
    EntryKind.REMOVE_MOUNT: RemoveMount,
    EntryKind.ADOPT_PAGE: AdoptPage,
    EntryKind.ADOPT_PATH: AdoptPath,
    EntryKind.MAKE_DIRECTORY: MakeDirectory,
    EntryKind.CREATE: Create,
    EntryKind.DELETE: Delete,
    EntryKind.RENAME: Rename,
    EntryKind.SET_PIN: SetPin,
    EntryKind.FREE: Free,
    EntryKind.TRIM_FEED: TrimFeed,
    EntryKind.REGISTER_WORKER: RegisterWorker,
    EntryKind.REMOVE_BELOW: RemoveBelow,
    EntryKind.ASSIGN_SLOTS: AssignSlots,
    EntryKind.BEGIN_WRITE: BeginWrite,
    EntryKind.PUBLISH: Publish,
    EntryKind.RECORD_UPLOAD: RecordUpload,
    EntryKind.BEGIN_DELETE: BeginDelete,
    EntryKind.BEGIN_RENAME: BeginRename,
    EntryKind.BEGIN_MAKE_DIRECTORY: BeginMakeDirectory,
    EntryKind.BEGIN_COPY: BeginCopy,
    EntryKind.END: End,
    EntryKind.ABANDON: Abandon,
    EntryKind.REMOVE_TREE: RemoveTree,
    EntryKind.RENAME_TREE: RenameTree,
    EntryKind.MOVED: Moved,
    EntryKind.REOPEN: Reopen,
    EntryKind.ADD_JOB: AddJob,
    EntryKind.UPDATE_JOB: UpdateJob,
    EntryKind.SET_POLICY: SetPolicy,
    EntryKind.SET_TTL: SetTtl,
    EntryKind.FORGET: Forget,
    EntryKind.TOUCH: Touch,
    EntryKind.SET_ATTRIBUTES: SetAttributes,
    EntryKind.ADD_TOKEN: AddToken,
    EntryKind.REMOVE_TOKEN: RemoveToken,
    EntryKind.ROTATE_KEY: RotateKey,
    EntryKind.SET_BUCKET: SetBucket,
}

_KIND_OF = {body: kind for kind, body in BODIES.items()}
_DECODERS: dict[int, msgspec.msgpack.Decoder[Any]] = {
    int(kind): msgspec.msgpack.Decoder(body) for kind, body in BODIES.items()
}


def encode_entry(change: Change) -> Entry:
    """The journal entry that carries ``change``."""
    return Entry(int(_KIND_OF[type(change)]), ENTRY_VERSION, encode_holder(change))


def decode_entry(entry: Entry) -> Any:
    """The body of an entry, one of :data:`BODIES`.

    Raises ``UnknownEntry`` for a kind, version or body this release does not know: the node stops rather than skip a change.
    """
    kind, version, body = entry
    decoder = _DECODERS.get(kind)
    if decoder is None or version != ENTRY_VERSION:
        raise UnknownEntry(f"the journal holds an entry of kind {kind}, version {version}; this release knows it not")
    try:
        return decoder.decode(body)
    except msgspec.MsgspecError as problem:
        raise UnknownEntry(f"the body of a journal entry of kind {kind} cannot be decoded: {problem}") from None
