"""At rest every number of the overview is the one that `/metrics`, the CLI's `--json` and the SDK tell; and no clock that is off makes any of them old or young."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_console_failover import Screen

from monofs.observe.totals import TOTALS
from monofs.testing.masters import Masters, wait_until
from monofs.testing.nodes import ServedNode
from monofs.testing.processes import cold
from monofs.testing.skewed import SKEW
from monofs.testing.visitors import Visitor
from monofs.web.routes import PREFIX

pytestmark = pytest.mark.system
CHANGING = {"uptime_s", "now_ms"}
"""Of the cluster: they change while one looks."""
OF_METRICS = {
    "page_hits": ("monofs_page_hits_total", {}),
    "page_misses": ("monofs_page_misses_total", {}),
    "cache_bytes": ("monofs_served_bytes_total", {"source": "cache"}),
    "through_bytes": ("monofs_served_bytes_total", {"source": "store"}),
    "descriptor_bytes": ("monofs_descriptor_bytes_total", {}),
    "peer_bytes": ("monofs_peer_bytes_total", {}),
    "store_read_bytes": ("monofs_store_read_bytes_total", {}),
    "store_written_bytes": ("monofs_store_written_bytes_total", {}),
    "store_gets": ("monofs_store_requests_total", {"kind": "get"}),
    "store_requests": ("monofs_store_requests_total", {}),
    "evicted_bytes": ("monofs_evicted_bytes_total", {}),
    "written_bytes": ("monofs_written_bytes_total", {}),
}
"""Each total of workers, as Prometheus has it."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """A node of both roles that has done something and rests."""
    home = tmp_path_factory.mktemp("agrees")
    (home / "lake" / "deep").mkdir(parents=True)
    for number in range(5):
        (home / "lake" / f"f{number}").write_bytes(bytes(700_000 * number))
    with ServedNode(str(home / "home"), sets=["namespace.sync_interval_s=-1"]) as served:
        with served.connect() as fs:
            fs.mount_add("/lake", f"file://{home}/lake")
            fs.mount_add("/second", f"file://{home}/lake/deep")
            for number in range(5):
                for _ in range(2):
                    assert fs.read(f"/lake/f{number}") == bytes(700_000 * number)
            fs.write("/lake/made", b"made")
            for _ in range(2):
                assert fs.read("/lake/made") == b"made"
            fs.delete("/lake/f0")
            fs.load("/lake")
            fs.free("/lake/f4")
        yield served


def asked(node: ServedNode, path: str) -> Any:
    answer = Visitor(node.doors["console"]).ask("GET", PREFIX + path)
    assert answer.status == 200, answer.body
    return answer.json()


def told_by_cli(node: ServedNode, *words: str) -> Any:
    done = node.cli(*words, "--json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return lines[0] if words[0] == "admin" else lines


def scraped(node: ServedNode) -> dict[str, list[tuple[dict[str, str], float]]]:
    text = Visitor(node.doors["console"]).ask("GET", "/metrics").body.decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def at_rest(node: ServedNode) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What overview, `admin report --json` and `/metrics` say at one moment: nothing changed between two looks at the first."""

    def steady(overview: dict[str, Any]) -> dict[str, Any]:
        cluster = {name: value for name, value in overview["cluster"].items() if name not in CHANGING}
        return overview | {"cluster": cluster}

    for _ in range(20):
        before = steady(asked(node, "/overview"))
        report, metrics = told_by_cli(node, "admin", "report"), scraped(node)
        if steady(asked(node, "/overview")) == before:
            return before, steady(report), metrics
    raise AssertionError("the node does not come to rest")


def total(metrics: dict[str, Any], name: str, **labels: str) -> float:
    return sum(value for has, value in metrics.get(name, ()) if labels.items() <= has.items())


def test_overview_metrics_and_command_line_tell_the_same_numbers(node):
    overview, report, metrics = at_rest(node)
    for section in ("cluster", "journal", "namespace", "mounts"):
        assert overview[section] == report[section], section
    together = overview["workers"]
    assert together == report["all_workers"]
    rows = report["workers"].values()
    assert (together["live"], together["silent"], together["leaving"]) == (len(rows), 0, 0)
    for name in ("used_bytes", "capacity_bytes"):
        assert together[name] == sum(row[name] for row in rows)
    assert set(together["totals"]) == set(TOTALS) == set(OF_METRICS)
    for name, value in together["totals"].items():
        family, labels = OF_METRICS[name]
        assert value == total(metrics, family, **labels), name
    assert together["totals"]["page_hits"] > 0
    assert together["totals"]["store_read_bytes"] > 0


