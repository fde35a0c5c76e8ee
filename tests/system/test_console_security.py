"""The console against everybody who is not its viewer: other origins, forged and removed tokens, readers who would administer, and bytes no browser sends.

One real node of both roles that asks everybody for a token.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from monofs.model.principal import Right
from monofs.testing.masters import wait_until
from monofs.testing.nodes import ServedNode
from monofs.testing.visitors import Answer, Socket, Visitor
from monofs.web import cache_api, cluster_api, contents, files_api, logs_api, node_api, stores_api, viewers_api
from monofs.web.front import HEADERS, PAGES
from monofs.web.history import History
from monofs.web.recording import SERIES
from monofs.web.routes import PREFIX, Route, Routes
from monofs.web.topics import SOURCES
from monofs.web.uploads import Uploads
from monofs.web.viewers import TRIES

SECRETS = re.compile(rb"Traceback \(most recent|File \"/|mft1\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}|SECRETVALUE")


class House:
    """The node, and tokens of three kinds."""

    def __init__(self, node: ServedNode) -> None:
        self.node = node
        self.base: str = node.doors["console"]
        self.admin = self.token("root", "read,write,admin")
        self.writer = self.token("wendy", "read,write")
        self.reader = self.token("rita", "read")

    def run(self, *words: str) -> str:
        done = self.node.cli("--cluster-secret-file", f"{self.node.home}/cluster.secret", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def token(self, name: str, rights: str, *words: str) -> str:
        return self.run("token", "add", name, "--rights", rights, *words).split()[0]

    def visitor(self) -> Visitor:
        return Visitor(self.base)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    home = tmp_path_factory.mktemp("secured") / "home"
    sets = ["security.authentication=required", "master.events_token=SECRETVALUE"]
    with ServedNode(str(home), sets=sets) as node:
        yield House(node)


@pytest.fixture(autouse=True)
def nothing_leaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No answer of any test holds a traceback, a token or a secret; every one has the headers of all."""
    asked, told = Visitor.ask, []

    def ask(self: Visitor, *words: object, **more: object) -> Answer:
        answer = asked(self, *words, **more)  # type: ignore[arg-type]
        told.append(answer)
        return answer

    watched, opened = Visitor.watch, []

    def watch(self: Visitor, *topics: str, **headers: str) -> Socket:
        opened.append(watched(self, *topics, **headers))
        return opened[-1]

    monkeypatch.setattr(Visitor, "ask", ask)
    monkeypatch.setattr(Visitor, "watch", watch)
    yield
    for page in opened:
        page.close()
    for answer in told:
        assert not SECRETS.search(answer.body), answer.body
        for name, value in HEADERS.items():
            held = answer.headers.get(name.decode())
            assert held == value.decode() or (held and name == b"cache-control"), (name, held)


def every_route() -> list[Route]:
    """The table a node serves, made as the console makes it."""
    routes = Routes()
    cluster_api.add_routes(routes)
    node_api.add_routes(routes, History("", SERIES))
    logs_api.add_routes(routes, {})
    viewers_api.add_routes(routes, None, None, None)  # type: ignore[arg-type] - nothing is called
    stores_api.add_routes(routes)
    cache_api.add_routes(routes)
    files_api.add_routes(routes)
    contents.add_routes(routes)
    Uploads().add_routes(routes)
    return list(routes)


def address(path: str) -> str:
    return PREFIX + re.sub(r"\{(\w+)\}", "1", path)


def served(visitor: Visitor) -> dict[str, dict[str, object]]:
    paths: dict[str, dict[str, object]] = visitor.ask("GET", f"{PREFIX}/openapi.json").json()["paths"]
    return paths


# ---- signing in ---------------------------------------------------------------------------------------------------------


def test_nobody_sees_a_page_without_signing_in(house):
    visitor = house.visitor()
    for page in PAGES:
        answer = visitor.ask("GET", f"/{page}")
        assert (answer.status, answer.headers.get("location"), answer.body, answer.cookies) == (
            303,
            "/sign-in",
            b"",
            [],
        )
    assert visitor.ask("GET", "/sign-in").status == 200


