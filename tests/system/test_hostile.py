"""A whole node under hostile peers: every door, every method. It answers with typed errors, stays alive, small and quick, and never stumbles.

After every test the same is asked of the node (``unharmed``): it answers, its memory did not grow, nothing in its log speaks of a bug, and no
request was answered with Internal. Seed: TEST_SEED.
"""

from __future__ import annotations

import json
import os
import random
import re
import socket
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import UnionType
from typing import Any

import msgspec
import pytest

from monofs.master.methods import REQUESTS as MASTERS_REQUESTS
from monofs.model.capability import CAPABILITY_MAX_BYTES
from monofs.model.errors import Internal, InvalidArgument
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.frames import HEADER_BYTES, REQUEST_MAX_BYTES, Frame, Kind, decode_error, pack
from monofs.rpc.handshake import ClientHandshake, ClientHello, Credential, encode
from monofs.testing.nodes import ServedNode
from monofs.testing.raw import Raw

pytestmark = pytest.mark.system
SEED = int(os.environ.get("TEST_SEED", random.SystemRandom().randrange(1 << 32)))
MIB = 1 << 20
GROWTH_MAX_BYTES = 200 * MIB
"""Of a node whose bound for what waits for slow readers is 256 MiB, by peers that ask for 60 GB."""
SIZE = 3 * MIB + 5
BYTES = random.Random(1).randbytes(SIZE)
REQUESTS: dict[Method, type[api.Message]] = {
    **dict.fromkeys(Method, api.Empty),
    **MASTERS_REQUESTS,
    Method.READ: api.ReadRequest,
    Method.READ_MANY: api.ReadManyRequest,
    Method.DESCRIPTOR: api.DescriptorRequest,
    Method.FETCH: api.FetchRequest,
    Method.RELEASE: api.ReleaseRequest,
    Method.CACHED: api.CachedRequest,
}
DOORS = ["rpc", "worker", "unix"]


class House:
    """The node under attack, with one mount ``/m`` on a local directory of a few files."""

    def __init__(self, node: ServedNode) -> None:
        self.node = node
        self.doors = {**node.doors, "unix": os.path.join(node.home, "worker.sock")}
        self.secret = Credential.from_file(os.path.join(node.home, "cluster.secret"))
        self.fs = node.connect()
        self.read_log = 0

    def capability(self, path: str = "/m/file") -> bytes:
        """A token that is valid now."""
        return bytes(self.fs._session().ask(Method.OPEN, api.OpenRequest(path), api.OpenAnswer).capability)

    def serious(self) -> list[str]:
        """Lines of the log since the last call that speak of a bug."""
        with open(os.path.join(self.node.home, "monofs.log"), encoding="utf-8") as stream:
            stream.seek(self.read_log)
            lines = stream.readlines()
            self.read_log = stream.tell()
        records = [json.loads(line) for line in lines]
        return [
            line
            for line, record in zip(lines, records, strict=True)
            if record["level"] == "error" or "exception" in record
        ]

    def memory_bytes(self) -> int:
        """Memory of the node's own now: pages of cached files mapped to be sent belong to the kernel."""
        assert self.node.process is not None
        with open(f"/proc/{self.node.process.pid}/status") as stream:
            found = re.search(r"RssAnon:\s+(\d+) kB", stream.read())
        assert found is not None
        return int(found[1]) << 10

    def settle(self) -> None:
        """Wait for a quiet node."""
        for _ in range(20):
            self.fs.ping()


@contextmanager
def open_house(directory: Path) -> Iterator[House]:
    (directory / "store").mkdir()
    (directory / "store" / "file").write_bytes(BYTES)
    (directory / "store" / "uncached").write_bytes(BYTES)
    (directory / "store" / "empty").write_bytes(b"")
    with ServedNode(str(directory / "home"), sets=["worker.quota=64MiB"]) as node:
        house = House(node)
        house.fs.mount_add("/m", f"file://{directory}/store", {})
        assert len(house.fs.read("/m/file")) == SIZE
        yield house
        house.fs.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with open_house(tmp_path_factory.mktemp("hostile")) as house:
        yield house


