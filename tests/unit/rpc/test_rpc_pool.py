"""The blocking client: threads share it, forks and pickles survive it, and only what is safe is sent again."""

from __future__ import annotations

import fcntl
import os
import pickle
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from rpc_world import SECRET, House, Loop, answer_to, pattern

from monofs.model.errors import (
    Closed,
    ConnectionLost,
    DeadlineExceeded,
    FrameTooLarge,
    InvalidArgument,
    MonofsError,
    NotFound,
    NotLeader,
    NotSupported,
    ProtocolError,
    Unreachable,
)
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.conversations import IDLE_MAX
from monofs.rpc.frames import REQUEST_MAX_BYTES
from monofs.rpc.handshake import Credential
from monofs.rpc.hedge import Hedge
from monofs.rpc.server import Security
from monofs.rpc.service import Call
from monofs.rpc.sync import Pool
from monofs.rpc.tls import ClientTls, ServerTls
from monofs.testing.ports import free_port


def stat(pool: Pool, path: str, timeout_s: float = 10.0, *, idempotent: bool = False) -> Any:
    answer = pool.call(Method.STAT, api.StatRequest(path), api.StatAnswer, timeout_s, idempotent=idempotent)
    return msgspec.msgpack.decode(answer.inode)


@pytest.fixture(params=["tcp", "unix", "tls"])
def pool(request: Any, house: House, server_tls: ServerTls, client_tls: ClientTls) -> Any:
    if request.param == "tls":
        listener = house.tcp(security=Security(tls=server_tls))
    else:
        listener = house.tcp() if request.param == "tcp" else house.unix()
    with Pool(listener.address, tls=client_tls if request.param == "tls" else None) as pool:
        yield pool


def test_answers_and_errors_come_typed(pool: Pool) -> None:
    assert stat(pool, "/plain") == "/plain"
    with pytest.raises(NotFound, match="/missing"):
        stat(pool, "/missing")
    assert stat(pool, "/later") == "/later"
    assert len(pool.conversations._open) == 1


def test_an_answer_over_the_bound_is_an_error_and_the_connection_lives(pool: Pool) -> None:
    with pytest.raises(FrameTooLarge, match="less at a time"):
        stat(pool, "/huge")
    assert stat(pool, "/plain") == "/plain"


def test_a_request_over_the_bound_is_never_sent(pool: Pool) -> None:
    with pytest.raises(FrameTooLarge):
        stat(pool, "/" + "x" * REQUEST_MAX_BYTES)
    assert not pool.conversations._open


def test_a_deadline_drops_the_connection_and_the_next_call_has_a_new_one(house: House, pool: Pool) -> None:
    assert stat(pool, "/plain") == "/plain"
    with pytest.raises(DeadlineExceeded):
        stat(pool, "/deaf", timeout_s=0.3)
    assert not pool.conversations._open
    house.wait_until(lambda: "end" in house.closed)
    assert stat(pool, "/plain") == "/plain"


@pytest.mark.parametrize("size", [0, 1, 4096, 64 << 10, (64 << 10) + 1, 5_000_000, 20_000_000])
@pytest.mark.parametrize("kind", ["data", "last", "file"])
def test_streams_arrive_in_the_callers_buffer(pool: Pool, tmp_path: Any, kind: str, size: int) -> None:
    offset = 4097
    capability = f"{kind}:300000".encode()
    if kind == "file":
        (tmp_path / "big").write_bytes(pattern(0, offset + size))
        capability = f"file:{tmp_path}/big".encode()
    buffer = bytearray(size + 10)
    request = api.ReadRequest(capability, offset, size)
    assert pool.read_into(Method.READ, request, buffer) == size
    assert buffer[:size] == pattern(offset, size)
    assert stat(pool, "/plain") == "/plain"


def test_more_bytes_than_fit_are_a_protocol_error(pool: Pool) -> None:
    with pytest.raises(ProtocolError, match="more bytes"):
        pool.read_into(Method.READ, api.ReadRequest(b"data:1000", 0, 5000), bytearray(1500))
    assert stat(pool, "/plain") == "/plain"