def test_a_token_makes_a_session_whose_cookie_no_script_and_no_other_site_gets(house):
    visitor = house.visitor()
    answer = visitor._post_token(house.reader)
    (cookie,) = answer.cookies
    name, _, rest = cookie.partition("=")
    assert name == f"monofs_session_{visitor.port}"
    assert [each.strip().lower() for each in rest.split(";")[1:]] == ["path=/", "httponly", "samesite=strict"]
    assert len(rest.split(";")[0]) >= 43, "256 bits"
    assert house.reader.encode() not in answer.body


def test_two_sign_ins_are_two_sessions_and_signing_out_ends_one(house):
    one, two = house.visitor().sign_in(house.reader), house.visitor().sign_in(house.reader)
    assert one.cookie != two.cookie
    assert one.csrf != two.csrf
    assert one.ask("POST", "/sign-out", b"").status == 403, "not without the page's own secret"
    assert one.change("POST", "/sign-out", b"").status == 200
    assert one.ask("GET", f"{PREFIX}/me").status == 401
    assert two.ask("GET", f"{PREFIX}/me").status == 200


@pytest.mark.parametrize(
    "forge",
    [
        lambda text: text[:-4] + "AAAA",
        lambda text: text.replace("mft1", "mft2"),
        lambda _: "",
        lambda _: "\x00",
        lambda text: text * 40,
    ],
)
def test_a_forged_token_is_refused_without_a_word_of_it(house, forge):
    visitor = house.visitor()
    token = forge(house.reader)
    answer = (
        visitor.ask("GET", f"{PREFIX}/me", authorization=f"Bearer {token}")
        if token.isprintable()
        else visitor._post_token(token)
    )
    assert answer.status in (400, 401)
    assert not answer.cookies
    assert house.reader[10:40].encode() not in answer.body