@pytest.fixture(autouse=True)
def unharmed(house: House) -> Iterator[None]:
    print(f"seed {SEED}: TEST_SEED={SEED} repeats it")
    house.settle()
    before = house.memory_bytes()
    yield
    check_unharmed(house, before)
    assert house.fs.read("/m/file", SIZE - 5) == BYTES[-5:]


def check_unharmed(house: House, before: int) -> None:
    """Alive, small, and without a bug."""
    house.fs.ping()
    assert house.node.process is not None
    assert house.node.process.poll() is None, house.node.output()
    grown = house.memory_bytes() - before
    assert grown < GROWTH_MAX_BYTES, f"grew by {grown >> 20} MiB"
    assert not house.serious()
    counters = next(iter(house.fs.worker_status().values())).counters
    internal = [name for name in counters if f"code={Internal.code}" in name or f'"{Internal.code}"' in name]
    assert not internal
    assert "Traceback" not in house.node.output()


# ---- before the handshake ---------------------------------------------------------------------------------------------

HELLO = pack(Kind.HELLO, 0, 0, ClientHandshake(Credential()).begin())


@pytest.mark.parametrize("door", DOORS)
def test_random_bytes_huge_lengths_and_broken_hellos_are_told_and_closed(house: House, door: str) -> None:
    chance = random.Random(SEED)
    throws = [chance.randbytes(chance.randrange(1, 5000)) for _ in range(30)]
    throws += [length.to_bytes(4, "big") + b"\0" * 40 for length in (0, 19, 1 << 20, (1 << 31) - 1, (1 << 32) - 1)]
    throws += [HELLO[:4] + bytes([kind]) + HELLO[5:] for kind in range(1, 8)]
    throws += [pack(Kind.HELLO, 0, 0, chance.randbytes(chance.randrange(0, 4096))) for _ in range(20)]
    throws += [pack(Kind.HELLO, 0, 0, b"\x91" * 4000), pack(Kind.HELLO, 0, 0, b"\xdd\xff\xff\xff\xff")]
    for oldest, newest in ((2, 9), (0, 0), (-5, -1), (9, 2), (1 << 63, 1 << 63)):
        hello = ClientHello("monofs", oldest, newest, "x" * 3000, "anonymous", b"n" * 32)
        throws.append(pack(Kind.HELLO, 0, 0, encode(hello)))
    for credential, nonce in (("token", b"n" * 32), ("anonymous", b""), ("", b"n" * 32), ("secret", b"n" * 31)):
        throws.append(pack(Kind.HELLO, 0, 0, encode(ClientHello("monofs", 1, 1, "r", credential, nonce))))
    throws.append(pack(Kind.REQUEST, Method.PING, 1, b"\x90"))
    for data in throws:
        with Raw(house.doors[door]) as peer:
            try:
                peer.send(data)
                peer.sock.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # it was told and closed while we spoke
            assert peer.is_over()


@pytest.mark.parametrize("door", DOORS)
def test_a_wrong_secret_is_turned_away_and_proofs_cannot_be_replayed(house: House, door: str) -> None:
    with Raw(house.doors[door]) as peer:
        shaking = ClientHandshake(Credential(b"w" * 32))
        peer.send(pack(Kind.HELLO, 0, 0, shaking.begin()))
        for answer in shaking.receive(peer.frame().body):
            peer.send(pack(Kind.HELLO, 0, 0, answer))
        assert decode_error(peer.frame().body).code == 2004
    shaking = ClientHandshake(house.secret)
    begin = pack(Kind.HELLO, 0, 0, shaking.begin())
    with Raw(house.doors[door]) as peer:
        peer.send(begin)
        proofs = [pack(Kind.HELLO, 0, 0, answer) for answer in shaking.receive(peer.frame().body)]
        peer.send(b"".join(proofs))
        assert peer.frame().kind == Kind.HELLO
    with Raw(house.doors[door]) as peer:
        peer.send(begin + b"".join(proofs))
        peer.frame()
        assert decode_error(peer.frame().body).code == 2004


