"""The console over TLS: https and wss with a certificate that may be renewed, a cookie that never travels in clear, and no door to the world without both TLS and sign-in."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from monofs.testing.certificates import Authority
from monofs.testing.nodes import NodeFailed, ServedNode
from monofs.testing.visitors import Visitor
from monofs.web.routes import PREFIX


class House:
    """One node under TLS that asks everybody for a token."""

    def __init__(self, node: ServedNode, authority: Authority) -> None:
        self.node, self.authority = node, authority
        self.base: str = node.doors["console"]

    def visitor(self) -> Visitor:
        return Visitor(self.base, ca=self.authority.ca)

    def token(self, name: str) -> str:
        words = ["--cluster-secret-file", f"{self.node.home}/cluster.secret", "--tls-ca", self.authority.ca]
        done = self.node.cli(*words, "token", "add", name, "--rights", "read,admin")
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[0]

    def certificate(self) -> bytes:
        visitor = self.visitor()
        with visitor.connect() as sock:
            shown = sock.getpeercert(binary_form=True)  # type: ignore[attr-defined]
            assert shown
            return bytes(shown)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(str(directory))
    files = authority.issue("node", "127.0.0.1", "localhost")
    sets = [
        "security.authentication=required", f"security.tls_certificate={files.certificate}", f"security.tls_key={files.key}",
        f"security.tls_ca={authority.ca}",
    ]  # fmt: skip
    with ServedNode(str(directory / "home"), sets=sets) as node:
        yield House(node, authority)


@pytest.fixture(scope="module")
def token(house: House) -> str:
    return house.token("ann")


def test_pages_the_api_and_the_socket_speak_tls_and_the_cookie_never_leaves_it(house, token):
    assert house.base.startswith("https://127.0.0.1:")
    visitor = house.visitor()
    (cookie,) = visitor._post_token(token).cookies
    assert "secure" in [each.strip().lower() for each in cookie.split(";")]
    visitor.sign_in(token)
    assert visitor.ask("GET", f"{PREFIX}/me").json()["name"] == "ann"
    page = visitor.watch("overview", "measures")
    assert page.until("overview")["cluster"]["leads"]
    page.close()
    answer = visitor.ask("GET", f"{PREFIX}/backup")
    assert answer.status == 200
    assert len(answer.body) == int(answer.headers["content-length"]) > 100_000


def test_a_page_that_claims_to_be_of_the_same_host_in_clear_gets_no_socket(house, token):
    visitor = house.visitor().sign_in(token)
    with pytest.raises(ConnectionRefusedError):
        visitor.watch("now", origin=house.base.replace("https", "http"))


def test_who_speaks_in_clear_is_told_so_and_nothing_else(house):
    visitor = house.visitor()
    with socket.create_connection((visitor.host, visitor.port), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"https" in answer
    assert b"<" not in answer


def test_an_old_protocol_and_broken_records_are_refused_and_harm_nobody(house):
    visitor = house.visitor()
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(house.authority.ca)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((visitor.host, visitor.port), 10) as sock, pytest.raises(ssl.SSLError):
        old.wrap_socket(sock, server_hostname=visitor.host)
    for data in (
        b"\x16",
        b"\x16\x03\x01\x00\x02\x01\x00",
        b"\x16" + bytes(70_000),
        b"\x16\x03\x01\xff\xff" + b"a" * 100,
    ):
        with socket.create_connection((visitor.host, visitor.port), 10) as sock:
            sock.sendall(data)
    assert visitor.ask("GET", "/live").status == 200


def test_a_certificate_that_was_renewed_is_shown_to_the_next_connection(house, token):
    before = house.certificate()
    page = house.visitor().sign_in(token).watch("now")
    page.until("now")
    house.authority.issue("node", "127.0.0.1", "localhost")
    assert house.certificate() != before
    page.until("now")
    page.close()


def test_a_console_on_other_addresses_needs_tls_and_sign_in(tmp_path: Path):
    authority = Authority(str(tmp_path))
    files = authority.issue("node", "127.0.0.1", "localhost")
    tls = [
        f"security.tls_certificate={files.certificate}",
        f"security.tls_key={files.key}",
        f"security.tls_ca={authority.ca}",
    ]
    required = "security.authentication=required"
    for number, (sets, missing) in enumerate(
        (
            ([], "security.authentication=required, and security.tls_certificate"),
            ([required], "needs security.tls_certificate"),
            (tls, "needs security.authentication=required:"),
        )
    ):
        node = ServedNode(str(tmp_path / f"home{number}"), sets=["console.host=0.0.0.0", *sets])
        with pytest.raises(NodeFailed) as caught:
            node.start()
        assert missing in str(caught.value)
        assert "console.host=127.0.0.1" in str(caught.value)
    for number, sets in enumerate(([required, *tls], ["security.insecure=true"]), start=10):
        with ServedNode(str(tmp_path / f"home{number}"), sets=["console.host=0.0.0.0", *sets]) as node:
            base = node.doors["console"].replace("0.0.0.0", "127.0.0.1")
            assert Visitor(base, ca=authority.ca if sets[0] == required else "").ask("GET", "/live").status == 200