def test_sign_ins_are_bounded_and_say_so_on_their_page(house):
    # from another address of this machine, so that the other tests may go on signing in
    def sign_in() -> bytes:
        host, port = "127.0.0.1", house.visitor().port
        body = b"token=nonsense"
        with socket.create_connection((host, port), 10, source_address=("127.0.0.77", 0)) as sock:
            sock.sendall(
                b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            return b"".join(iter(lambda: sock.recv(65536), b""))

    answers = [sign_in() for _ in range(TRIES + 2)]
    assert all(b" 401 " in answer.split(b"\r\n")[0] for answer in answers[:TRIES])
    for answer in answers[TRIES:]:
        assert b" 429 " in answer.split(b"\r\n")[0]
        assert b"<form" in answer
        assert b"wait a minute" in answer


def test_a_session_ends_when_its_token_is_removed_and_its_pages_are_told(house):
    token = house.token("gone", "read")
    visitor = house.visitor().sign_in(token)
    page = visitor.watch("now")
    page.until("now")
    house.run("token", "rm", "gone")
    wait_until(lambda: visitor.ask("GET", f"{PREFIX}/measures").status == 401, "a removed token is taken")
    deadline = time.monotonic() + 60
    while page.receive() is not None:
        assert time.monotonic() < deadline, "the page that only watches goes too"
    with pytest.raises(ConnectionRefusedError) as caught:
        visitor.watch("now")
    assert caught.value.args[0] == 401


def test_a_session_ends_when_its_token_expires(house):
    visitor = house.visitor().sign_in(house.token("brief", "read", "--expires", "3s"))
    wait_until(lambda: visitor.ask("GET", f"{PREFIX}/measures").status == 401, "an expired token is taken")


# ---- rights -------------------------------------------------------------------------------------------------------------


def test_every_route_that_is_served_is_in_the_table_these_tests_walk(house):
    paths = served(house.visitor())
    assert {(PREFIX + each.path, each.method.lower()) for each in every_route()} <= {
        (path, method) for path, operations in paths.items() for method in operations
    }


@pytest.mark.parametrize("route", every_route(), ids=lambda route: f"{route.method} {route.path}")
def test_every_route_needs_its_right_and_a_change_the_pages_own_secret(house, route):
    stranger = house.visitor()
    assert stranger.ask(route.method, address(route.path), b"{}").status == 401
    for token, rights in ((house.reader, Right.READ), (house.writer, Right.READ | Right.WRITE)):
        if rights & route.right:
            continue
        answer = house.visitor().ask(route.method, address(route.path), b"{}", authorization=f"Bearer {token}")
        assert answer.status == 403, (answer.status, answer.body)
        assert answer.json()["error"] == "PermissionDenied"
    if route.method != "GET":
        assert not route.right & Right.READ or route.path in ("/mounts/test", "/stores/check"), (
            "a reader changes nothing"
        )


def test_every_change_needs_the_secret_of_its_own_session_and_its_own_origin(house):
    visitor = house.visitor().sign_in(house.admin)
    other = house.visitor().sign_in(house.admin)
    changes = [route for route in every_route() if route.method != "GET"]
    assert len(changes) > 5
    for route in changes:
        for headers in (
            {},
            {"x_csrf_token": ""},
            {"x_csrf_token": other.csrf},
            {"x_csrf_token": visitor.csrf, "origin": "http://evil.example"},
            {"x_csrf_token": visitor.csrf, "origin": "null"},
            {"x_csrf_token": visitor.csrf, "origin": f"http://{visitor.host}:{visitor.port + 1}"},
        ):
            answer = visitor.ask(route.method, address(route.path), b"{}", **headers)
            assert answer.status == 403, (route.method, route.path, headers, answer.body)


def test_a_topic_needs_the_right_of_the_route_that_tells_the_same():
    rights = {route.act: route.right for route in every_route()}
    told = [name for name, source in SOURCES.items() if source.every_s and rights[source.ask] == source.right]
    assert told == [name for name, source in SOURCES.items() if source.every_s]


def test_topics_need_their_rights(house):
    reader = house.visitor().sign_in(house.reader).watch(*SOURCES, "no such topic", "__class__")
    refused, seen = set(), set()
    wanted = {name for name, source in SOURCES.items() if not source.right & Right.READ} | {
        "no such topic",
        "__class__",
    }
    deadline = time.monotonic() + 60
    while not (wanted <= refused and "overview" in seen and "journal" in seen):
        assert time.monotonic() < deadline, (wanted - refused, seen)
        message = reader.receive()
        assert message is not None
        if message.get("error"):
            refused.add(message["topic"])
        else:
            seen.add(message["topic"])
    assert refused == wanted
    assert not seen & wanted
    reader.close()


def test_secrets_are_in_no_page_and_no_record(house):
    visitor = house.visitor().sign_in(house.admin)
    settings = visitor.ask("GET", f"{PREFIX}/configuration").json()
    assert {each["name"]: each["value"] for each in settings}["master.events_token"] == "***"
    with open(f"{house.node.home}/cluster.secret", "rb") as file:
        secret = file.read().strip()
    for path in (
        "/",
        f"{PREFIX}/overview",
        f"{PREFIX}/configuration",
        f"{PREFIX}/logs/logs",
        f"{PREFIX}/logs/audit",
        f"{PREFIX}/sessions",
        f"{PREFIX}/connections",
        f"{PREFIX}/measures",
    ):
        answer = visitor.ask("GET", path)
        assert answer.status == 200
        for told in (secret, house.admin[60:].encode(), visitor.cookie.partition("=")[2].encode()):
            assert told not in answer.body, path


# ---- other origins --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "evil.example:19999",
        "localhost.evil.example",
        "",
        "127.0.0.1.nip.io",
        "localhost@evil.example",
        "[",
        "a" * 3000,
    ],
)
def test_a_name_that_was_made_to_point_here_is_not_answered_to(house, name):
    visitor = house.visitor().sign_in(house.reader)
    for path in ("/", "/sign-in", f"{PREFIX}/me", f"{PREFIX}/openapi.json", "/static/x/y.js", "/ws"):
        assert visitor.ask("GET", path, host=name).status == 403, path


