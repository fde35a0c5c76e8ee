"""`/api/v1` about who uses the cluster: the master's connections, the tokens that let programs and people in, and the sessions of this console.

Not here: what a session is (viewers.py).
"""

from __future__ import annotations

from collections import Counter

import msgspec

from monofs.model.errors import NotFound
from monofs.model.principal import Right
from monofs.model.token import format_rights
from monofs.rpc.api import ConnectionListAnswer, TokenAddAnswer, TokenInfo
from monofs.web.clock import Clock
from monofs.web.cluster_api import Done
from monofs.web.routes import Parameter, Routes
from monofs.web.socket import Door
from monofs.web.viewers import Viewer, Viewers


class Session(msgspec.Struct):
    """One session of this console. ``key`` names it here, and opens nothing. ``watching``: its open pages."""

    key: str
    name: str
    rights: str
    credential: str
    peer: str
    began_ms: int
    idle_s: int
    watching: int
    expires_s: int


class TokenAdd(msgspec.Struct, forbid_unknown_fields=True):
    """``rights``: as read,write,admin. ``expires_s``: from now; null: never."""

    name: str
    rights: str = "read"
    expires_s: float | None = None


class S3KeyAdd(msgspec.Struct, forbid_unknown_fields=True):
    """``prefix``: the path it is bound to; '': none. ``expires_s``: from now; null: never."""

    name: str
    read_only: bool = False
    prefix: str = ""
    expires_s: float | None = None


def tokens(viewer: Viewer) -> dict[str, TokenInfo]:
    """Tokens that were issued and not removed, by number; nothing of their secrets."""
    return {str(each.number): each for each in viewer.fs.token_list()}


def token_add(viewer: Viewer, body: TokenAdd) -> TokenAddAnswer:
    """Issue a token. Its text is told this once."""
    told: TokenAddAnswer = viewer.fs.token_add(body.name, body.rights, expires_s=body.expires_s)
    return told


def s3_key_add(viewer: Viewer, body: S3KeyAdd) -> TokenAddAnswer:
    """Issue an S3 key: info.shown is its access key id, token its secret, told this once. It is listed and removed as tokens are."""
    told: TokenAddAnswer = viewer.fs.s3_key_add(
        body.name, read_only=body.read_only, prefix=body.prefix, expires_s=body.expires_s
    )
    return told


def token_remove(viewer: Viewer, number: int) -> Done:
    """Honour a token no longer, and close what came in by it."""
    viewer.fs.token_remove(str(number))
    return Done()


def connections(viewer: Viewer) -> ConnectionListAnswer:
    """Who is connected to the leading master: from where, since when, by which credential."""
    told: ConnectionListAnswer = viewer.fs.connections()
    return told


def sessions_of(viewers: Viewers, door: Door, offset_s: float) -> list[Session]:
    """All of them. ``offset_s``: of the cluster's clock from this node's."""
    watching = Counter(browser.viewer.key for browser in list(door.open))
    return [
        Session(
            each.key,
            each.principal.name,
            format_rights(each.principal.rights),
            f"token {each.token}" if each.token else "none",
            each.peer,
            each.began_ms + int(1000 * offset_s),
            int(idle_s),
            watching[each.key],
            each.expires_s,
        )
        for each, idle_s in viewers.all()
    ]


def add_routes(routes: Routes, viewers: Viewers, door: Door, clock: Clock) -> None:
    """All of these."""

    def sessions(_: Viewer) -> list[Session]:
        """Who has signed in to the console of this node."""
        return sessions_of(viewers, door, clock.offset_s)

    def session_end(_: Viewer, key: str) -> Done:
        """End a session of this console: whoever has it signs in again."""
        for each, _idle in viewers.all():
            if each.key == key:
                viewers.sign_out(each)
                return Done()
        raise NotFound("that session is over already")

    routes.add("GET", "/connections", connections, Right.ADMIN, ConnectionListAnswer)
    number = Parameter("number", "The token's.", "integer", least=1)
    routes.add("GET", "/tokens", tokens, Right.ADMIN, dict[str, TokenInfo])
    routes.add("POST", "/tokens", token_add, Right.ADMIN, TokenAddAnswer, body=TokenAdd)
    routes.add("POST", "/s3-keys", s3_key_add, Right.ADMIN, TokenAddAnswer, body=S3KeyAdd)
    routes.add("DELETE", "/tokens/{number}", token_remove, Right.ADMIN, Done, number)
    routes.add("GET", "/sessions", sessions, Right.ADMIN, list[Session])
    routes.add("DELETE", "/sessions/{key}", session_end, Right.ADMIN, Done, Parameter("key", "As told by the list."))
