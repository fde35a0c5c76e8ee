"""Metrics as Prometheus reads them, and their bounds."""

import math
import threading

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import CollectorRegistry

from monofs import __version__
from monofs.observe import metrics
from monofs.observe.metrics import FAMILIES, NodeCollector


@pytest.fixture
def scrape():
    registry = CollectorRegistry()
    registry.register(NodeCollector())

    def read():
        return {each.name: each for each in text_string_to_metric_families(generate_latest(registry).decode())}

    return read


def series(family, **labels):
    return [each for each in family.samples if labels.items() <= each.labels.items()]


def test_every_metric_has_a_help_text_and_a_name_as_prometheus_wants_it(scrape):
    shown = scrape()
    for family in FAMILIES:
        assert family.name.startswith("monofs_")
        assert family.doc.endswith("."), family.name
        assert "|" not in family.doc, "it is a cell of a table"
        assert shown[family.name].documentation == family.doc
        assert not family.name.endswith("_total"), "added where it is shown"
        if family.kind == "histogram":
            assert family.name.endswith("_seconds")
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


def test_no_value_is_nan_and_histograms_add_up(scrape):
    metrics.STORE_TIME("901", "get").add(0.003)
    metrics.STORE_TIME("901", "get").add(100.0)
    for family in scrape().values():
        assert not any(math.isnan(sample.value) for sample in family.samples)
    buckets = [each.value for each in series(scrape()["monofs_store_seconds"], mount="901") if "le" in each.labels]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 2
    assert metrics.STORE_TIME("901", "get").quantile(0.5) == 0.005


def test_what_runs_and_for_how_long_is_told(scrape):
    (sample,) = scrape()["monofs_build_info"].samples
    assert (sample.labels["version"], sample.value) == (__version__, 1)
    assert scrape()["monofs_uptime_seconds"].samples[0].value > 0


def test_a_mount_that_is_known_begins_at_zero_and_one_that_is_removed_leaves_nothing(scrape):
    metrics.know_mount(902)
    assert [each.value for each in series(scrape()["monofs_page_hits"], mount="902")] == [0]
    observe = metrics.store_observer(902)
    observe("get", "ok", 0.1, 5)
    assert series(scrape()["monofs_store_read_bytes"], mount="902")[0].value == 5
    metrics.forget_mount(902)
    observe("get", "ok", 0.1, 5)  # of a request that was in flight
    metrics.PAGE_HITS("902").value += 1
    assert not [each for family in scrape().values() for each in series(family, mount="902")]


def test_memory_of_removed_mounts_is_bounded():
    for mount in range(100_000, 100_000 + metrics._GONE_MAX + 50):
        metrics._GONE[str(mount)] = None
    metrics.forget_mount(99_999)
    metrics.forget_mount(99_998)
    before = len(metrics._GONE)
    metrics.forget_mount(99_997)
    assert len(metrics._GONE) == before
    metrics._GONE.clear()


def test_counts_of_many_threads_are_not_lost():
    observe = metrics.store_observer(903)

    def work():
        for _ in range(2000):
            observe("get", "ok", 0.001, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.STORE_BYTES("903").value == 8000
    assert sum(metrics.STORE_TIME("903", "get").counts) == 8000
    metrics.forget_mount(903)
