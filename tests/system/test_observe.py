"""What an operator sees of a real node: from an error to the store's request, metrics cold and warm, logs without noise."""

import json
import re
import urllib.request

import boto3
import pytest
from prometheus_client.parser import text_string_to_metric_families

from monofs.model.errors import UfsDenied, UfsThrottled
from monofs.testing.moto import Moto, missing
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = [pytest.mark.system, pytest.mark.skipif(missing() is not None, reason=str(missing()))]
SIZE = 3_000_000
KEYS = {"access_key": "testing", "secret_key": "very-secret-indeed", "region": "us-east-1"}


class World:
    """A node with ``/s`` on a bucket of five files behind a proxy."""

    def __init__(self, node, proxy):
        self.node, self.proxy, self.fs = node, proxy, node.connect()
        self.fs.mount_add("/s", "s3://bucket", KEYS | {"endpoint": proxy.endpoint})

    def metrics(self):
        """Sample name and labels → value."""
        with urllib.request.urlopen(self.node.doors["console"] + "/metrics") as answer:
            families = text_string_to_metric_families(answer.read().decode())
        return {(s.name, tuple(sorted(s.labels.items()))): s.value for each in families for s in each.samples}

    def total(self, name, **labels):
        wanted = set(labels.items())
        return sum(value for (each, has), value in self.metrics().items() if each == name and wanted <= set(has))

    def log(self, name="monofs.log"):
        with open(f"{self.node.home}/{name}") as stream:
            return [json.loads(line) for line in stream]

    def of(self, trace):
        return [line for line in self.log() if line.get("trace") == trace]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with Moto() as moto, StoreProxy(moto.endpoint) as proxy:
        s3 = boto3.client(
            "s3",
            endpoint_url=moto.endpoint,
            aws_access_key_id="testing",
            aws_secret_access_key="x",
            region_name="us-east-1",
        )
        s3.create_bucket(Bucket="bucket")
        for name in ("a", "b", "bad"):
            s3.put_object(Bucket="bucket", Key=name, Body=name.encode() * (SIZE // len(name)))
        with ServedNode(str(tmp_path_factory.mktemp("observed") / "home"), sets=["worker.store_timeout_s=5"]) as node:
            made = World(node, proxy)
            yield made
            made.fs.close()


@pytest.fixture(autouse=True)
def whole_store(world):
    yield
    world.proxy.clear()


def test_an_error_of_a_read_leads_to_the_fetch_and_to_what_the_store_said(world):
    world.proxy.add(Fault(kind="get", key=b"bad", status=503, code="SlowDown"))
    with pytest.raises(UfsThrottled) as caught:
        world.fs.read("/s/bad")
    trace = caught.value.detail["trace"]
    assert f"(request id {trace})" in str(caught.value)
    lines = {line["event"]: line for line in world.of(trace)}
    assert lines["request failed"].items() >= {"code": 6005, "store_code": "SlowDown", "level": "warning"}.items()
    assert {"method", "peer", "principal", "seconds"} <= lines["request failed"].keys()
    fetch = lines["fetch failed"]
    assert (fetch["key"], fetch["mount"], fetch["store_code"]) == ("bad", 1, "SlowDown")
    assert fetch["tries"] > 1
    assert fetch["end"] > fetch["position"] >= 0


def test_an_error_of_a_look_leads_to_the_store_request_and_the_store_to_us(world):
    body = b"<Error><Code>AccessDenied</Code><Message>no</Message><RequestId>STORE-7</RequestId></Error>"
    world.proxy.add(Fault(kind="list", status=403, body=body))
    with pytest.raises(UfsDenied) as caught:
        list(world.fs.list("/s", sync_interval_s=0))
    trace = caught.value.detail["trace"]
    lines = {line["event"]: line for line in world.of(trace)}
    assert lines["store request failed"].items() >= {"mount": "/s", "kind": "list", "store_request": "STORE-7"}.items()
    assert lines["request failed"]["store_request"] == "STORE-7"


def test_a_path_of_a_batch_that_fails_is_logged_too(world):
    world.proxy.add(Fault(status=403, code="AccessDenied"))
    (error,) = world.fs.stat_many(["/s/never-seen"])
    assert isinstance(error, UfsDenied)
    assert any(line["event"] == "part of a request failed" for line in world.of(error.detail["trace"]))


def test_the_command_line_prints_the_request_id_and_everyday_errors_have_none(world):
    world.proxy.add(Fault(kind="get", key=b"bad", status=403, code="AccessDenied"))
    done = world.node.cli("fs", "cat", "/s/bad")
    (trace,) = re.findall(r"\(request id ([0-9a-f]{16})\)", done.stderr)
    assert world.of(trace)
    world.proxy.clear()
    before = len(world.log())
    assert "request id" not in world.node.cli("fs", "cat", "/s/none").stderr
    assert len(world.log()) == before


def test_reads_that_go_well_leave_no_line_and_their_bytes_in_the_metrics(world):
    list(world.fs.list("/s"))
    before, fetched = len(world.log()), world.total("monofs_store_read_bytes_total")
    for name in ("a", "b", "a", "b"):
        with world.fs.open(f"/s/{name}") as stream:
            assert len(stream.read()) == SIZE
    assert len(world.log()) == before
    assert world.total("monofs_store_read_bytes_total") == fetched + 2 * SIZE, "warm reads fetch nothing"
    assert world.total("monofs_page_misses_total", mount="1") >= 2 * 3
    assert world.total("monofs_descriptor_bytes_total", mount="1") >= 2 * SIZE
    seen = [(each.kind, each.key, each.range) for each in world.proxy.seen("get") if each.key in (b"a", b"b")]
    seen = [each for each in seen if each[2] != "bytes=0-0"]  # the proof a mount gives before it exists
    assert len(seen) == world.total("monofs_store_requests_total", kind="get", outcome="ok"), seen
    assert world.total("monofs_build_info") == 1
    assert world.total("process_resident_memory_bytes") > 0


def test_the_audit_log_names_who_asked_for_what_and_the_request(world):
    world.node.cli("mount", "add", "/t", "file:///nonexistent-directory")
    world.fs.make_directory("/made")
    last = world.log("audit.log")[-2:]
    assert [(line["source"], line["succeeded"]) for line in last] == [("/t", False), ("/made", True)]
    assert all(int(line["trace"], 16) and line["peer"] and line["principal"] for line in last)


def test_what_counts_a_mount_ends_with_it(world, tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    world.fs.mount_add("/gone", f"file://{tmp_path}")
    assert world.fs.read("/gone/x") == b"x"
    mount = next(str(each.id) for each in world.fs.mount_list() if each.path == "/gone")
    assert world.total("monofs_store_requests_total", mount=mount) > 0
    world.fs.mount_remove("/gone")
    world.fs.stat("/s/a")  # the master looks at its mounts when it is asked
    for _ in range(200):  # the worker hears of it with its heartbeat, which is answered at once
        left = [each for each in world.metrics() if ("mount", mount) in each[1]]
        if not left:
            break
    assert not left


def test_a_log_tells_the_story_of_a_node_and_no_secret(world):
    events = [line["event"] for line in world.log()]
    assert events[0] == "starting"
    assert "ready" in events
    with open(f"{world.node.home}/monofs.log") as log, open(f"{world.node.home}/audit.log") as audit:
        text = log.read() + audit.read()
    assert "very-secret-indeed" not in text
    assert " object at 0x" not in text