def test_streams_can_be_iterated_and_left_early(house: House, pool: Pool) -> None:
    items = pool.stream(Method.LIST, api.ListRequest("/x", limit=500), api.Pong)
    assert [item.now_ns for item in items] == list(range(500))
    pieces = list(pool.stream(Method.READ, api.ReadRequest(b"data:1000", 7, 2500)))
    assert [len(piece) for piece in pieces] == [1000, 1000, 500]
    assert b"".join(pieces) == pattern(7, 2500)
    assert len(pool.conversations._open) == 1
    endless = pool.stream(Method.READ, api.ReadRequest(b"data:1000", 0, 1 << 40))
    next(endless)
    endless.close()
    assert not pool.conversations._open
    with pytest.raises(NotFound):
        next(pool.stream(Method.STAT, api.StatRequest("/missing")))
    assert stat(pool, "/plain") == "/plain"


def test_pipelined_calls_come_back_in_order_with_their_errors(pool: Pool) -> None:
    paths = [f"/{number}" if number % 10 else "/missing" for number in range(3000)]
    paths[5] = "/later"
    answers = pool.call_many(Method.STAT, [api.StatRequest(path) for path in paths], api.StatAnswer)
    for path, answer in zip(paths, answers, strict=True):
        if path == "/missing":
            assert isinstance(answer, NotFound)
        else:
            assert isinstance(answer, api.StatAnswer)
            assert msgspec.msgpack.decode(answer.inode) == path
    assert pool.call_many(Method.STAT, [], api.StatAnswer) == []


def test_pipelined_calls_whose_answers_fill_every_buffer_do_not_block(house: House, pool: Pool) -> None:
    house.service.register(Method.WHY, api.StatRequest, lambda request, call: answer_to("y" * 20_000))
    requests = [api.StatRequest("x" * 20_000)] * 2000
    answers = pool.call_many(Method.WHY, requests, api.StatAnswer)
    assert len(answers) == 2000
    assert not [answer for answer in answers if isinstance(answer, MonofsError)]


def test_descriptors_come_with_their_answers(house: House) -> None:
    with Pool(house.unix().address) as pool:
        for count in (0, 1, 3, 16):
            answer, fds = pool.call_with_descriptors(
                Method.DESCRIPTOR, api.DescriptorRequest(b"", count), api.DescriptorAnswer
            )
            assert answer.present == count
            assert [os.pread(fd, 99, 0) for fd in fds] == [b"file %d" % number for number in range(count)]
            assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in fds)
            for fd in fds:
                os.close(fd)
        assert stat(pool, "/plain") == "/plain"
        one = pool.call_with_descriptor(Method.DESCRIPTOR, api.DescriptorRequest(b"", 1), api.DescriptorAnswer)[1]
        assert one is not None
        os.close(one)
        nothing = api.DescriptorRequest(b"", 0)
        assert pool.call_with_descriptor(Method.DESCRIPTOR, nothing, api.DescriptorAnswer)[1] is None


def test_descriptors_keep_their_place_behind_what_is_queued(house: House) -> None:
    """Pipelined on a bare socket: a stream that fills every buffer, then three frames that own descriptors."""
    from monofs.rpc.conversation import Conversation
    from monofs.rpc.frames import Kind, pack

    talk = Conversation(house.unix().address, Credential(), deadline=1e9)
    read = msgspec.msgpack.encode(api.ReadRequest(b"data:100000", 0, 1_900_000))
    lend = [msgspec.msgpack.encode(api.DescriptorRequest(b"", count)) for count in (2, 1, 3)]
    frames = [pack(Kind.REQUEST, Method.READ, n, read) for n in (1, 2, 3, 4, 5)]
    frames += [pack(Kind.REQUEST, Method.DESCRIPTOR, n, body) for n, body in enumerate(lend, 6)]
    talk._sock.sendall(b"".join(frames))
    house.wait_until(lambda: any(c.queued_bytes for c in house.listeners[0].connections))
    talk._takes_descriptors = True
    got: dict[int, list[bytes]] = {}
    while len(got) < 3:
        header = talk._header()
        talk._body(header[0])
        if header[2]:
            fds = [talk._fds.popleft() for _ in range(header[2])]
            got[header[4]] = [os.pread(fd, 99, 0) for fd in fds]
            for fd in fds:
                os.close(fd)
    assert {request: len(texts) for request, texts in got.items()} == {6: 2, 7: 1, 8: 3}
    assert got[8] == [b"file 0", b"file 1", b"file 2"]
    talk.close()


