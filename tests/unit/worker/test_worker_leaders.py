"""How a worker finds the master that leads."""

import pytest
from twisted.internet.defer import fail
from twisted.internet.task import Clock

from monofs.config.schema import WorkerConfig
from monofs.model.errors import NoMaster, NotLeader
from monofs.tiering.cache import Cache
from monofs.tiering.spec import parse_tiers
from monofs.worker.membership import Membership


class Followers:
    """Masters of which none leads, one after the other; now and then none answers."""

    def __init__(self, *, flaky=False):
        self.asked, self.flaky = 0, flaky

    def call(self, *_):
        self.asked += 1
        if self.flaky and self.asked % 3 == 1:
            return fail(NoMaster(f"no master answers, the {self.asked}th time"))
        return fail(NotLeader("this master does not lead", leader=None))


@pytest.fixture
def look(tmp_path):
    """A function that lets a worker look for its first master nine times, and gives the seconds that took and what it told."""
    config = WorkerConfig()
    tiers = parse_tiers(config.tiers, str(tmp_path), config.quota)
    cache = Cache(str(tmp_path / "index"), tiers, reserve=config.reserve, call_soon=lambda act, *given: act(*given))
    cache.open()

    def look_nine_times(masters):
        clock, told = Clock(), []
        membership = Membership(
            config, cache, None, None, None, masters,
            reactor=clock, identity=bytes(16), on_mounts=lambda _: None, tell=told.append,
        )  # fmt: skip
        membership.start("w:1", "").addErrback(lambda _: None)
        while masters.asked < 9:
            clock.advance(0.05)
        membership.stop()
        return clock.seconds(), told

    yield look_nine_times
    cache.close()


def test_a_worker_does_not_grow_patient_while_it_looks_for_the_leader(look):
    assert look(Followers())[0] < 6.0


def test_who_starts_a_worker_is_told_each_reason_why_it_waits_once(look):
    assert look(Followers(flaky=True))[1] == [
        "waiting for a master to take this worker in: no master answers, the 1th time",
        "waiting for a master to take this worker in: this master does not lead",
    ]
