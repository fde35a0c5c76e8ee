"""A namespace with a store at /m, and what tests of intents ask of it."""

from __future__ import annotations

from metadata_home import Home, directory, file

from monofs.metadata.intent_entries import Asker
from monofs.metadata.tables import LOCKS, FeedKind
from monofs.model.attributes import Attributes

ANN = Asker(b"ann's client", 1, 1, "ann", 7, 8)
KEPT = Attributes({"content-type": "text/plain"}, {"a": "b"})
LONG = "/m/" + "/".join(["d" * 200] * 15)
"""A path whose bytes are no key of a database."""


def lay(home: Home) -> Home:
    """A mount at /m with a file, a directory with a file, and an empty directory."""
    home.mount("/m")
    home.adopt("/m", [file("f"), directory("d"), directory("empty")])
    home.adopt("/m/d", [file("g")])
    return home


def told(home: Home, kind: FeedKind) -> list[int]:
    """Contents the feed names with this kind."""
    return [content for _, at, contents in home.namespace.feed(0, 1000) for content in contents if at == kind]


def nothing_is_left(home: Home) -> bool:
    """No intent and no lock."""
    assert home.namespace.intents(0, 10) == []
    assert home.namespace.meta.intents == 0
    return home.store.scan(LOCKS, b"", 10) == []