def test_descriptors_are_refused_over_tcp(house: House) -> None:
    with Pool(house.tcp().address) as pool, pytest.raises(NotSupported, match="Unix socket"):
        pool.call_with_descriptor(Method.DESCRIPTOR, api.DescriptorRequest(b"", 1), api.DescriptorAnswer)


def test_descriptors_nobody_asked_for_do_not_leak(house: House) -> None:
    with Pool(house.unix().address) as pool:
        stat(pool, "/plain")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(ProtocolError):
                pool.call(Method.DESCRIPTOR, api.DescriptorRequest(b"", 3), api.DescriptorAnswer)
            stat(pool, "/plain")
        house.wait_until(lambda: len(house.listeners[0].connections) == 1)
        assert len(os.listdir("/proc/self/fd")) == before


def test_threads_share_a_pool_without_mixing_answers(pool: Pool) -> None:
    def work(number: int) -> bool:
        paths = [f"/{number}/{step}" for step in range(100)]
        buffer = bytearray(1000)
        pool.read_into(Method.READ, api.ReadRequest(b"data:100", number, 1000), buffer)
        return buffer == pattern(number, 1000) and [stat(pool, path) for path in paths] == paths

    with ThreadPoolExecutor(12) as threads:
        assert all(threads.map(work, range(36)))
    assert len(pool.conversations._open) <= IDLE_MAX


def test_a_restarted_server_is_found_again_by_idle_connections(house: House, loop: Loop) -> None:
    listener = house.unix()
    with Pool(listener.address) as pool:
        assert stat(pool, "/plain") == "/plain"
        loop.do(listener.stop)
        with pytest.raises(Unreachable):
            stat(pool, "/plain")
        house.listeners.clear()
        assert house.unix().address == listener.address
        assert stat(pool, "/plain") == "/plain"


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_broken_connection_is_tried_again_only_for_idempotent_calls(house: House, idempotent: bool) -> None:
    seen = 0

    def cut_once(request: api.StatRequest, call: Call) -> Any:
        nonlocal seen
        seen += 1
        if seen == 1:
            call.connection.abort(None)  # type: ignore[attr-defined]
            return None
        return answer_to(request.path)

    house.service.register(Method.WHY, api.StatRequest, cut_once)
    with Pool(house.tcp().address) as pool:

        def ask() -> api.StatAnswer:
            return pool.call(Method.WHY, api.StatRequest("/a"), api.StatAnswer, idempotent=idempotent)

        if idempotent:
            assert ask()
            assert seen == 2
        else:
            with pytest.raises(ConnectionLost):
                ask()
            assert seen == 1


def test_a_request_that_always_breaks_the_server_is_not_sent_for_ever(house: House) -> None:
    seen = []

    def cut(request: api.StatRequest, call: Call) -> None:
        seen.append(1)
        call.connection.abort(None)  # type: ignore[attr-defined]

    house.service.register(Method.WHY, api.StatRequest, cut)
    with Pool(house.tcp().address) as pool, pytest.raises(ConnectionLost):
        pool.call(Method.WHY, api.StatRequest("/a"), api.StatAnswer, idempotent=True)
    assert len(seen) == 4


def unused_address() -> str:
    return f"127.0.0.1:{free_port()}"


def test_the_next_address_is_asked_when_one_cannot_be_reached(house: House) -> None:
    with Pool([unused_address(), house.tcp().address]) as pool:
        assert stat(pool, "/plain") == "/plain"
        assert pool._preferred == pool.addresses[1]


def test_when_nobody_answers_all_addresses_are_named() -> None:
    first, second = unused_address(), unused_address()
    with Pool(f"{first}, {second}") as pool, pytest.raises(Unreachable, match=rf"{first}.*{second}.*refused"):
        stat(pool, "/plain")


