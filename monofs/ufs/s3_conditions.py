"""What a server makes of conditions on what it is asked to change, learnt from its answers. Pure; kept per store.

AWS honours ``If-None-Match: *`` and ``If-Match`` on PUT and on the completion of an upload; others honour them on PUT only, refuse
them (501), want the etag without quotes, or take no notice, which no answer tells. So a PUT's condition is trusted once a false one was
refused; those of completions and copies, which are few and large, are never trusted alone: the store is asked first as well.
"""

from __future__ import annotations

import threading

from monofs.ufs.base import Condition

FALSE_ETAG = "0" * 32
"""The etag of no object."""


def kind_of(condition: Condition) -> str:
    """``absent``, ``match``, ``asked`` (a version no header can name: the store has to be asked), or empty: anything goes."""
    if condition.absent:
        return "absent"
    if not condition.fingerprint:
        return ""
    return "match" if condition.fingerprint.startswith("e:") else "asked"


class S3Conditions:
    """What is known so far; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._honoured: dict[tuple[str, str], bool] = {}
        self._quoted = True

    def is_honoured(self, act: str, kind: str) -> bool | None:
        """Whether the server keeps to conditions of ``kind`` at ``act`` (put, complete, copy); None: not known."""
        return False if kind == "asked" else self._honoured.get((act, kind))

    def note(self, act: str, kind: str, *, honoured: bool) -> None:
        """A false condition was refused, or was not; or the server said that it cannot."""
        with self._lock:
            self._honoured[act, kind] = honoured

    def note_refused(self, act: str, sent: dict[str, str]) -> None:
        """The server refused an etag that holds: it wants it without quotes; and if it had none, it cannot compare."""
        with self._lock:
            if sent.get("If-Match", "").startswith('"'):
                self._quoted = False
            else:
                self._honoured[act, "match"] = False

    def headers(self, act: str, condition: Condition) -> dict[str, str]:
        """What says ``condition`` to this server; nothing where that is no use."""
        kind = kind_of(condition)
        if not kind or self.is_honoured(act, kind) is False:
            return {}
        return {"If-None-Match": "*"} if kind == "absent" else {"If-Match": self._etag(condition.fingerprint[2:])}

    def false_headers(self, kind: str) -> dict[str, str]:
        """A condition that does not hold where an object was just put."""
        return {"If-None-Match": "*"} if kind == "absent" else {"If-Match": self._etag(FALSE_ETAG)}

    def _etag(self, etag: str) -> str:
        return f'"{etag}"' if self._quoted else etag