def test_two_thousand_idle_connections_and_slow_lorises_leave_room_for_others(house: House) -> None:
    """All of one address, half of them in the middle of a header; they are closed when the handshake's time is over."""
    with ExitStack() as stack:
        peers = [stack.enter_context(Raw(house.doors[DOORS[i % 3]])) for i in range(2000)]
        for number, peer in enumerate(peers):
            if number % 4 == 1:
                peer.send(HELLO[: number % HEADER_BYTES])
            elif number % 4 == 2:
                peer.send(HELLO[:-1])
            elif number % 4 == 3:
                peer.open()
        assert house.fs.stat("/m/file").size == SIZE
        assert house.memory_bytes() < 400 * MIB
        for number, peer in enumerate(peers):
            if number % 4 == 3:
                peer.send(pack(Kind.REQUEST, Method.PING, 7, b"\x90"))
                assert peer.final().kind == Kind.ANSWER
            elif number % 4 == 1:
                assert peer.is_over()


# ---- after it ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("door", DOORS)
def test_half_frames_unknown_methods_and_frames_of_servers(house: House, door: str) -> None:
    request = pack(Kind.REQUEST, Method.PING, 1, b"\x90")
    for cut in range(1, len(request)):
        with Raw(house.doors[door]) as peer:
            peer.open().send(request[:cut])
    with Raw(house.doors[door]) as peer:
        peer.open()
        for method in (0, 2, 9, 59, 99, 999, 65535):
            error = decode_error(peer.ask(method, b"\x90").body)
            assert error.code == 2005
        assert peer.ask(Method.PING, b"\x90").kind == Kind.ANSWER
    for kind in (Kind.HELLO, Kind.ANSWER, Kind.ERROR, Kind.ITEM, Kind.DATA):
        with Raw(house.doors[door]) as peer:
            peer.open().send(pack(kind, Method.PING, 1, b"\x90"))
            assert peer.is_over()
    with Raw(house.doors[door]) as peer:
        peer.open().send((REQUEST_MAX_BYTES + 21).to_bytes(4, "big") + b"\1")
        assert decode_error(peer.frame().body).code == 2002


