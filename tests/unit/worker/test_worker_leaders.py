"""How a worker finds the master that leads."""

from twisted.internet.defer import fail
from twisted.internet.task import Clock

from monofs.config.schema import WorkerConfig
from monofs.model.errors import NotLeader
from monofs.tiering.cache import Cache
from monofs.tiering.spec import parse_tiers
from monofs.worker.membership import Membership


class Followers:
    """Masters of which none leads, one after the other."""

    def __init__(self):
        self.asked = 0

    def call(self, *_):
        self.asked += 1
        return fail(NotLeader("this master does not lead", leader=None))


def test_a_worker_does_not_grow_patient_while_it_looks_for_the_leader(tmp_path):
    clock, masters, config = Clock(), Followers(), WorkerConfig()
    tiers = parse_tiers(config.tiers, str(tmp_path), config.quota)
    cache = Cache(str(tmp_path / "index"), tiers, reserve=config.reserve, call_soon=lambda act, *given: act(*given))
    cache.open()
    membership = Membership(
        config, cache, None, None, None, masters, reactor=clock, identity=bytes(16), on_mounts=lambda _: None
    )
    membership.start("w:1", "").addErrback(lambda _: None)
    while masters.asked < 9:
        clock.advance(0.05)
    assert clock.seconds() < 6.0
    membership.stop()
    cache.close()
