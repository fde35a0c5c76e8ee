"""HTTP of the console: pages, static files, sign-in, `/api/v1` and the way to `/ws`.

The path of a request: headers that hold for every answer (console.py) -> is the Host one this door answers to -> the session -> for a change, the session's second secret -> the right -> the function in a thread -> JSON.
Invariants: nothing but what routes.py and assets.py list is served; no script, style or frame of another origin or written into a page runs (Content-Security-Policy); nothing waits for a disk or the
cluster on the reactor; every failure is a record that says what to do, never a traceback. Not here: the WebSocket (socket.py), what functions do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from autobahn.twisted.resource import WebSocketResource
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from monofs import __version__
from monofs.model.errors import Internal, MonofsError, PermissionDenied, Unauthenticated
from monofs.model.principal import check_right
from monofs.observe.logs import logger
from monofs.web.assets import Assets
from monofs.web.records import encode_json, error_record, record
from monofs.web.routes import PREFIX, NotAllowed, Route, Routes
from monofs.web.sending import REMEMBERED, Sending, Sent
from monofs.web.socket import Door
from monofs.web.viewers import COOKIE, Viewer, Viewers

log = logger(__name__)

PAGES = {
    "": "Overview",
    "browse": "Browse",
    "mounts": "Mounts",
    "workers": "Workers",
    "cache": "Cache",
    "jobs": "Jobs",
    "journal": "Journal",
    "configuration": "Configuration",
    "measures": "Metrics",
    "logs": "Logs",
    "clients": "Clients",
}
"""First component of a page's address -> its title. What follows in the address is the page's own (a path, a worker)."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; "
    "frame-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",  # with no-referrer, browsers send the sign-in form with "Origin: null"
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    b"cache-control": b"no-store",
}
KEEP = b"public, max-age=31536000, immutable"
SAFE = ("GET", "HEAD")
_AGAIN = (
    '<!doctype html><title>monofs</title><meta http-equiv="refresh" content="0"><p><a href="">Go to the console</a>'
)
"""Asks the browser to come again, this time from a page of our own."""
_STATUS = {
    1001: 400, 1003: 504, 1004: 429, 1008: 501, 1009: 503, 1010: 507, 2004: 401, 2006: 502, 2007: 502, 3001: 404, 3002: 409, 3003: 409,
    3004: 409, 3005: 409, 3006: 403, 3007: 403, 3008: 400, 3009: 400, 3010: 400, 3011: 409, 3012: 409, 3013: 404, 3015: 412, 3016: 507, 3017: 409, 3018: 409,
    4001: 507, 4007: 409, 5001: 503, 5002: 504, 5008: 409, 6002: 502, 6003: 404, 6009: 400, 6011: 409, 7001: 503, 7002: 503,
}  # fmt: skip
"""HTTP status of an error's code; 502 for other troubles of stores, else 500."""


def status_of(error: MonofsError) -> int:
    """The HTTP status that stands for an error (RFC 9110)."""
    return _STATUS.get(error.code, 502 if 6000 <= error.code < 7000 else 500)


