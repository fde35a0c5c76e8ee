"""The console counts by the leader's clock, whatever its own says."""

from __future__ import annotations

from typing import Any

import pytest

from monofs.web.clock import LEARN_EVERY_S, Clock


class Cluster:
    """A leader's clock, and a node whose own is ``off_s`` ahead; an answer takes ``trip_s``."""

    def __init__(self, off_s: float, trip_s: float = 0.0) -> None:
        self.true_s, self.off_s, self.trip_s, self.leads = 1_000_000.0, off_s, trip_s, True
        self.clock = Clock(wall=lambda: self.true_s + self.off_s, monotonic=lambda: self.true_s)

    def report(self, *_: str) -> dict[str, Any]:
        self.true_s += self.trip_s / 2
        told = {"cluster": {"leads": self.leads, "now_ms": int(1000 * self.true_s)}}
        self.true_s += self.trip_s / 2
        return told


@pytest.mark.parametrize("off_s", [3600.0, -3600.0, 7.0])
def test_a_node_whose_clock_is_off_tells_the_leaders_time(off_s):
    cluster = Cluster(off_s, trip_s=0.2)
    cluster.clock.learn(cluster)
    cluster.true_s += 30
    assert cluster.clock.now_s() == pytest.approx(cluster.true_s, abs=0.01)


def test_the_way_there_and_back_moves_nothing():
    cluster = Cluster(0.0)
    for trip_s in (0.01, 2.0, 0.3, 5.0):
        cluster.trip_s = trip_s
        cluster.clock.learn(cluster)
        assert cluster.clock.offset_s == 0.0


def test_a_master_that_does_not_lead_is_not_believed_and_a_clock_that_is_set_right_is():
    cluster = Cluster(3600.0)
    cluster.clock.learn(cluster)
    cluster.leads = False
    cluster.off_s = 0.0
    cluster.clock.learn(cluster)
    assert cluster.clock.offset_s == pytest.approx(-3600.0)
    cluster.leads = True
    cluster.clock.learn(cluster)
    assert cluster.clock.offset_s == 0.0


def test_it_is_asked_now_and_then():
    cluster = Cluster(0.0)
    assert cluster.clock.is_due()
    assert not cluster.clock.is_due()
    cluster.true_s += LEARN_EVERY_S
    assert cluster.clock.is_due()