BODIES: list[bytes] = [
    b"",
    b"\x90",
    b"\xc1",
    b"\x91" * 100_000,
    b"\x81\xa1a" * 100_000,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdc\xff\xff" + b"\xc0" * 65535,
    msgspec.msgpack.encode([[]] * 100_000),
    msgspec.msgpack.encode({"a": 1}),
    msgspec.msgpack.encode([None] * 12),
    msgspec.msgpack.encode(["/"] * 12),
    msgspec.msgpack.encode([-1] * 12),
    msgspec.msgpack.encode([(1 << 64) - 1] * 12),
    msgspec.msgpack.encode(["x" * 900_000]),
    msgspec.msgpack.encode([b"x" * 900_000] * 1),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("trusted", [False, True], ids=["anonymous", "node"])
def test_every_method_answers_any_body_with_one_typed_final_frame(house: House, door: str, trusted: bool) -> None:
    chance = random.Random(f"{SEED} {door} {trusted}")
    credential = house.secret if trusted else None
    with Raw(house.doors[door]) as peer:
        peer.open(credential)
        for method in Method:
            if method in (Method.VERIFY, Method.FSCK):
                continue  # they take any body for Empty; asked for once elsewhere
            bodies = BODIES + [chance.randbytes(chance.randrange(1, 300)) for _ in range(20)]
            for body in bodies:
                frame = peer.ask(method, body, deadline_ms=5000)
                check(frame, method, body)


def check(frame: Frame, method: int, body: bytes | Any) -> int:
    """The final frame is no Internal; returns its error code, 0 for an answer."""
    if frame.kind == Kind.ANSWER:
        return 0
    error = decode_error(frame.body)
    assert error.code != Internal.code, f"{method}: {error} for {body[:200]!r}"
    assert "Traceback" not in str(error)
    return int(error.code)


PATHS = [
    "", "/", "//", "m", "/m/file", "/m/empty", "/m/", "/m//file", "/m/../m", "/m/.", "/\0", "/m/fi\0le", "/nothing/there",
    "/m/file/below", "/" + "x" * 255, "/" + "x" * 256, "/m/" + "x" * 256, "/" + "a/" * 2047, "/" + "a/" * 5000, "/m/" + "é" * 127,
    "/\n", "/m/\x1b[31m", "/m/%2e%2e/", "/m/" + "b" * 4000, "/m/.monofs-tmp-1", "/\udfff".encode("utf-8", "surrogatepass").decode("latin-1"),
]  # fmt: skip
TEXTS = [*PATHS, "file://", "file:///", "file://host/x", "s3://", "s3:///k", "gopher://x", "x" * 100_000, "ONCE", "NEVER",
         "ALWAYS", "CACHE", "NO_CACHE", "CACHE_PROMOTE", "127.0.0.1:1"]  # fmt: skip
INTS = [
    0,
    1,
    -1,
    2,
    63,
    64,
    0o777,
    1000,
    10**9,
    1 << 31,
    (1 << 48) - 1,
    1 << 48,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
    -(1 << 63),
]
FLOATS = [0.0, -1.0, 0.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"), 1 << 63, -(1 << 63)]


class Evil:
    """Values of the right type and the wrong mind."""

    def __init__(self, house: House, chance: random.Random) -> None:
        self.chance = chance
        token = house.capability()
        self.tokens = [
            token, token[:-1], token[1:], token + b"\0", token[:32], b"", bytes([token[0] ^ 1]) + token[1:],
            token[:40] + bytes([token[40] ^ 0x80]) + token[41:], b"\0" * 32 + token[32:], b"x" * CAPABILITY_MAX_BYTES,
            b"x" * 500_000, b"\0" * 32 + b"\x91" * 4000, b"\0" * 32 + b"\xdd\xff\xff\xff\xff",
        ]  # fmt: skip

    def message(self, kind: type[Any]) -> Any:
        """A request with evil fields; most of them at once default, so that the others are reached."""
        values: dict[str, Any] = {}
        for field in msgspec.structs.fields(kind):
            if field.required or self.chance.random() < 0.4:
                values[field.name] = self.value(field.name, field.type)
        return kind(**values)

    def value(self, name: str, kind: Any) -> Any:
        """By annotated type, and by name where that says more."""
        choice = self.chance.choice
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (UnionType, typing.Union):
            return (
                None
                if self.chance.random() < 0.2
                else self.value(name, choice([a for a in arguments if a is not type(None)]))
            )
        if origin in (list, tuple):
            return self.sequence(name, origin, arguments)
        if origin is dict:
            size = choice([0, 1, 3, 1000])
            return {self.value("", arguments[0]): self.value("", arguments[1]) for _ in range(size)}
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.message(kind)
        if kind is bytes:
            if name.startswith("capabilit"):
                return self.tokens[0] if self.chance.random() < 0.6 else choice(self.tokens)
            return choice([b"", b"x", b"i" * 16, b"\xff" * 257, b"c" * 600, self.chance.randbytes(16), b"z" * 300_000])
        if name in ("path", "source", "target", "paths"):
            return choice(PATHS)
        return {
            str: lambda: choice(TEXTS),
            int: lambda: choice(INTS),
            float: lambda: choice(FLOATS),
            bool: lambda: choice([True, False]),
        }[kind]()

    def sequence(self, name: str, origin: Any, arguments: tuple[Any, ...]) -> Any:
        """Short, long, or far too long; elements repeat in the long ones."""
        if origin is tuple:
            return tuple(self.value(name, each) for each in arguments)
        few = [self.value(name, arguments[0]) for _ in range(self.chance.choice([0, 1, 2, 30]))]
        return few * self.chance.choice([1, 1, 1, 100, 3000]) if self.chance.random() < 0.3 else few


ENDING = (Method.VERIFY, Method.FSCK, Method.MOUNT_REMOVE)
TAKING = (Method.DELETE, Method.RENAME, Method.REMOVE_TREE, Method.BEGIN_WRITE, Method.SET_TTL)
"""These may lawfully take away the files the others are about."""


def torment(house: House, door: str, evil: Evil, methods: Sequence[Method], *, trusted: bool) -> dict[int, int]:
    """Ask with values no good client sends; how often each code was the answer."""
    codes: dict[int, int] = {}
    with Raw(house.doors[door]) as peer:
        peer.open(house.secret if trusted else None)
        for method in methods:
            for _ in range(4 if REQUESTS[method] is api.Empty else 60):
                body = msgspec.msgpack.encode(evil.message(REQUESTS[method]))
                if len(body) <= MIB:
                    code = check(peer.ask(method, body, deadline_ms=3000), method, body)
                    codes[code] = codes.get(code, 0) + 1
    return codes


@pytest.mark.parametrize("trusted", [False, True], ids=["anonymous", "node"])
def test_well_formed_requests_of_evil_values_end_in_typed_errors(tmp_path: Path, trusted: bool) -> None:
    """On a node of its own: some evil requests are lawful, and a holder of the secret may send the readers astray."""
    with open_house(tmp_path) as house:
        before = house.memory_bytes()
        for door in DOORS:
            evil = Evil(house, random.Random(f"{SEED} evil {door} {trusted}"))
            methods = [method for method in REQUESTS if method not in (*ENDING, *TAKING)]
            codes = torment(house, door, evil, methods, trusted=trusted)
            assert codes[0] > 20
            assert len(codes) > 3
        torment(house, DOORS[0], evil, TAKING, trusted=trusted)
        check_unharmed(house, before)
        done = house.node.cli("admin", "fsck")
        assert done.returncode == 0, done.stdout
        house.node.kill()
        house.node.start()  # what was journaled can be applied again
        with house.node.connect() as fs:
            assert not any(fs.fsck().checks.values())


@pytest.mark.parametrize("door", ["worker", "unix"])
def test_reads_of_impossible_ranges_are_refused_or_empty(house: House, door: str) -> None:
    token = house.capability()
    code: Callable[[Method, api.Message], int]
    with Raw(house.doors[door]) as peer:
        peer.open()

        def code(method: Method, message: api.Message) -> int:
            body = msgspec.msgpack.encode(message)
            return check(peer.ask(method, body), method, body)

        invalid = InvalidArgument.code
        assert code(Method.READ, api.ReadRequest(token, 1 << 63, 10)) == 0
        assert code(Method.READ, api.ReadRequest(token, (1 << 64) - 1, (1 << 64) - 1)) == 0
        assert code(Method.READ, api.ReadRequest(token, -1, 10)) == invalid
        assert code(Method.READ, api.ReadRequest(token, 0, -10)) == invalid
        assert code(Method.READ, api.ReadRequest(token, 0, 10, "BOTH")) == invalid
        assert code(Method.READ_MANY, api.ReadManyRequest([token], [(0, 0, 1)] * 150_000)) == invalid
        assert code(Method.READ_MANY, api.ReadManyRequest([token], [(1, 0, 1)])) == invalid
        assert code(Method.READ_MANY, api.ReadManyRequest([token], [(-1, 0, 1)])) == invalid
        assert code(Method.READ_MANY, api.ReadManyRequest([token], [(0, 0, 17 * MIB)])) == invalid
        assert code(Method.READ_MANY, api.ReadManyRequest([token], [(0, 1 << 63, 16 * MIB)])) == 0
        assert code(Method.READ_MANY, api.ReadManyRequest([], [])) == 0
        assert code(Method.FETCH, api.FetchRequest(token, 0, (1 << 64) - 1, (1 << 63) - 1)) == 0
        assert code(Method.FETCH, api.FetchRequest(token, 0, -1)) == invalid
        assert code(Method.FETCH, api.FetchRequest(token, 1, 1)) == invalid
        assert code(Method.FETCH, api.FetchRequest(token, -1, 1)) == invalid
        over = msgspec.msgpack.encode([token, 0]) + b"\xcf" + b"\xff" * 8 + b"\xff"  # bytes after the array
        assert check(peer.ask(Method.FETCH, over), Method.FETCH, over) == invalid
        assert code(Method.CACHED, api.CachedRequest([1 << 63] * 20_000)) == invalid
        assert code(Method.CACHED, api.CachedRequest([0, -1, (1 << 64) - 1])) == 0
        assert code(Method.RELEASE, api.ReleaseRequest([-1, 0, 1 << 63] * 1000)) == 0
    with Raw(house.doors["rpc"]) as peer:
        peer.open()
        for limit in (0, -1, 10**9, 1 << 63):
            assert code(Method.LIST, api.ListRequest("/m", b"", limit)) == invalid
        for after in (b"\xff" * 257, b"\0", b"/", b"file/" * 50):
            assert code(Method.LIST, api.ListRequest("/m", after, 10)) == 0
        assert code(Method.LIST, api.ListRequest("/m", b"a" * 258, 10)) == invalid
        assert code(Method.STAT_MANY, api.StatManyRequest(["/m/file"] * 1001)) == invalid


def test_anonymous_peers_get_neither_keys_nor_secrets(house: House) -> None:
    with Raw(house.doors["rpc"]) as peer:
        peer.open()
        register = api.RegisterRequest(b"i" * 16, "127.0.0.1:1", "", "", 1, 1, 0)
        for method, message in (
            (Method.REGISTER, register),
            (Method.HEARTBEAT, api.HeartbeatRequest(1, 0, 0, 0, 0)),
        ):
            assert decode_error(peer.ask(method, msgspec.msgpack.encode(message)).body).code == 3006


@pytest.mark.parametrize("door", ["worker", "unix"])
@pytest.mark.parametrize("cache", ["CACHE", "NO_CACHE"])
def test_clients_that_never_read_their_answers_cost_a_bounded_queue(house: House, door: str, cache: str) -> None:
    """Ten of them, each asking for gigabytes, cached or straight from the store."""
    path = "/m/file" if cache == "CACHE" else "/m/uncached"
    body = msgspec.msgpack.encode(api.ReadRequest(house.capability(path), 0, SIZE, cache))
    with ExitStack() as stack:
        before = house.memory_bytes()
        for _ in range(10):
            peer = stack.enter_context(Raw(house.doors[door])).open()
            peer.sock.settimeout(0.2)
            with suppress(TimeoutError):
                for number in range(1, 2000):
                    peer.send(pack(Kind.REQUEST, Method.READ, number, body))
        house.settle()
        assert house.memory_bytes() - before < GROWTH_MAX_BYTES
        assert house.fs.read("/m/file", 0, 10) == BYTES[:10]


def test_a_client_that_never_reads_listings_costs_a_bounded_queue(house: House) -> None:
    with ExitStack() as stack:
        for _ in range(8):
            peer = stack.enter_context(Raw(house.doors["rpc"])).open()
            peer.sock.settimeout(0.2)
            body = msgspec.msgpack.encode(api.StatManyRequest(["/m/file"] * 1000))
            with suppress(TimeoutError):
                for number in range(1, 200):
                    peer.send(pack(Kind.REQUEST, Method.STAT_MANY, number, body))
        house.settle()


# ---- the console ------------------------------------------------------------------------------------------------------


def http(house: House, data: bytes, *, wait_s: float = 10.0) -> bytes:
    """Send bytes to the console; everything that comes back until it closes or is silent for a while."""
    host, _, port = house.doors["console"].removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), wait_s) as sock:
        answer = b""
        with suppress(OSError):  # it may close while we still speak
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while piece := sock.recv(1 << 16):
                answer += piece
        return answer


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"(?:^|\n|\})HTTP/1\.[01] (\d{3})", answer)]