def test_patience_waits_for_a_server_that_comes_later(house: House, loop: Loop) -> None:
    path = os.path.join(house.directory, "door-0.sock")
    with Pool(path, patience_s=20.0) as pool, ThreadPoolExecutor(1) as threads:
        asked = threads.submit(stat, pool, "/plain", 20.0)
        assert house.unix().address == path
        assert asked.result() == "/plain"


def test_a_follower_names_the_leader_and_the_call_goes_there(house: House) -> None:
    leader, follower = house.tcp(), house.tcp()

    def where(request: api.Empty, call: Call) -> Any:
        if call.connection in follower.connections:
            raise NotLeader("ask the leader", leader=leader.address)
        return answer_to("/led")

    house.service.register(Method.WHY, api.Empty, where)
    with Pool(follower.address) as pool:
        assert pool.call(Method.WHY, api.Empty(), api.StatAnswer)
        assert pool._preferred == leader.address


def test_while_nobody_leads_the_call_ends_with_its_deadline(house: House) -> None:
    with Pool([house.tcp().address, house.tcp().address]) as pool, pytest.raises((DeadlineExceeded, NotLeader)):
        stat(pool, "/follower", timeout_s=0.3)


def test_something_that_is_not_monofs_is_unreachable() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def serve() -> None:
            taken, _ = other.accept()
            with taken:
                taken.recv(100)
                taken.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            Pool(f"127.0.0.1:{other.getsockname()[1]}") as pool,
            pytest.raises(Unreachable, match="does not speak monofs"),
        ):
            stat(pool, "/plain")
        thread.join(10)


def test_a_closed_pool_says_so(pool: Pool) -> None:
    stat(pool, "/plain")
    pool.close()
    assert not pool.conversations._open
    with pytest.raises(Closed):
        stat(pool, "/plain")


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:x", "host:0", "host:70000", ":80", "http://host:80", "monofs://host:80/"]
)
def test_addresses_that_are_none_are_refused(address: str) -> None:
    with pytest.raises(InvalidArgument):
        Pool(address)


def test_a_pool_pickles_as_addresses_and_credential(house: House, tmp_path: Any) -> None:
    file = tmp_path / "cluster.secret"
    file.write_bytes(SECRET)
    with Pool(house.tcp(security=Security(secret=SECRET)).address, Credential.from_file(str(file))) as pool:
        stat(pool, "/plain")
        stored = pickle.dumps(pool)
        assert SECRET not in stored
        with pickle.loads(stored) as copy:
            assert stat(copy, "/plain") == "/plain"
            assert copy.server().principal == "node"


FORKS = textwrap.dedent(
    """
    import os, sys, threading
    from monofs.rpc import api
    from monofs.rpc.api import Method
    from monofs.rpc.sync import Pool

    pool = Pool(sys.argv[1])
    def ask(name):
        for step in range(50):
            text = f"/{name}/{step}"
            answer = pool.call(Method.STAT, api.StatRequest(text), api.StatAnswer)
            assert bytes(answer.inode).endswith(text.encode()), (answer, text)
    ask("before")
    stream = pool.stream(Method.LIST, api.ListRequest("/x", limit=20000), api.Pong)
    assert next(stream).now_ns == 0
    stop = threading.Event()
    def busy():
        while not stop.is_set():
            ask("thread")
    thread = threading.Thread(target=busy)
    thread.start()
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                ask(f"child{number}")
                try:
                    list(stream)
                except Exception as error:
                    assert type(error).__name__ == "ConnectionLost", error
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    ask("parent")
    codes = [os.waitpid(child, 0)[1] for child in children]
    stop.set(); thread.join()
    assert codes == [0] * 4, codes
    assert [item.now_ns for item in stream] == list(range(1, 20000))
    ask("after")
    print("fine")
    """
)


def test_a_forked_child_talks_for_itself_and_the_parent_goes_on(house: House) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, house.tcp().address], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("fine\n", "", 0)


def begin_stat(pipeline: Any, path: str) -> int:
    encode = msgspec.msgpack.encode
    request: int = pipeline.send(Method.STAT, [b"\x91", memoryview(encode(path))], 10.0)
    return request


