"""Request ids on the wire: chosen by the asker, the same in its error, in the handler, over awaits, and in the server's log."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from rpc_world import House, Loop, answer_to
from twisted.internet.defer import Deferred

from monofs.model.errors import ConnectionLost, DeadlineExceeded, Internal, NotFound, UfsThrottled
from monofs.observe.tracing import current_trace, tracing
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.direct import DirectClient
from monofs.rpc.service import Call, Service
from monofs.rpc.sync import Pool


class Traced:
    """A service that notes the request id its handlers see."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.seen: list[int] = []
        self.service = Service("worker", loop.reactor)
        self.service.register(Method.STAT, api.StatRequest, self.on_stat)

    def on_stat(self, request: api.StatRequest, call: Call) -> Any:
        self.seen.append(current_trace())
        return self.later() if request.path == "/later" else answer_to(request.path)

    async def later(self) -> api.StatAnswer:
        for _ in range(2):
            waiting: Deferred[None] = Deferred()
            self.loop.reactor.callLater(0, waiting.callback, None)
            await waiting
        self.seen.append(current_trace())
        return answer_to("/later")


@pytest.fixture
def pool(house: House) -> Iterator[Pool]:
    with Pool(house.unix().address) as made:
        yield made


def stat(pool: Pool, path: str, **named: Any) -> Any:
    return pool.call(Method.STAT, api.StatRequest(path), api.StatAnswer, **named)


def failures(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [record.fields for record in caplog.records if record.getMessage() == "request failed"]  # type: ignore[attr-defined]


def test_a_handler_and_what_it_awaits_know_the_request(loop: Loop) -> None:
    traced = Traced(loop)
    client = DirectClient(traced.service)
    for path in ("/plain", "/later"):
        loop.do(client.call, Method.STAT, api.StatRequest(path), api.StatAnswer, trace=77)
    assert traced.seen == [77, 77, 77]
    assert loop.do(current_trace) == 0, "nothing of it is left on the reactor"


def test_a_call_made_for_a_request_carries_its_id(loop: Loop) -> None:
    traced = Traced(loop)
    client = DirectClient(traced.service)

    def ask() -> Any:
        with tracing(78):
            return client.call(Method.STAT, api.StatRequest("/plain"), api.StatAnswer)

    loop.do(ask)
    loop.do(client.call, Method.STAT, api.StatRequest("/plain"), api.StatAnswer)
    assert traced.seen[0] == 78
    assert traced.seen[1] not in (0, 78), "without one a new one is drawn"


def test_a_bug_is_found_by_the_id_its_asker_was_told(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Internal) as caught:
        stat(pool, "/bug")
    (record,) = [each for each in caplog.records if each.getMessage() == "a handler failed"]
    assert record.fields["trace"] == caught.value.detail["trace"]  # type: ignore[attr-defined]
    assert record.exc_info


def test_every_call_has_an_id_of_its_own_unless_one_is_given(pool: Pool) -> None:
    traces = []
    for given in (0, 0, 0xABC):
        with pytest.raises(Internal) as caught:
            stat(pool, "/bug", trace=given)
        traces.append(caught.value.detail["trace"])
    assert len(set(traces)) == 3
    assert traces[2] == f"{0xABC:016x}"


def test_everyday_errors_have_no_id_and_leave_no_line(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(NotFound) as caught:
        stat(pool, "/missing")
    assert "trace" not in caught.value.detail
    assert not failures(caplog)


def test_a_time_out_is_found_by_its_id_whoever_notices_first(
    house: House, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DeadlineExceeded) as caught:
        stat(pool, "/hold", timeout_s=0.05)
    house.wait_until(lambda: "end" in house.closed)
    (line,) = failures(caplog)
    assert (line["trace"], line["code"], line["method"]) == (caught.value.detail["trace"], 1003, "STAT")
    assert line["peer"].startswith("unix:pid=")


def test_a_lost_connection_tells_the_id(house: House, pool: Pool) -> None:
    def cut() -> None:
        call: Any = house.arrived.get(timeout=10)
        house.loop.do(call.connection.abort, None)

    cutter = threading.Thread(target=cut)
    cutter.start()
    with pytest.raises(ConnectionLost) as caught:
        stat(pool, "/hold")
    cutter.join()
    assert "request id" in str(caught.value)


def test_an_error_shared_by_several_requests_is_told_to_each_with_its_own_id(
    loop: Loop, house: House, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    shared = UfsThrottled("slow down", store_code="SlowDown", request_id="STORE-1")
    house.service.entries.pop(int(Method.WHY), None)

    def refuse(request: api.StatRequest, call: Call) -> Any:
        raise shared

    house.service.register(Method.WHY, api.StatRequest, refuse)
    told = []
    for _ in range(2):
        with pytest.raises(UfsThrottled) as caught:
            pool.call(Method.WHY, api.StatRequest("/x"), api.WhyAnswer)
        told.append(caught.value.detail["trace"])
    lines = failures(caplog)
    assert [line["trace"] for line in lines] == told
    assert told[0] != told[1]
    assert {(line["store_code"], line["store_request"]) for line in lines} == {("SlowDown", "STORE-1")}
    assert "trace" not in shared.detail
