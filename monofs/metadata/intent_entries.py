"""The entries of intents: what opens one, what is noted while its act goes on, and what ends it.

Invariants: what opens an intent names for whom (:class:`Asker`) and results in the intent, unless there is nothing to do; END or ABANDON ends it, once (or the
unmounting that gives it up), and their result is kept as the asker's answer.

Not here: changes under no mount, which need no act (entries.py); what an intent holds while it is open (tables.py).
"""

from __future__ import annotations

import msgspec

from monofs.metadata.entries import Change, Found, Stamp
from monofs.model.attributes import Attributes


class Asker(msgspec.Struct, array_like=True, gc=False):
    """For whom an intent is opened: its outcome is remembered as the answer of this request (law 3). ``client`` empty: nobody's."""

    client: bytes = b""
    sequence: int = 0
    lowest: int = 0
    principal: str = ""
    uid: int = 0
    gid: int = 0
    by: str = ""
    """Who spoke for the principal, if not itself. Other than '': level 4."""


class BeginWrite(Change):
    """Open a write. ``size`` >= 0: the act follows at once, so the path is locked; -1: parts are sent first and PUBLISH locks it.

    Result: the Intent, encoded. ``write_type`` was resolved by the proposer (policies), MUST_CACHE under no mount.
    """

    stamp: Stamp
    path: str
    mode: int
    parents: bool
    exclusive: bool
    if_match: str | None
    size: int
    write_type: str
    worker: int
    asker: Asker
    attributes: Attributes | None = None
    """Other than None: level 4."""
    as_key: bool = False
    if_content: int | None = None
    """Only if the file has this content. Other than None: level 4."""
    upload: bool = False
    """An UPLOAD is opened, not a WRITE. True: level 5."""


class Publish(Change):
    """All parts of a write or upload are sent: lock its path, check its conditions, note the size. Result: the Intent, encoded.

    Of an upload, whose conditions come with its end: ``exclusive``, ``if_content``. ``attributes`` are what is kept with the file, in the place of
    those it began with; ``etag`` names the content of a write, as END may. Other than the defaults: level 5, of a write level 6."""

    stamp: Stamp
    number: int
    size: int
    exclusive: bool = False
    if_content: int | None = None
    attributes: Attributes | None = None
    etag: str = ""


class Reopen(Change):
    """An upload that acted was not made visible: its path is free, and it goes on. Result: None."""

    stamp: Stamp
    number: int


class RecordUpload(Change):
    """Note the store's id of an upload before its first part is sent. Result: None."""

    stamp: Stamp
    number: int
    upload: str


class BeginDelete(Change):
    """Open the deletion of a file or an empty directory below a mount. Result: the Intent, encoded."""

    stamp: Stamp
    path: str
    asker: Asker
    as_key: bool = False
    if_content: int | None = None
    marker: bool = False
    """As of DELETE. True: level 5."""
    implied: bool = False
    """Only a directory that nobody asked for, and about which nothing was said. True: level 5."""


class BeginRename(Change):
    """Open the renaming of a file (any store), or of a directory (stores that rename). Result: the Intent, encoded; or the record's
    bytes, with a leading NUL byte, when source and target are the same path."""

    stamp: Stamp
    source: str
    target: str
    asker: Asker


class BeginMakeDirectory(Change):
    """Open the making of a directory below a mount. Result: the Intent, encoded; or the record's bytes, with a leading NUL byte, when
    it exists and ``exist_ok``."""

    stamp: Stamp
    path: str
    mode: int
    parents: bool
    exist_ok: bool
    asker: Asker
    marker: bool = False
    """Open it for a directory that is there, too: its store may have nothing but names below it. True: level 4; from level 5 on the object ``dir/`` is
    made, with ``attributes``, as by MAKE_DIRECTORY."""
    attributes: Attributes | None = None
    """Other than None: level 5."""
    replaced: str = ""
    """Only if that object is this version, of which all is known here, in the tree and in its store; empty: whatever is there. Other than empty: level 5."""


class BeginCopy(Change):
    """Open the copying of a file to another path of the same mount. ``attributes`` None: those of the source. Result: the Intent, encoded."""

    stamp: Stamp
    source: str
    target: str
    parents: bool
    exclusive: bool
    asker: Asker
    attributes: Attributes | None = None
    """Other than None: level 4."""
    as_key: bool = False
    if_content: int | None = None
    """Only if the source has this content. Other than None: level 4."""
    expected: int = -1
    """Onto itself: only what is kept with the file is replaced, if its record names that by this number. Other than -1: level 5."""


class End(Change):
    """The act of an intent is done: what the store shows now (``found`` None: nothing, or no store), and the name changes.

    ``stamp`` carries the asker's request, so that the result is remembered for it. ``size`` is that of a write; ``workers`` hold its
    bytes where no store has them. Result: the inode record (bytes) of what was made, renamed or copied; None for a deletion.
    """

    stamp: Stamp
    number: int
    found: Found | None
    size: int = 0
    workers: list[int] = []
    attributes: Attributes | None = None
    """Of a write: in the place of those it began with. Other than None: level 4."""
    etag: str = ""
    """Of a write: the writer's name of its content. Other than '': level 4."""


class Abandon(Change):
    """The act of an intent was not done, or was taken over by a look at the store: the intent goes, its content retires.

    Result: the error (code, message) as a value, remembered for the asker.
    """

    stamp: Stamp
    number: int
    code: int
    message: str