class Front(Resource):
    """The root of everything but what monitors ask (console.py). ``run``: a function in a thread."""

    isLeaf = True

    def __init__(
        self,
        assets: Assets,
        viewers: Viewers,
        routes: Routes,
        door: Door,
        run: Callable[..., Deferred[Any]],
        run_path: Callable[..., Deferred[Any]],
        *,
        lane: Callable[[dict[str, Any]], str],
        hosts: Callable[[str], bool],
        node: Callable[[], dict[str, Any]],
        now_ms: Callable[[], int],
        reactor: Any,
    ) -> None:
        """``run_path``: as ``run``, for what asks stores; ``lane``: in which of its lanes, by the values of a request. ``hosts``: whether the console answers to this name. ``node``: what pages say of the node that serves them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._assets, self._viewers, self._routes, self._door, self._run = assets, viewers, routes, door, run
        self._run_path, self._lane, self._hosts, self._node, self._reactor = run_path, lane, hosts, node, reactor
        self._now_ms = now_ms
        self.sendings: deque[Sending] = deque(maxlen=REMEMBERED)
        """Files that are sent, or were lately."""
        self._socket: Any = WebSocketResource(door)  # type: ignore[no-untyped-call]
        self._shell = assets.templates.get_template("shell.html")
        self._sign_in = assets.templates.get_template("sign_in.html")
        self._document = msgspec.json.encode(routes.document())

    def render(self, request: Request) -> Any:
        """Every method."""
        method = request.method.decode("latin-1")
        path = request.path.decode("latin-1")
        host = (request.getHeader(b"host") or b"").decode("latin-1")
        try:
            if not self._hosts(host):
                raise PermissionDenied(f"this console does not answer to the name {host[:200]!r}: see console.names")
            return self._dispatch(request, method, path)
        except (NotAllowed, MonofsError) as error:
            return self._refuse(request, error)

    def _refuse(self, request: Request, error: NotAllowed | MonofsError) -> bytes:
        if isinstance(error, NotAllowed):
            request.setHeader(b"allow", str(error).encode())
            return self._answer(request, 405, _problem("NotAllowed", f"only {error} here"))
        return self._answer(request, status_of(error), error_record(error))

    # ---- where it goes ------------------------------------------------------------------------------------------------

    def _dispatch(self, request: Request, method: str, path: str) -> Any:
        if path.startswith("/static/"):
            return self._static(request, path)
        if path == "/sign-in":
            return self._sign_in_page(request, method)
        if path == f"{PREFIX}/openapi.json":
            _only(method, SAFE)
            request.setHeader(b"content-type", b"application/json")
            return self._document
        viewer = self._viewer(request)
        if isinstance(viewer, Deferred):
            return self._later(request, viewer.addCallback(lambda found: self._for(request, method, path, found)))
        return self._for(request, method, path, viewer)

    def _for(self, request: Request, method: str, path: str, viewer: Viewer | None) -> Any:
        is_api = path.startswith(PREFIX + "/")
        if is_api and _is_from_elsewhere(request):
            raise PermissionDenied("a page of another origin may not do this")
        if viewer is None:
            if _is_linked(request) and not is_api and path != "/ws":
                return self._text(request, 200, _AGAIN, b"text/html; charset=utf-8")
            if is_api or path == "/ws":
                raise Unauthenticated("sign in first, or send a token: Authorization: Bearer …")
            return _redirect(request, b"/sign-in")
        if path == "/ws":
            return self._to_socket(request, viewer)
        if path == "/sign-out":
            _only(method, ("POST",))
            self._check_own(request, viewer)
            self._viewers.sign_out(viewer)
            return self._answer(request, 200, {"done": True})
        if path == f"{PREFIX}/session":
            _only(method, SAFE)
            return self._answer(request, 200, {"csrf": viewer.csrf, "release": self._assets.release})
        if is_api:
            return self._api(request, method, path[len(PREFIX) :], viewer)
        _only(method, SAFE)
        return self._page(request, path, viewer)

    def _viewer(self, request: Request) -> Viewer | Deferred[Viewer] | None:
        """Whose request it is."""
        shown = request.getHeader(b"authorization")
        if shown is not None and shown[:7].lower() == b"bearer ":
            token, address = shown[7:].decode("latin-1"), self._peer(request)
            return self._run(lambda: self._viewers.of_script(token, address))
        peer = self._peer(request)
        viewer = self._viewers.of_cookie(request.getCookie(_cookie(request)), peer)
        if viewer is not None or self._viewers.needs_token(peer):
            return viewer
        if request.path.startswith(PREFIX.encode()):
            return self._viewers.of_program()
        if _is_linked(request):
            return None
        viewer = self._viewers.begin_local(peer)
        self._set_cookie(request, viewer)
        return viewer

    # ---- pages and files ----------------------------------------------------------------------------------------------

    def _static(self, request: Request, path: str) -> bytes:
        release, _, name = path.removeprefix("/static/").partition("/")
        asset = self._assets.files.get(name)
        if asset is None or release != self._assets.release:
            return self._text(request, 404, "there is no such file")
        request.setHeader(b"content-type", asset.content_type.encode())
        request.setHeader(b"cache-control", KEEP)
        request.setHeader(b"vary", b"accept-encoding")
        if asset.packed is not None and b"gzip" in (request.getHeader(b"accept-encoding") or b""):
            request.setHeader(b"content-encoding", b"gzip")
            return asset.packed
        return asset.data

    def _page(self, request: Request, path: str, viewer: Viewer) -> bytes:
        name = path.strip("/").partition("/")[0]
        if name not in PAGES:
            request.setResponseCode(404)
        principal = viewer.principal
        told = {
            "release": self._assets.release,
            "version": __version__,
            "csrf": viewer.csrf,
            "viewer": {"key": viewer.key, "name": principal.name, "admin": viewer.is_admin, "write": viewer.may_write},
            "node": self._node(),
            "now_ms": self._now_ms(),
        }
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        return self._shell.render(
            pages=PAGES,
            page=name if name in PAGES else None,
            told=_for_script(told),
            release=self._assets.release,
            viewer=viewer,
        ).encode()

    def _sign_in_page(self, request: Request, method: str) -> Any:
        _only(method, (*SAFE, "POST"))
        request.setHeader(b"content-type", b"text/html; charset=utf-8")
        if method != "POST":
            return self._sign_in.render(release=self._assets.release, error="").encode()
        peer = self._peer(request)
        self._check_origin(request)
        try:
            self._viewers.check_rate(peer)
        except MonofsError as error:
            request.setResponseCode(status_of(error))
            return self._sign_in.render(release=self._assets.release, error=error.message).encode()
        token = ((request.args or {}).get(b"token") or [b""])[0].decode("utf-8", "replace")
        signing = self._run(lambda: self._viewers.sign_in(token, peer))

        def entered(viewer: Viewer) -> bytes:
            self._set_cookie(request, viewer)
            return _redirect(request, b"/")

        def refused(failure: Failure) -> bytes:
            failure.trap(MonofsError)
            error: Any = failure.value
            request.setResponseCode(status_of(error) if error.retry else 401)
            return self._sign_in.render(release=self._assets.release, error=error.message).encode()

        return self._later(request, signing.addCallbacks(entered, refused))

    # ---- the API ------------------------------------------------------------------------------------------------------

    def _api(self, request: Request, method: str, path: str, viewer: Viewer) -> Any:
        route, held = self._routes.find("GET" if method == "HEAD" else method, path)
        if method not in SAFE:
            self._check_own(request, viewer)
        check_right(viewer.principal, route.right)
        query = {_text(name): _text(values[-1]) for name, values in (request.args or {}).items()}
        body: Any = request.content
        held = {name: unquote(text) for name, text in held.items()}
        values = self._routes.values(route, held, query, body.read())
        if route.asks == "store":
            run = partial(self._run_path, lane=self._lane(values))
        else:
            run = partial(self._run, lane=route.asks)
        return self._later(request, run(lambda: self._acted(route, viewer, values)), run)

    def _acted(self, route: Route, viewer: Viewer, values: dict[str, Any]) -> Any:
        """In a thread."""
        self._viewers.check(viewer)
        answer = route.act(viewer, **values)
        return (answer, viewer) if isinstance(answer, Sent) else record(answer)

    def _check_own(self, request: Request, viewer: Viewer) -> None:
        """Raise ``PermissionDenied`` unless a change was asked for by a page of this console, in this session."""
        if not viewer.is_scripted:
            self._check_origin(request)
        if not viewer.accepts(request.getHeader(b"x-csrf-token")):
            raise PermissionDenied("this page's session is over: load it again")

    def _check_origin(self, request: Request) -> None:
        origin = request.getHeader(b"origin")
        if origin is None:
            return
        try:
            parts = urlsplit(origin)
        except ValueError:
            parts = urlsplit(b"")
        is_ours = parts.netloc == request.getHeader(b"host") and (parts.scheme == b"https" or not request.isSecure())
        if not is_ours:
            raise PermissionDenied("a page of another origin may not do this")

    def _to_socket(self, request: Request, viewer: Viewer) -> Any:
        if request.getHeader(b"origin") is None:
            raise PermissionDenied("a WebSocket is opened by a page of this console, which names its origin")
        self._check_origin(request)
        for name in HEADERS:
            request.responseHeaders.removeHeader(name)
        self._door.viewer = viewer
        return self._socket.render(request)

    # ---- answers ------------------------------------------------------------------------------------------------------

    def _later(self, request: Request, coming: Deferred[Any], run: Callable[..., Deferred[Any]] | None = None) -> int:
        """Answer when it is there; nothing, when the asker has gone. ``run``: how the pieces of a file are got."""
        gone = []
        request.notifyFinish().addErrback(lambda _: gone.append(True))

        def done(answer: Any) -> None:
            if isinstance(answer, tuple):
                sent, viewer = answer
                self._send(request, sent, viewer, run or self._run, gone=bool(gone))
                return
            if gone or answer is NOT_DONE_YET:
                return
            request.write(answer if isinstance(answer, bytes) else self._answer(request, 200, answer))
            request.finish()

        def failed(failure: Failure) -> None:
            error = failure.value
            if not isinstance(error, MonofsError | NotAllowed):
                log.error("a request of the console failed", path=request.path.decode("latin-1"), exception=error)
                error = Internal()
            if not gone:
                request.write(self._refuse(request, error))
                request.finish()

        coming.addCallback(done).addErrback(failed)
        return NOT_DONE_YET

    def _send(
        self, request: Request, sent: Sent, viewer: Viewer, run: Callable[..., Deferred[Any]], *, gone: bool
    ) -> None:
        sending = Sending(request, sent, viewer.principal.name, run, self._reactor)
        if sent.is_listed:
            self.sendings.append(sending)
        if gone:
            sending.stopProducing()
        else:
            sending.begin()

    def _answer(self, request: Request, code: int, value: Any) -> bytes:
        request.setResponseCode(code)
        request.setHeader(b"content-type", b"application/json")
        return encode_json(value)

    @staticmethod
    def _text(request: Request, code: int, text: str, kind: bytes = b"text/plain; charset=utf-8") -> bytes:
        request.setResponseCode(code)
        request.setHeader(b"content-type", kind)
        return text.encode() + b"\n"

    @staticmethod
    def _peer(request: Request) -> str:
        return str(getattr(request.getClientAddress(), "host", ""))

    def _set_cookie(self, request: Request, viewer: Viewer) -> None:
        request.addCookie(
            _cookie(request),
            viewer.id.encode(),
            path=b"/",
            httpOnly=True,
            secure=request.isSecure(),
            sameSite=b"strict",
        )


def _cookie(request: Request) -> bytes:
    """Its name has the port in it: browsers send cookies to all ports of a host, and several nodes may run on one."""
    return b"%b_%d" % (COOKIE, request.getHost().port)


def _is_linked(request: Request) -> bool:
    """Whether a page of another site leads here: then the browser keeps back the session's cookie (SameSite=Strict), whether there is one or not."""
    headers = request.requestHeaders
    return headers.getRawHeaders(b"sec-fetch-site", [b""])[0] == b"cross-site" and request.method == b"GET"


def _is_from_elsewhere(request: Request) -> bool:
    """Whether a page of another origin asks, as browsers say it (Fetch Metadata). It could not read the answer; but a download, a preview or a backup costs the node something, and
    a page that another port of this machine serves is of the same site: the session's cookie comes along."""
    return request.requestHeaders.getRawHeaders(b"sec-fetch-site", [b""])[0] in (b"cross-site", b"same-site")


def _only(method: str, methods: tuple[str, ...]) -> None:
    if method not in methods:
        raise NotAllowed(", ".join(methods))


def _redirect(request: Request, where: bytes) -> bytes:
    request.setResponseCode(303)
    request.setHeader(b"location", where)
    return b""


def _problem(error: str, message: str) -> dict[str, Any]:
    return {"error": error, "code": 1000, "message": message, "hint": "", "retry": False}


def _for_script(value: Any) -> str:
    """JSON that stands in a script element: nothing in it can end the element."""
    text = msgspec.json.encode(value).decode()
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