def test_a_pipeline_has_requests_in_flight_and_gives_its_connection_back(pool: Pool) -> None:
    pipeline = pool.pipeline()
    numbers = [begin_stat(pipeline, path) for path in ("/later", "/missing", "/plain" * 100_000)]
    answers = dict(pipeline.receive(api.StatAnswer, 10.0) for _ in numbers)
    assert msgspec.msgpack.decode(answers[numbers[0]].inode) == "/later"
    assert isinstance(answers[numbers[1]], NotFound)
    assert pipeline.unanswered == 0
    pipeline.close()
    assert stat(pool, "/plain") == "/plain"
    assert len(pool.conversations._open) == 1, "the same connection"


def test_a_pipeline_left_with_answers_to_come_closes_its_connection(house: House, pool: Pool) -> None:
    pipeline = pool.pipeline()
    begin_stat(pipeline, "/hold")
    house.arrived.get(timeout=10)
    pipeline.close()
    assert pool.conversations._open == set()
    house.wait_until(lambda: "close" in house.closed)
    assert stat(pool, "/plain") == "/plain"


def test_a_pipeline_ends_in_time(pool: Pool) -> None:
    pipeline = pool.pipeline()
    begin_stat(pipeline, "/deaf")
    with pytest.raises(DeadlineExceeded):
        pipeline.receive(api.StatAnswer, 0.1)
    pipeline.close()
    assert pool.conversations._open == set()


def stand_still(house: House, gate: threading.Event) -> None:
    """From now on the server does nothing until the gate opens."""
    stands = threading.Event()
    house.loop.reactor.callFromThread(lambda: stands.set() or gate.wait(20.0))  # type: ignore[func-returns-value]
    assert stands.wait(20.0)


def test_one_server_that_stands_still_is_given_up_at_the_first_connection(house: House) -> None:
    """The others of the pool would say nothing either, each for as long."""
    listener, gate = house.tcp(), threading.Event()
    with Pool(listener.address, silence_s=0.2) as pool:
        for talk in [pool.borrow(10.0) for _ in range(2)]:
            pool.conversations.give_back(talk)
        stand_still(house, gate)
        try:
            with pytest.raises(ConnectionLost, match="silent"):
                stat(pool, "/plain", idempotent=True)
            assert len(pool.conversations._idle[listener.address]) == 1
        finally:
            gate.set()
        assert stat(pool, "/plain") == "/plain"


def test_who_pipelines_waits_for_a_server_that_stands_still(house: House) -> None:
    """Acknowledgements of writes have their time: giving up is dear."""
    listener, gate = house.tcp(), threading.Event()
    with Pool(listener.address, silence_s=0.05) as pool:
        pipeline = pool.pipeline()
        waiting = threading.Timer(0.5, gate.set)
        stand_still(house, gate)
        waiting.start()
        body = msgspec.msgpack.encode(api.StatRequest("/plain"))
        number = pipeline.send(Method.STAT, [body], 20.0)
        answered, answer = pipeline.receive(api.StatAnswer, 20.0)
        assert answered == number
        assert isinstance(answer, api.StatAnswer)
        pipeline.close()
        waiting.join()


def test_what_is_pipelined_after_a_hedged_read_is_not_cut_off_by_its_delay(house: House) -> None:
    listener, gate = house.unix(), threading.Event()
    with Pool(listener.address, silence_s=0.5) as pool:
        request = api.ReadRequest(b"data:1000", 0, 5)
        assert pool.read_into(Method.READ, request, bytearray(5), hedge=Hedge(0.05, lambda: None)) == 5
        pipeline = pool.pipeline()
        stand_still(house, gate)
        waiting = threading.Timer(0.5, gate.set)
        waiting.start()
        numbers = [pipeline.send(Method.STAT, [b"\0" * (REQUEST_MAX_BYTES - 100)], 20.0) for _ in range(12)]
        assert [pipeline.receive(api.StatAnswer, 20.0)[0] for _ in numbers] == numbers
        pipeline.close()
        waiting.join()
        assert len(pool.conversations._open) == 1, "on the same connection"