def test_its_own_names_and_addresses_are_answered_to(house):
    visitor = house.visitor().sign_in(house.reader)
    for name in ("localhost", f"LOCALHOST:{visitor.port}", "127.0.0.1:1", "[::1]:80", "10.1.2.3", socket.gethostname()):
        assert visitor.ask("GET", f"{PREFIX}/me", host=name).status == 200, name


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "", "http://127.0.0.1", "file://", "http://127.0.0.1:1", "http://[::1", "//"],
)
def test_the_socket_opens_for_pages_of_this_very_origin_only(house, origin):
    visitor = house.visitor().sign_in(house.reader)
    with pytest.raises(ConnectionRefusedError) as caught:
        visitor.watch("now", origin=origin)
    assert caught.value.args[0] == 403
    with pytest.raises(ConnectionRefusedError) as caught:
        house.visitor().watch("now")
    assert caught.value.args[0] == 401
    visitor.watch("now").until("now")


def test_a_sign_in_from_another_site_is_refused(house):
    body = f"token={house.reader}".encode()
    answer = house.visitor().ask(
        "POST", "/sign-in", body, content_type="application/x-www-form-urlencoded", origin="http://evil.example"
    )
    assert answer.status == 403
    assert not answer.cookies


def test_a_link_on_another_site_finds_the_session_again(house):
    visitor = house.visitor()
    answer = visitor.ask("GET", "/journal", sec_fetch_site="cross-site")
    assert answer.status == 200
    assert b'http-equiv="refresh"' in answer.body
    assert not answer.cookies
    assert visitor.ask("GET", "/journal", sec_fetch_site="same-origin").status == 303


def test_a_page_of_another_origin_makes_the_node_do_nothing(house):
    """No answer of the API could be read there; but the node would make a backup, or fetch a file, for it."""
    visitor = house.visitor().sign_in(house.admin)
    for site in ("cross-site", "same-site"):
        for path in ("/backup", "/files/download?path=/f", "/overview"):
            assert visitor.ask("GET", f"{PREFIX}{path}", sec_fetch_site=site).status == 403, (site, path)
    for site in ("same-origin", "none"):
        assert visitor.ask("GET", f"{PREFIX}/overview", sec_fetch_site=site).status == 200


# ---- hostile bytes ----------------------------------------------------------------------------------------------------------


def raw(house: House, data: bytes, *, reads: bool = True) -> bytes:
    with house.visitor().connect() as sock:
        sock.settimeout(60)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: sock.recv(65536), b"")) if reads else b""
        except OSError:
            return b""


def alive(house: House) -> None:
    assert house.visitor().ask("GET", f"{PREFIX}/me", authorization=f"Bearer {house.reader}").status == 200


HOSTILE = {
    "a huge header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "ten thousand headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "a huge address": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "an announced body over the bound": b"POST /api/v1/mounts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
    "a negative length": b"POST /api/v1/mounts HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /api/v1/mounts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "a length and chunks": b"POST /api/v1/mounts HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks without end": b"POST /api/v1/mounts HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + b"10000\r\n" + b"a" * 65536 + b"\r\n",
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "a broken multipart form": b"POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 7\r\n\r\n--x\r\nbad",
    "bytes that are no text": b"GET /\xff\xfe%ff%fe?%ff=%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a cookie of nonsense": b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: monofs_session_1=\xff; ;;=;=\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_get_a_refusal_and_harm_nobody(house, data):
    before = house.node.memory_bytes()
    answer = raw(house, data)
    status = answer.split(b" ")[1:2]
    assert not status or status[0] in (b"303", b"400", b"401", b"403", b"404", b"413", b"414", b"431"), answer[:200]
    assert not SECRETS.search(answer)
    alive(house)
    assert house.node.memory_bytes() < before + (64 << 20)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"path": 1, "uri": 2}',
        b'{"path": "/x"}',
        b'{"path": "/x", "uri": "file:///x", "evil": 1}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
)
def test_a_body_that_is_not_the_one_described_is_said_to_be_so(house, body):
    answer = house.visitor().ask("POST", f"{PREFIX}/mounts", body, authorization=f"Bearer {house.admin}")
    assert answer.status == 400
    assert set(answer.json()) == {"error", "code", "message", "hint", "retry"}
    assert len(answer.body) < 1000


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/workers/%2e%2e",
        "/api/v1/workers/-1",
        "/api/v1/workers/99999999999999999999999",
        "/api/v1/workers/1_0",
        "/api/v1/history?span_s=nan",
        "/api/v1/history?span_s=1e9",
        "/api/v1/history?span_s=5&span_s=",
        "/api/v1/%00",
        "/api/v1/jobs?%ff=1",
        "/api/v1/../../etc/passwd",
        "/api/v1//overview",
        "/api/v1/overview/",
        "/api/v1/jobs/%F0%9F%92%A9",
        "/api/v1/logs/%2e%2e%2fmonofs.log",
        "/static/../console.py",
        "/static/%2e%2e/%2e%2e/etc/passwd",
        "/static//etc/passwd",
        "/static/x/../../../etc/passwd",
    ],
)
def test_a_path_that_leads_nowhere_is_not_found_or_refused(house, path):
    answer = house.visitor().ask("GET", path, authorization=f"Bearer {house.admin}")
    assert answer.status in (400, 404), (answer.status, answer.body[:300])