def test_workers_jobs_mounts_and_policies_are_those_of_the_command_line(node):
    _, report, _ = at_rest(node)
    for number, worker in asked(node, "/workers").items():
        row = report["workers"][number]
        shared = worker.keys() & row.keys()
        assert {"address", "live", "used_bytes", "capacity_bytes", "slots", "heard_s", "totals"} <= shared
        assert {name: worker[name] for name in shared} == {name: row[name] for name in shared}
    assert list(asked(node, "/jobs").values()) == told_by_cli(node, "job", "ls")
    mounts = {each["path"]: each for each in told_by_cli(node, "mount", "ls")}
    for path, mount in asked(node, "/mounts").items():
        shared = mount.keys() & mounts[path].keys()
        assert {"uri", "readonly"} <= shared
        assert {name: mount[name] for name in shared - {"asked"}} == {name: mounts[path][name] for name in shared - {"asked"}}  # fmt: skip


def test_the_cache_page_counts_what_the_workers_tell(node):
    cache = asked(node, "/cache")
    assert (cache["workers"], cache["missing"]) == (1, [])

    def agree() -> bool:  # the overview goes by heartbeats, which come a second apart
        tiers, overview = asked(node, "/cache")["tiers"].values(), asked(node, "/overview")["workers"]
        return all(sum(tier[name] for tier in tiers) == overview[name] for name in ("used_bytes", "capacity_bytes"))

    wait_until(agree, "the cache page and the overview tell other sizes")
    _, _, metrics = at_rest(node)
    uses = asked(node, "/mounts/use")["mounts"]
    assert sum(use["hits"] for use in uses.values()) == total(metrics, "monofs_page_hits_total")
    assert sum(use["misses"] for use in uses.values()) == total(metrics, "monofs_page_misses_total")


# ---- clocks that are off ------------------------------------------------------------------------------------------------


def skewed(node: ServedNode, skew_s: float) -> ServedNode:
    node.program, node.environment = "monofs.testing.skewed", {SKEW: str(skew_s)}
    return node


def test_a_clock_an_hour_off_makes_nothing_old_or_young(tmp_path: Path):
    """Of three masters two are an hour ahead or behind, and so is the worker: every console, by the time it stamps its messages with, shows what was just done as done just now."""
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "f").write_bytes(bytes(3_000_000))
    masters = Masters(str(tmp_path / "group"))
    for node, skew_s in zip(masters.nodes.values(), (0.0, 3600.0, -3600.0), strict=True):
        skewed(node, skew_s)
    worker = skewed(ServedNode(str(tmp_path / "worker"), sets=[f"worker.masters={masters.addresses}"]), 5400.0)
    worker.flags = ["--role", "worker", "--cluster-secret-file", masters.secret]
    with cold(), masters, worker, masters.connect() as fs:  # where nothing has taken the right clock already
        fs.mount_add("/lake", f"file://{tmp_path}/lake")
        admin = fs.token_add("root", "read,write,admin").token
        assert len(fs.read("/lake/f")) == 3_000_000
        fs.free("/lake/f", force=True)
        fs.start_job("sync", "/lake")
        nodes = masters.nodes | {"worker": worker}
        screens = {name: Screen(node, admin, "cache", "connections", "sessions") for name, node in nodes.items()}
        for name, screen in screens.items():
            check_ages(name, screen, masters)


def check_ages(name: str, screen: Screen, masters: Masters) -> None:
    """All that this console says was done, was done within the last minutes, by the time it stamps its messages with."""

    def ages() -> dict[str, float]:
        """Seconds, by what was done; ``charts``: of their newest point."""
        values, at_ms = dict(screen.values), dict(screen.at_ms)
        found = {
            "job": [("jobs", job["created_ns"] / 1e6) for job in values["jobs"].values()],
            "read": [("cache", each["read_ns"] / 1e6) for each in values["cache"]["hot"]],
            "left": [("cache", each["at_ns"] / 1e6) for each in values["cache"]["left"]],
            "connection": [("connections", each["since_ns"] / 1e6) for each in values["connections"]["connections"]],
            "session": [("sessions", each["began_ms"]) for each in values["sessions"].values()],
            "charts": [("now", values["now"]["at_s"] * 1e3)],
        }
        return {
            f"{what} {number}": (at_ms[topic] - ms) / 1e3
            for what, each in found.items()
            for number, (topic, ms) in enumerate(each)
        } | {f"no {what}": -1e9 for what, each in found.items() if not each}

    def are_right() -> bool:
        with masters.connect() as other:  # a program that has it open already reads it unseen
            other.read("/lake/f")
        if not all(map(screen.is_fresh, ("now", "jobs", "cache", "connections", "sessions", "workers"))):
            return False
        return all(-2 < age < 300 for age in ages().values())

    try:
        wait_until(are_right, f"{name} shows something as too old, or as not yet done")
    except AssertionError:
        print({what: age for what, age in ages().items() if not -2 < age < 300}, screen.errors)
        raise
    finally:
        screen.socket.close()
    assert all(row["heard_s"] == 0 for row in screen.values["workers"].values())
    wait_until(
        lambda: screen.visitor.ask("GET", f"{PREFIX}/history?span_s=60").json()["times_s"], "charts are of another time"
    )