def test_the_console_gives_only_what_it_has(house: House) -> None:
    assert statuses(http(house, b"GET /health HTTP/1.0\r\n\r\n")) == [200]
    for path in (b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/metrics/../../cluster.secret", b"/cluster.secret", b"//",
                 b"/\x00", b"/" + b"a/" * 5000, b"/health/x", b"*", b"http://127.0.0.1:1/x"):  # fmt: skip
        answer = http(house, b"GET " + path + b" HTTP/1.0\r\n\r\n")
        assert (
            200 not in statuses(answer)
            or b"/metrics  Prometheus" in answer
            or b"# HELP" in answer
            or b'"ready"' in answer
        ), (path, answer[:200])
        assert b"root:" not in answer
        assert house.secret.secret not in answer
    for method in (b"POST", b"PUT", b"DELETE", b"CONNECT", b"TRACE", b"OPTIONS", b"BREW", b"\xff"):
        for path in (b"/", b"/metrics", b"/health", b"/none"):
            answer = http(
                house, method + b" " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            assert all(code >= 400 for code in statuses(answer)), (method, path, answer[:200])


def test_the_console_survives_smuggling_and_junk(house: House) -> None:
    chance = random.Random(SEED)
    get = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    for junk in (
        get + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled,
        get + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n" + smuggled,
        get + b"Content-Length: +5\r\n\r\n" + smuggled,
        get + b"Content-Length: -5\r\n\r\n" + smuggled,
        get + b"Transfer-Encoding: xchunked\r\n\r\n" + smuggled,
        get + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n" + smuggled,
        get + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + smuggled,
        get + b" folded: x\r\n\r\n" + smuggled,
        get + b"X\0Y: z\r\n\r\n" + smuggled,
    ):
        answer = http(house, junk)
        assert len(statuses(answer)) <= 1, (junk, answer[:500])
    for _ in range(50):
        http(house, chance.randbytes(chance.randrange(1, 3000)))
    http(house, b"GET / HTTP/9.9\r\n\r\n")
    http(house, b"\r\n" * 10_000)
    http(house, b"GET /" + b"x" * MIB + b" HTTP/1.1\r\n\r\n")
    http(house, b"GET / HTTP/1.1\r\nX: " + b"x" * MIB + b"\r\n\r\n")
    http(house, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200_000 + b"\r\n")


def test_the_console_takes_no_bodies_and_bounds_pipelines(house: House) -> None:
    answer = http(
        house, b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 209715200\r\n\r\n" + b"x" * (200 * MIB), wait_s=30
    )
    assert all(code >= 400 for code in statuses(answer))
    assert http(house, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2000, wait_s=30).count(b'"ready"') <= 2000


def test_slow_headers_at_the_console_leave_room_for_others(house: House) -> None:
    host, _, port = house.doors["console"].removeprefix("http://").rpartition(":")
    with ExitStack() as stack:
        for number in range(300):
            sock = stack.enter_context(socket.create_connection((host, int(port)), 10))
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "[: 1 + number % 40])
        assert statuses(http(house, b"GET /health HTTP/1.0\r\n\r\n")) == [200]
