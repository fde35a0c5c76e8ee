"""PUTs that come to nothing leave nothing: no file, no room promised, no intent, no descriptor, no unfinished upload."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSRequest
from s3_endpoints import UNSIGNED, Endpoint, Signer, path_of, refused
from s3_world import new_key

from monofs.testing.nodes import ServedNode

pytestmark = pytest.mark.system
MIB = 1 << 20
QUOTA = 64 * MIB


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, warm: None) -> Iterator[ServedNode]:
    """One whose cache is small."""
    with ServedNode(str(tmp_path_factory.mktemp("broken") / "home"), sets=[f"worker.quota={QUOTA}"]) as node:
        yield node


@pytest.fixture(scope="module")
def at(node: ServedNode) -> Endpoint:
    return Endpoint("monofs", node.doors["s3"], *new_key(node, "broken"))


@pytest.fixture(params=["under no mount", "below a mount"])
def bucket(request: pytest.FixtureRequest, node: ServedNode, at: Endpoint, tmp_path: Path) -> Iterator[str]:
    if request.param == "under no mount":
        yield at.make_bucket()
        return
    name = at.new_name()
    with node.connect() as fs:
        fs.mount_add(f"/{name}", f"file://{tmp_path}")
        yield name
        assert not [each for each in os.listdir(tmp_path) if each.startswith(".monofs-")]
        fs.mount_remove(f"/{name}")


def held(node: ServedNode) -> dict[str, Any]:
    """What a PUT takes and has to give back."""
    with node.connect() as fs:
        (status,) = fs.worker_status().values()
        return {
            "used": sum(tier.used_bytes for tier in status.tiers),
            "intents": [each.path for each in fs.intents()],
            "files": sum(
                name.endswith("files") or "/files/" in name
                for name in (os.path.join(top, each) for top, _, names in os.walk(node.home) for each in names)
            ),
        }


def sockets_of(node: ServedNode, door: str) -> int:
    """Connections that are open at the door."""
    assert node.process is not None
    port = urlsplit(door).port
    with open(f"/proc/{node.process.pid}/net/tcp") as file:
        lines = [line.split() for line in file.readlines()[1:]]
    return sum(line[1].endswith(f":{port:04X}") and line[3] in ("01", "08") for line in lines)


def until(condition: Callable[[], object], what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


def begin_put(at: Endpoint, target: str, size: int, *more: str) -> socket.socket:
    """The head of a PUT of so many bytes, with ``more`` lines."""
    request = AWSRequest(method="PUT", url=at.url + target, headers={})
    Signer(at.access_key, at.secret_key, UNSIGNED, datetime.now(UTC)).add_auth(request)
    lines = [f"PUT {target} HTTP/1.1", f"Host: {urlsplit(at.url).netloc}", f"Content-Length: {size}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()] + list(more)
    where = urlsplit(at.url)
    link = socket.create_connection((where.hostname, where.port), timeout=60)
    link.sendall("\r\n".join([*lines, "", ""]).encode())
    return link


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(node: ServedNode, at: Endpoint, bucket: str) -> None:
    before, connections = held(node), sockets_of(node, at.url)
    links = [begin_put(at, path_of(bucket, f"gone-{number}"), size) for number, size in enumerate((1000, 20 * MIB))]
    links[0].sendall(b"x" * 500)
    links[1].sendall(b"x" * 12 * MIB)
    until(lambda: f"/{bucket}/gone-1" in held(node)["intents"], lambda: held(node))
    for link in links:
        link.close()
    until(lambda: held(node) == before, lambda: (held(node), before))
    until(lambda: sockets_of(node, at.url) <= connections, lambda: sockets_of(node, at.url))
    assert [refused(at.client.head_object, Bucket=bucket, Key=f"gone-{number}")[0] for number in (0, 1)] == [404, 404]


@pytest.mark.parametrize("size", [MIB // 2, 20 * MIB])
def test_a_body_that_is_not_what_was_said_leaves_nothing(
    node: ServedNode, at: Endpoint, bucket: str, size: int
) -> None:
    before = held(node)
    answer = at.raw(
        "PUT", path_of(bucket, "wrong"), body=b"x" * size, headers={"content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
    )
    assert answer.told == (400, "BadDigest")
    until(lambda: held(node) == before, lambda: (held(node), before))
    assert refused(at.client.head_object, Bucket=bucket, Key="wrong")[0] == 404


def test_a_put_for_which_the_cache_has_no_room_is_refused_and_gives_back_what_it_took(
    node: ServedNode, at: Endpoint
) -> None:
    bucket = at.make_bucket()
    before = held(node)
    for _ in range(3):
        answer = at.raw("PUT", path_of(bucket, "large"), body=bytes(QUOTA + 8 * MIB), payload=UNSIGNED)
        assert answer.told == (507, "InsufficientStorage")
        until(lambda: held(node) == before, lambda: (held(node), before))
    assert at.client.put_object(Bucket=bucket, Key="small", Body=b"fits")["ETag"]
    at.client.delete_object(Bucket=bucket, Key="small")
    until(lambda: held(node) == before, lambda: (held(node), before))


def test_a_put_below_a_mount_without_room_in_the_cache_is_in_its_store_all_the_same(
    node: ServedNode, at: Endpoint, tmp_path: Path
) -> None:
    name = at.new_name()
    body = os.urandom(QUOTA + 8 * MIB)
    with node.connect() as fs:
        fs.mount_add(f"/{name}", f"file://{tmp_path}")
        assert at.raw("PUT", path_of(name, "large"), body=body, payload=UNSIGNED).status == 200
        assert (tmp_path / "large").read_bytes() == body
        until(lambda: not held(node)["intents"], lambda: held(node))
        fs.mount_remove(f"/{name}")


def test_a_put_does_not_bring_back_the_bucket_it_was_for(at: Endpoint) -> None:
    bucket = at.make_bucket()
    link = begin_put(at, path_of(bucket, "late"), MIB, "Expect: 100-continue")
    assert link.recv(1 << 16).startswith(b"HTTP/1.1 100 ")  # it was looked for by now
    at.client.delete_bucket(Bucket=bucket)
    link.sendall(bytes(MIB))
    answer = link.recv(1 << 16)
    link.close()
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert refused(at.client.head_bucket, Bucket=bucket)[0] == 404


def test_a_request_right_behind_a_large_body_is_answered(at: Endpoint) -> None:
    bucket, body = at.make_bucket(), os.urandom(3 * MIB + 1)
    link = begin_put(at, path_of(bucket, "large"), len(body))
    link.sendall(body + b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    answers = b""
    while piece := link.recv(1 << 16):
        answers += piece
    link.close()
    assert answers.startswith(b"HTTP/1.1 200 ")
    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert b"<ListAllMyBucketsResult" in answers
    assert at.client.get_object(Bucket=bucket, Key="large")["Body"].read() == body


def test_descriptors_do_not_pile_up(node: ServedNode, at: Endpoint) -> None:
    """All the PUTs above, and these."""
    bucket = at.make_bucket()
    assert node.process is not None
    fds = f"/proc/{node.process.pid}/fd"
    at.client.put_object(Bucket=bucket, Key="k", Body=b"first")
    before = len(os.listdir(fds))
    for _ in range(30):
        link = begin_put(at, path_of(bucket, "k"), 10 * MIB)
        link.sendall(b"x" * 9 * MIB)
        link.close()
    until(
        lambda: len(os.listdir(fds)) <= before + 5, lambda: sorted(os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds))
    )
    until(lambda: not held(node)["intents"], lambda: held(node))
    assert at.client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"first"
