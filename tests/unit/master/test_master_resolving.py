"""Intents nobody works on any more are brought to their end, whatever had happened in the store."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from acts import PATIENT, Silence, ask, is_open
from lakes import Lake
from master_house import NODE, House
from scribe import Asking, Scribe, inode_of

from monofs.master.acting import Acts
from monofs.master.members import LEASE_S
from monofs.metadata.entries import Stamp
from monofs.metadata.intent_entries import Asker, BeginCopy, RecordUpload
from monofs.metadata.tables import KEPT_LEVEL, decode_intent
from monofs.model.attributes import Attributes
from monofs.model.errors import (
    AlreadyExists,
    MonofsError,
    NotFound,
    NotReady,
    OutcomeUnknown,
    UfsUnknown,
    WriteLost,
)
from monofs.observe.metrics import INTENTS_RESOLVED
from monofs.rpc import api
from monofs.rpc.api import Method
from monofs.rpc.direct import DirectClient
from monofs.ufs.base import Condition

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture
def house(make_house: Callable[..., House], lake: Lake) -> House:
    made = make_house(PATIENT)
    lake.mount(made)
    return made


@pytest.fixture(params=[False, True], ids=["in place", "after a restart"])
def restart(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.mark.parametrize("acts", [True, False], ids=["done", "not done"])
@pytest.mark.parametrize(
    ("method", "arguments", "done", "undone"),
    [
        (Method.DELETE, ("/lake/f",), ["d/old"], ["d/old"]),  # what is still there is deleted again
        (Method.RENAME, ("/lake/f", "/lake/g"), ["d/old", "g"], ["d/old", "f"]),
        (Method.COPY, ("/lake/f", "/lake/g"), ["d/old", "f", "g"], ["d/old", "f"]),
        (Method.MAKE_DIRECTORY, ("/lake/e",), ["d/old", "e/", "f"], ["d/old", "f"]),
        (Method.TOUCH, ("/lake/t",), ["d/old", "f", "t"], ["d/old", "f"]),
    ],
    ids=["delete", "rename", "copy", "mkdir", "touch"],
)
def test_a_change_with_an_unknown_end_rolls_forward_if_it_was_done_and_back_if_not(
    house: House,
    lake: Lake,
    restart: bool,
    acts: bool,
    method: Method,
    arguments: tuple[str, ...],
    done: list[str],
    undone: list[str],
) -> None:
    lake.put("f", b"1")
    lake.put("d/old", b"1")
    house.list("/lake")
    house.list("/lake/d")
    silence = Silence(house, acts=acts)
    with pytest.raises(UfsUnknown):
        ask(house, method, *arguments)
    assert is_open(house)
    silence.end(restart=restart)
    assert not is_open(house)
    expected = done if acts else undone
    assert lake.listed() == expected
    house.now_s += 3600
    names = {key.partition("/")[0] + ("/" if "/" in key else "") for key in expected}
    assert house.list("/lake", 0) == sorted(names), "tree and store agree"


def test_a_rename_that_had_copied_deletes_its_source(house: House, lake: Lake, restart: bool) -> None:
    if lake.bucket is None:
        pytest.skip("directories rename files in one step")
    lake.put("f", b"1")
    house.list("/lake")
    before = house.stat("/lake/f")
    silence = Silence(house, acts=False, names=("delete",))
    with pytest.raises(UfsUnknown):
        ask(house, Method.RENAME, "/lake/f", "/lake/g")
    assert lake.listed() == ["f", "g"]
    silence.end(restart=restart)
    assert lake.listed() == ["g"]
    assert house.stat("/lake/g").content == before.content


def test_what_came_from_outside_meanwhile_is_neither_deleted_nor_lost(house: House, lake: Lake, restart: bool) -> None:
    lake.put("f", b"1")
    lake.put("g", b"1")
    house.list("/lake")
    silence = Silence(house, acts=False)
    with pytest.raises(UfsUnknown):
        ask(house, Method.DELETE, "/lake/f")
    lake.put("f", b"from outside")
    silence.end(restart=restart)
    assert house.stat("/lake/f").size == len(b"from outside")
    if lake.bucket is None:
        return
    house.list("/lake")
    silence = Silence(house, acts=False, names=("delete",))
    with pytest.raises(UfsUnknown):
        ask(house, Method.RENAME, "/lake/g", "/lake/h")
    lake.put("g", b"written anew from outside")
    silence.end(restart=restart)
    assert lake.listed() == ["f", "g", "h"]
    assert (house.stat("/lake/g").size, house.stat("/lake/h").size) == (len(b"written anew from outside"), 1)


def test_a_retry_of_a_change_that_had_no_effect_begins_anew(house: House, lake: Lake) -> None:
    lake.put("f", b"1")
    house.list("/lake")
    request = Asking().next()
    silence = Silence(house, acts=False)
    with pytest.raises(UfsUnknown):
        ask(house, Method.COPY, "/lake/f", "/lake/g", request=request)
    retry = house.begin(Method.COPY, api.CopyRequest("/lake/f", "/lake/g", request=request))
    silence.end(restart=False)
    retry()
    assert lake.listed() == ["f", "g"]
    assert not is_open(house)


def test_a_retry_of_a_change_that_was_done_hears_so(house: House, lake: Lake) -> None:
    lake.put("f", b"1")
    house.list("/lake")
    request = Asking().next()
    silence = Silence(house, acts=True)
    with pytest.raises(UfsUnknown):
        ask(house, Method.RENAME, "/lake/f", "/lake/g", request=request)
    silence.end(restart=True)
    ask(house, Method.RENAME, "/lake/f", "/lake/g", request=request)
    assert lake.listed() == ["g"]


def test_a_copy_in_parts_that_died_leaves_no_upload(house: House, lake: Lake) -> None:
    if lake.bucket is None:
        pytest.skip("a directory copies in one step")
    lake.put("f", b"1")
    house.list("/lake")
    propose, stamp = house.master._proposer.propose, Stamp(1)
    raw = house.loop.do(propose, BeginCopy(stamp, "/lake/f", "/lake/g", True, False, Asker()))
    intent = decode_intent(raw)
    store = Scribe(house).store(intent.mount)
    key = intent.target_key.encode()
    for tried in range(2):  # the leader aborts that of its first try before it begins another
        upload = store.begin_upload(key, intent.name)
        house.loop.do(propose, RecordUpload(stamp, intent.number, upload))
        if tried == 0:
            store.abort_upload(key, upload)
    store.close()
    assert len(lake.bucket.uploads()) == 1
    house.restart()
    house.resolve()
    assert lake.bucket.uploads() == {}
    assert not is_open(house)


def test_a_large_object_is_copied_in_parts_whose_upload_is_recorded(
    house: House, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lake.bucket is None:
        pytest.skip("a directory copies in one step")
    monkeypatch.setattr("monofs.ufs.s3_uploads.COPY_BYTES_MAX", 1 << 20)
    monkeypatch.setattr("monofs.ufs.s3_uploads.COPY_PART_BYTES", 5 << 20)
    data = bytes(range(256)) * (11 << 12)
    lake.put("f", data)
    recorded: list[str] = []
    record = Acts._record
    monkeypatch.setattr(
        Acts, "_record", lambda acts, intent, upload: [record(acts, intent, upload), recorded.append(upload)]
    )
    ask(house, Method.COPY, "/lake/f", "/lake/g")
    ask(house, Method.RENAME, "/lake/f", "/lake/h")
    assert len(recorded) == 2
    assert lake.listed() == ["g", "h"]
    assert lake.get("g") == lake.get("h") == data
    assert lake.bucket.uploads() == {}


# ---- writes whose worker is gone ----------------------------------------------------------------------------------------


def test_a_write_of_a_silent_worker_is_ended_if_it_was_published_and_dropped_if_not(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    done, undone = scribe.begin("/lake/done", 1), scribe.begin("/lake/undone", 1)
    kept = scribe.begin("/lake/kept", 1, write_type="MUST_CACHE")
    plain = scribe.begin("/plain", 1)
    scribe.put(done, b"1")
    house.loop.do(house.master._resolver.look_around)
    house.settle()
    assert len(house.ask(Method.INTENT_LIST, api.Empty()).intents) == 4, "a live worker is left to it"
    house.now_s += 61
    house.loop.do(house.master._resolver.look_around)
    house.resolve()
    assert not is_open(house)
    assert house.stat("/lake/done").content == scribe.opened(done).content
    for begun in (undone, kept, plain):
        with pytest.raises(WriteLost):
            scribe.end(begun, None, 1)
    assert house.list("/lake", 0) == ["done"]


@pytest.mark.parametrize("is_published", [True, False])
def test_a_client_that_has_all_bytes_begins_anew_elsewhere_once_the_worker_is_silent(
    house: House, lake: Lake, is_published: bool
) -> None:
    gone, other = Scribe(house), Scribe(house)
    begun = gone.begin("/lake/f", 1)
    if begun.worker != gone.number:
        gone, other = other, gone
    if is_published:
        gone.put(begun, b"1")
    with pytest.raises(NotReady, match="is heard of"):
        gone.begin("/lake/f", 1, instead=begun.capability, reached=True)
    assert is_open(house), "the write is left to its worker"
    house.now_s += LEASE_S
    other.heartbeat(None)
    house.loop.do(house.master.members.check_leases)
    anew = gone.begin("/lake/f", 1, instead=begun.capability, reached=True)
    assert anew.worker == other.number
    assert bool(other.opened(anew).fingerprint) == is_published, "what the lost worker published is to be replaced"
    other.end(anew, other.put(anew, b"2"), 1)
    assert not is_open(house)
    assert house.list("/lake", 0) == ["f"]


@pytest.mark.parametrize("led_on", [True, False], ids=["the same master", "another master"])
def test_a_write_with_a_condition_that_is_sent_again_is_told_of_its_own_first_try(
    house: House, lake: Lake, led_on: bool
) -> None:
    scribe = Scribe(house)
    again = {"exclusive": True, "reached": True}
    begun = scribe.begin("/lake/f", 1, exclusive=True)
    made = scribe.end(begun, scribe.put(begun, b"1"), 1)
    if not led_on:
        house.restart()
        scribe.register()
    told = scribe.begin("/lake/f", 1, instead=begun.capability, **again)
    assert inode_of(told) == made
    assert not is_open(house)
    replacing = scribe.begin("/lake/f", 1, if_content=made.content)
    second = scribe.end(replacing, scribe.put(replacing, b"2"), 1)
    request = {"if_content": made.content, "reached": True}
    assert inode_of(scribe.begin("/lake/f", 1, instead=replacing.capability, **request)) == second
    with pytest.raises(AlreadyExists):
        scribe.begin("/lake/f", 1, exclusive=True)
    scribe.write("/lake/f", b"somebody's")
    if led_on:
        assert inode_of(scribe.begin("/lake/f", 1, instead=begun.capability, **again)) == made
    else:
        with pytest.raises(OutcomeUnknown):
            scribe.begin("/lake/f", 1, instead=begun.capability, **again)


@pytest.mark.parametrize("led_on", [True, False], ids=["the same master", "another master"])
@pytest.mark.parametrize("is_published", [True, False])
def test_who_has_the_bytes_no_more_is_told_what_became_of_a_write_whose_worker_is_gone(
    house: House, lake: Lake, is_published: bool, led_on: bool
) -> None:
    gone = Scribe(house)
    begun = gone.begin("/lake/f", 1)
    if is_published:
        gone.put(begun, b"1")
    settle = {"instead": begun.capability, "reached": True, "settle": True}
    with pytest.raises(NotReady, match="is heard of"):
        gone.begin("/lake/f", 1, **settle)
    house.now_s += LEASE_S
    house.loop.do(house.master.members.check_leases)
    if is_published:
        told = inode_of(gone.begin("/lake/f", 1, **settle))
        if not led_on:
            house.restart()
        assert inode_of(gone.begin("/lake/f", 1, **settle)) == told
        assert (told.size, house.stat("/lake/f").content) == (1, told.content)
    else:
        with pytest.raises(WriteLost):
            gone.begin("/lake/f", 1, **settle)
        if not led_on:
            house.restart()
        with pytest.raises(WriteLost if led_on else OutcomeUnknown):
            gone.begin("/lake/f", 1, **settle)
        assert house.list("/lake", 0) == []
    assert not is_open(house)


def test_a_write_with_a_condition_that_was_given_up_begins_anew(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    begun = scribe.begin("/lake/f", 1, exclusive=True)
    scribe.abandon(begun, WriteLost("lost"))
    anew = scribe.begin("/lake/f", 1, instead=begun.capability, reached=True, exclusive=True)
    assert anew.inode == api.NIL
    scribe.end(anew, scribe.put(anew, b"2"), 1)


def test_uploads_of_a_lost_worker_are_aborted_and_its_temporary_files_swept(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    begun = scribe.begin("/lake/d/large", -1)
    held = scribe.opened(begun)
    store = scribe.store(held.mount)
    upload = store.begin_upload(held.key.encode(), held.operation_name)
    house.ask(Method.RECORD_UPLOAD, api.RecordUploadRequest(begun.operation, upload, scribe.number))
    store.put_part(held.key.encode(), upload, 1, 0, [memoryview(b"part")])
    scribe.register()
    house.resolve()
    assert not is_open(house)
    if lake.bucket is not None:
        assert lake.bucket.uploads() == {}
    assert [key for key in lake.listed() if key != "d/"] == []
    store.close()


def test_an_upload_completed_by_a_worker_that_then_was_lost_is_a_file(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    begun = scribe.begin("/lake/large", -1)
    held = scribe.opened(begun)
    store = scribe.store(held.mount)
    key = held.key.encode()
    upload = store.begin_upload(key, held.operation_name)
    house.ask(Method.RECORD_UPLOAD, api.RecordUploadRequest(begun.operation, upload, scribe.number))
    part = store.put_part(key, upload, 1, 0, [memoryview(b"whole")])
    kept = Attributes(checksums={"CRC32": "MTIzNA=="}, parts=[(1, 1, 5)])
    house.ask(
        Method.PUBLISH, api.PublishRequest(begun.operation, 5, scribe.number, attributes=kept, etag="0" * 32 + "-2")
    )
    store.complete_upload(key, upload, [part], 5, held.operation_name, Condition(absent=True))
    house.restart()
    scribe.register()
    house.resolve()
    assert house.stat("/lake/large").size == 5
    told = house.ask(Method.STAT, api.StatRequest("/lake/large", attributes=True))
    assert msgspec.msgpack.decode(told.attributes, type=Attributes) == kept
    if lake.bucket is None:
        assert house.stat("/lake/large").etag == "0" * 32 + "-2"
    assert not is_open(house)
    store.close()


def test_a_publication_tells_nothing_that_an_older_master_would_not_keep(
    house: House, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(house.master._duties, "_voters_level", lambda: KEPT_LEVEL - 1)
    house.namespace.store.meta.level = KEPT_LEVEL - 1
    scribe = Scribe(house)
    begun = scribe.begin("/lake/large", -1)
    kept = Attributes(checksums={"CRC32": "MTIzNA=="})
    house.ask(Method.PUBLISH, api.PublishRequest(begun.operation, 5, scribe.number, attributes=kept, etag="0" * 32))
    intent = house.namespace.intent(begun.operation)
    assert intent is not None
    assert (intent.acting, intent.attributes, intent.etag) == (True, None, "")


def test_a_worker_that_comes_back_keeps_the_writes_it_names(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    named, unnamed = scribe.begin("/lake/named", 1), scribe.begin("/lake/unnamed", 1)
    house.restart()
    scribe.register((named.operation,))
    house.resolve()
    shown = house.ask(Method.INTENT_LIST, api.Empty()).intents
    assert [one.number for one in shown] == [named.operation]
    scribe.end(named, scribe.put(named, b"1"), 1)
    with pytest.raises(WriteLost):
        scribe.end(unnamed, None, 1)


def test_a_write_of_which_no_byte_ever_came_does_not_lock_its_path_for_long(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    begun = scribe.begin("/lake/f", 1)
    scribe.heartbeat([])
    scribe.heartbeat(None)
    assert is_open(house), "its bytes may still be on their way"
    house.later_ns = 31 * 10**9
    scribe.heartbeat([begun.operation])
    assert is_open(house)
    scribe.heartbeat([])
    house.resolve()
    assert not is_open(house)


def test_a_write_whose_client_died_before_it_sent_a_byte_frees_its_path_soon(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    client, other = DirectClient(house.service, NODE), DirectClient(house.service, NODE)
    dead, sent, alive = (
        house.loop.begin(asker.call, Method.BEGIN_WRITE, api.BeginWriteRequest(path, size=1), api.BeginWriteAnswer)()
        for asker, path in ((client, "/lake/dead"), (client, "/lake/sent"), (other, "/lake/alive"))
    )
    house.loop.do(client.close)
    house.loop.do(house.master._resolver.look_around)
    scribe.heartbeat([sent.operation])
    house.later_ns = 1 * 10**9
    scribe.heartbeat([sent.operation])
    house.resolve()
    assert len(house.ask(Method.INTENT_LIST, api.Empty()).intents) == 3, "what it had sent may still be on its way"
    house.later_ns = 3 * 10**9
    scribe.heartbeat([sent.operation])
    house.resolve()
    shown = house.ask(Method.INTENT_LIST, api.Empty()).intents
    assert [one.number for one in shown] == sorted([sent.operation, alive.operation])
    assert dead.operation not in [one.number for one in shown]


# ---- told -----------------------------------------------------------------------------------------------------------------


def test_what_is_resolved_is_counted_and_what_waits_says_why(house: House, lake: Lake) -> None:
    lake.put("f", b"1")
    house.stat("/lake/f")
    ended = INTENTS_RESOLVED("delete", "ended")
    before = ended.value
    silence = Silence(house, acts=False)
    with pytest.raises(UfsUnknown):
        ask(house, Method.DELETE, "/lake/f")
    house.settle()
    shown = house.ask(Method.INTENT_LIST, api.Empty()).intents[0]
    assert (shown.state, "no answer" in shown.error) == ("waits for the store", True)
    silence.end(restart=False)
    assert ended.value == before + 1


def test_intents_below_a_mount_that_is_gone_end(house: House, lake: Lake) -> None:
    scribe = Scribe(house)
    begun = scribe.begin("/lake/f", 1)
    try:
        house.ask(Method.MOUNT_REMOVE, api.MountRemoveRequest("/lake"))
    except MonofsError:
        scribe.abandon(begun, NotFound("given up"))  # then nothing can be unmounted under a write
        return
    house.now_s += 61
    house.loop.do(house.master._resolver.look_around)
    house.resolve()
    assert not is_open(house)