def test_methods_nobody_serves_are_refused(house):
    admin = {"authorization": f"Bearer {house.admin}"}
    for method, path in (
        ("PUT", "/"),
        ("DELETE", "/journal"),
        ("TRACE", f"{PREFIX}/me"),
        ("POST", f"{PREFIX}/overview"),
        ("FOO", f"{PREFIX}/jobs"),
    ):
        answer = house.visitor().ask(method, path, **admin)
        assert answer.status in (405, 501), (method, path, answer.status)
    answer = house.visitor().ask("HEAD", f"{PREFIX}/overview", **admin)
    assert answer.status == 200
    assert answer.body == b""


def test_many_requests_in_one_write_are_answered_one_by_one(house):
    one = f"GET {PREFIX}/me HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {house.reader}\r\n\r\n".encode()
    with house.visitor().connect() as sock:
        sock.settimeout(60)
        sock.sendall(one * 200)
        answer = b""
        while answer.count(b'"rita"') < 200:
            more = sock.recv(65536)
            assert more, answer[-300:]
            answer += more
    assert answer.count(b"HTTP/1.1 200") == 200


@pytest.mark.parametrize(
    "data", [b"x" * 4000, b"{", b'{"watch": 1}', b'{"watch": "' + b"a" * 40_000 + b'"}', b"\xff\xfe", b"[" * 4000]
)
def test_an_order_that_is_none_ends_the_connection_and_no_other(house, data):
    visitor = house.visitor().sign_in(house.reader)
    good, bad = visitor.watch("now"), visitor.watch()
    bad.send(data)
    while bad.receive() is not None:
        pass
    good.until("now")
    good.close()


def test_a_page_that_reads_nothing_costs_its_buffer_and_no_more(house):
    visitor = house.visitor().sign_in(house.admin)
    stuck = [visitor.watch() for _ in range(8)]
    for page in stuck:
        page.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for name in ("measures", "overview", "logs", "audit", "configuration"):
            page.order(watch=name)
    good = visitor.watch("now")
    before = house.node.memory_bytes()
    for _ in range(400):  # each leaves again and asks for the whole anew: what it does not read must not pile up
        for page in stuck:
            try:
                page.sock.settimeout(0.2)
                page.order(leave="measures")
                page.order(watch="measures")
            except OSError:
                continue
    good.until("now")
    assert house.node.memory_bytes() < before + (48 << 20)
    for page in (*stuck, good):
        page.close()


def test_the_audit_log_names_who_changed_something_by_the_console(house):
    visitor = house.visitor().sign_in(house.admin)
    answer = visitor.change("DELETE", f"{PREFIX}/mounts?path=/nothing")
    assert answer.status == 404, answer.body
    lines = visitor.ask("GET", f"{PREFIX}/logs/audit?words=root").json()
    assert any(line["principal"] == "root" and line["source"] == "/nothing" and not line["succeeded"] for line in lines)
    assert json.dumps(lines)
