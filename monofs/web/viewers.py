"""Who looks at the console: sessions, what they may, and what stops a page of somebody else from acting in their name.

Without authentication whoever comes from this machine is let in as any local program is; everybody else, and everybody where ``security.authentication`` is required, signs in with a token
(`monofs token add`). A session is a random id in a cookie (HttpOnly, SameSite=Strict, Secure under TLS) and holds a file system object with the viewer's own credential, so that what a viewer
may is decided where it always is, at the master, and stands in the audit log under the viewer's name. Scripts send the token itself (``Authorization: Bearer``).

Invariants: every change needs the session's own second secret in a header, which no page of another origin can read; tokens are never kept on disk or logged; sessions, sign-ins by
address and their rate are bounded; a session ends with its token: at once when that expires, and within ``RECHECK_S`` when it was removed. Not here: HTTP (front.py).
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from monofs.model.errors import MonofsError, Overloaded, Unauthenticated
from monofs.model.principal import ANONYMOUS, Principal, Right
from monofs.model.token import decode_token, parse_token

COOKIE = b"monofs_session"
SESSIONS_MAX = 512
"""More: the one that was idle longest ends."""
IDLE_S = 12 * 3600.0
TRIES, TRIES_S = 10, 60.0
"""Sign-ins of one address in so long."""
ADDRESSES_MAX = 10_000
RECHECK_S = 10.0
"""How long a session is trusted without asking the master whether its token still holds."""


@dataclass(slots=True, eq=False)
class Viewer:
    """One session. ``fs``: the cluster as this viewer sees it."""

    principal: Principal
    fs: Any
    key: str = field(default_factory=lambda: secrets.token_hex(8))
    """What it is called in lists; it opens nothing."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    used_s: float = 0.0
    checked_s: float = 0.0
    token: int = 0
    """Number of the token it came in with; 0: none."""
    expires_s: int = 0
    """End of that token, seconds since 1970 UTC; 0: never."""
    peer: str = ""
    began_ms: int = field(default_factory=lambda: int(time.time() * 1000))
    is_scripted: bool = False
    """It came with its token in this very request: there is no cookie that another page could use."""

    @property
    def is_admin(self) -> bool:
        """Whether it may steer the cluster."""
        return bool(self.principal.rights & Right.ADMIN)

    @property
    def may_write(self) -> bool:
        """Whether it may change files."""
        return bool(self.principal.rights & Right.WRITE)

    def accepts(self, csrf: bytes | None) -> bool:
        """Whether a change comes from this session's own pages."""
        return self.is_scripted or (csrf is not None and hmac.compare_digest(csrf, self.csrf.encode()))


