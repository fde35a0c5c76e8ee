"""Errors of the S3 server at every request of every change: the client gets success or a typed error in time, and once the server is well
again the change turns out wholly done or not done at all, with nothing left behind.

A rehearsal finds the requests a change makes; then it is done once for every request and every way to break it.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest
from write_changes import Trial
from write_world import Prefix, converged, owed, until

from monofs.model.errors import Internal, MonofsError
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import Fault, StoreProxy

pytestmark = [pytest.mark.system, pytest.mark.ceph]
SETTINGS = [
    "worker.store_timeout_s=2",
    "master.store_timeout_s=2",
    "worker.quota=1GiB",
    "namespace.sync_interval_s=-1",
]
ACTS = ("put", "post", "delete", "head")
AT_ONCE = 6
"""Trials that run at the same time, each on a mount and behind a proxy of its own."""
NAMES = [
    "write",
    "write parts",
    "overwrite",
    "overwrite by parts",
    "delete",
    "delete a directory",
    "rename over",
    "make a directory",
    "copy",
    "remove a tree",
    "rename a tree",
]


@dataclass(frozen=True)
class Break:
    """``times`` 0: until it is healed."""

    times: int
    fault: dict[str, Any]

    def at(self, kind: str) -> Fault:
        return Fault(kind=kind, times=self.times, **self.fault)


BREAKS = {
    "refused once with 503": Break(1, {"status": 503}),
    "failed with 500 until healed": Break(0, {"status": 500, "code": "InternalError"}),
    "done, and the answer cut": Break(1, {"after_bytes": -1, "cut": "close"}),
    "done, and the connection reset until healed": Break(0, {"after_bytes": -1, "cut": "reset"}),
    "done, and no answer in time": Break(1, {"after_bytes": -1, "cut": "hang"}),
    "done, and answered with 500": Break(1, {"status": 500, "code": "InternalError", "lands": True}),
    "done twice": Break(1, {"twice": True}),
    "never come, and no answer in time": Break(1, {"early": True, "cut": "hang"}),
}


class Ground:
    """One node; every trial has its own part of one bucket."""

    def __init__(self, node: ServedNode, server: Any, bucket: Any) -> None:
        self.node, self._server, self._bucket = node, server, bucket
        self._numbers = count(1)

    def trial(self, name: str, proxy: StoreProxy, fs: Any) -> Trial:
        number = next(self._numbers)
        place = Prefix(self._bucket, f"p{number}")
        return Trial(name, fs, f"/m{number}", Behind(place, proxy.endpoint))

    def requests(self, name: str) -> list[tuple[str, int]]:
        """The acts of a change that goes well: kind, and the how manieth of its kind."""
        with StoreProxy(self._server.endpoint) as proxy, self.node.connect() as fs:
            trial = self.trial(name, proxy, fs)
            proxy.forget()
            answer = trial.act()
            assert answer is None, answer
            converged(fs, trial.at)
            kinds = [seen.kind for seen in proxy.seen() if seen.kind in ACTS]
            trial.check(answer)
        return [(kind, kinds[:position].count(kind)) for position, kind in enumerate(kinds)]

    def broken(self, name: str, kind: str, nth: int, how: str) -> str:
        """Break that request; what was wrong, if anything."""
        with StoreProxy(self._server.endpoint) as proxy, self.node.connect(timeout_s=20) as fs:
            trial = self.trial(name, proxy, fs)
            fault = proxy.add(BREAKS[how].at(kind))
            if nth:
                proxy.add(Fault(kind=kind, times=nth))
            answer = trial.act()
            until(lambda: fault.used or not owed(fs, trial.at), "the request to be made")
            if fault.times == 0 and fault.used:
                until(lambda: fault.used > 2 or not owed(fs, trial.at), "it to be tried again")
            proxy.clear()
            try:
                assert answer is None or isinstance(answer, MonofsError), repr(answer)
                assert not isinstance(answer, Internal), repr(answer)
                converged(fs, trial.at)
                trial.check(answer)
            except AssertionError as error:
                return f"{kind} {nth} {how}, {answer!r}: {error}"
        return ""


class Behind:
    """A place that monofs reaches through a proxy, and the test straight."""

    def __init__(self, place: Prefix, endpoint: str) -> None:
        self._place, self._endpoint = place, endpoint

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place, name)

    @property
    def options(self) -> dict[str, str]:
        return self._place.options | {"endpoint": self._endpoint}


@pytest.fixture(scope="module")
def ground(serve: Callable[..., ServedNode], ceph: Any, make_bucket: Callable[[], Any]) -> Ground:
    return Ground(serve(*SETTINGS), ceph, make_bucket())


@pytest.mark.parametrize("name", NAMES)
def test_every_request_may_break_in_every_way(ground: Ground, name: str) -> None:
    requests = ground.requests(name)
    assert requests
    trials = [(name, kind, nth, how) for kind, nth in requests for how in BREAKS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        problems = [problem for problem in pool.map(lambda each: ground.broken(*each), trials) if problem]
    assert not problems, "\n".join(problems)