class Viewers:
    """All sessions. ``connect``: makes a file system object of a token ('': of none); ``is_open``: this machine's programs need no token."""

    def __init__(
        self,
        connect: Callable[[str], Any],
        *,
        is_open: bool,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        on_end: Callable[[Viewer], None] = lambda _: None,
    ) -> None:
        """``on_end`` hears, from any thread, of sessions that are over. ``now``: seconds since 1970 UTC, by which tokens expire."""
        self._connect, self._is_open, self._clock, self._now, self._on_end = connect, is_open, clock, now, on_end
        self._lock = threading.RLock()
        self._sessions: OrderedDict[str, Viewer] = OrderedDict()
        self._scripts: OrderedDict[bytes, Viewer] = OrderedDict()
        """By the digest of their token."""
        self._tries: OrderedDict[str, list[float]] = OrderedDict()
        self._program: Viewer | None = None

    def needs_token(self, peer: str) -> bool:
        """Whether who comes from this address must sign in."""
        try:
            return not (self._is_open and ip_address(peer).is_loopback)
        except ValueError:
            return True

    def of_cookie(self, cookie: bytes | None, peer: str) -> Viewer | None:
        """The session of a cookie; None: there is none (any more). A session without a token holds on this machine only."""
        with self._lock:
            viewer = self._sessions.get((cookie or b"").decode("latin-1"))
            if viewer is None or self._is_over(viewer):
                return None
            if not viewer.token and self.needs_token(peer):
                return None
            viewer.used_s, viewer.peer = self._clock(), peer
            self._sessions.move_to_end(viewer.id)
            return viewer

    def begin_local(self, peer: str = "") -> Viewer:
        """A session of this machine, without a token."""
        return self._begin(Viewer(ANONYMOUS, self._connect(""), peer=peer))

    def of_program(self) -> Viewer:
        """A program of this machine that shows neither cookie nor token: it may look, and has no second secret to change anything with."""
        if self._program is None:
            self._program = Viewer(ANONYMOUS, self._connect(""))
        return self._program

    def check_rate(self, peer: str) -> None:
        """Call before a token is tried; those that do not hold count. Raises ``Overloaded``."""
        now_s = self._clock()
        with self._lock:
            tries = [at for at in self._tries.pop(peer, []) if now_s - at < TRIES_S]
            self._tries[peer] = tries
            if len(self._tries) > ADDRESSES_MAX:
                self._tries.popitem(last=False)
            if len(tries) >= TRIES:
                raise Overloaded("too many sign-ins from here: wait a minute")
            tries.append(now_s)

    def sign_in(self, token: str, peer: str = "") -> Viewer:
        """Blocking: a session of a token, which the master honours. Raises ``Unauthenticated``, ``InvalidArgument``, ``NoMaster``."""
        viewer = self._of_token(token, peer)
        self._forgive(peer)
        return self._begin(viewer)

    def of_script(self, token: str, peer: str = "") -> Viewer:
        """Blocking the first time: who sends this token with each request. Tokens that do not hold count as sign-ins: raises ``Overloaded``."""
        digest = hashlib.sha256(token.encode()).digest()
        with self._lock:
            viewer = self._scripts.get(digest)
            if viewer is not None and not self._is_over(viewer):
                viewer.used_s, viewer.peer = self._clock(), peer
                self._scripts.move_to_end(digest)
                return viewer
        self.check_rate(peer)
        viewer = self._of_token(token, peer)
        viewer.is_scripted = True
        viewer.used_s = self._clock()
        with self._lock:
            self._forgive(peer)
            before = [self._scripts.pop(digest, None)]
            self._scripts[digest] = viewer
            if len(self._scripts) > SESSIONS_MAX:
                before.append(self._scripts.popitem(last=False)[1])
        for each in before:
            if each is not None:
                each.fs.close()
        return viewer

    def _forgive(self, peer: str) -> None:
        """The token that was tried last holds: a whole office may come from one address."""
        with self._lock:
            tries = self._tries.get(peer)
            if tries:
                tries.pop()

    def check(self, viewer: Viewer) -> None:
        """Blocking now and then: raise ``Unauthenticated``, and end the session, when its token does not hold any more."""
        try:
            if viewer.expires_s and self._now() >= viewer.expires_s:
                raise Unauthenticated("this token has expired: ask for another one")
            if viewer.token and self._clock() - viewer.checked_s > RECHECK_S:
                viewer.fs.ping()
                viewer.checked_s = self._clock()
        except Unauthenticated:
            self.sign_out(viewer)
            raise
        except MonofsError:
            pass  # no master answers: what was asked for will say so

    def sign_out(self, viewer: Viewer) -> None:
        """End a session."""
        with self._lock:
            known = self._sessions.pop(viewer.id, None) is viewer
            for digest in [digest for digest, each in self._scripts.items() if each is viewer]:
                del self._scripts[digest]
                known = True
        if known:
            viewer.fs.close()
            self._on_end(viewer)

    def keep(self, viewer: Viewer) -> None:
        """It is being used: a page of it watches."""
        viewer.used_s = self._clock()

    def purge(self) -> None:
        """Blocking: end what is over."""
        with self._lock:
            over = [viewer for viewer in (*self._sessions.values(), *self._scripts.values()) if self._is_over(viewer)]
        for viewer in over:
            self.sign_out(viewer)

    def all(self) -> list[tuple[Viewer, float]]:
        """Sessions, with the seconds since each was last used."""
        with self._lock:
            found = [*self._sessions.values(), *self._scripts.values()]
        return [(viewer, self._clock() - viewer.used_s) for viewer in found]

    def _is_over(self, viewer: Viewer) -> bool:
        return self._clock() - viewer.used_s > IDLE_S or bool(viewer.expires_s and self._now() >= viewer.expires_s)

    def close(self) -> None:
        """End them all."""
        for viewer in (*self._sessions.values(), *self._scripts.values(), *([self._program] if self._program else ())):
            viewer.fs.close()
        self._sessions.clear()
        self._scripts.clear()

    def _of_token(self, text: str, peer: str) -> Viewer:
        body, _ = parse_token(text)
        token = decode_token(body)
        if token is None:
            raise Unauthenticated("this token is damaged: ask for another one")
        fs = self._connect(text.strip())
        try:
            fs.ping()
        except BaseException:
            fs.close()
            raise
        checked_s = self._clock()
        return Viewer(
            token.principal(), fs, checked_s=checked_s, token=token.number, expires_s=token.expires_s, peer=peer
        )

    def _begin(self, viewer: Viewer) -> Viewer:
        viewer.used_s = self._clock()
        with self._lock:
            self._sessions[viewer.id] = viewer
            oldest = next(iter(self._sessions.values())) if len(self._sessions) > SESSIONS_MAX else None
        if oldest is not None:
            self.sign_out(oldest)
        return viewer
