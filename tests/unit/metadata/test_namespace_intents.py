"""Intents: what they lock, how they end, whom that answers, and that nothing of them is left."""

from __future__ import annotations

import pytest
from intent_lake import ANN, lay, nothing_is_left, told
from metadata_home import Home, file, refused

from monofs.metadata import sessions
from monofs.metadata.draft import Draft
from monofs.metadata.entries import AddMount, ExpireClients, RemoveBelow, RemoveMount, Stamp, UpdateMount
from monofs.metadata.intent_entries import Abandon, Asker, End, Publish, RecordUpload
from monofs.metadata.ops import guarding
from monofs.metadata.sessions import FRESH
from monofs.metadata.tables import FeedKind
from monofs.model.errors import (
    Busy,
    ConditionFailed,
    InvalidArgument,
    NotEmpty,
    NotFound,
    Overloaded,
    SessionExpired,
    UfsChanged,
    WouldLose,
    WriteLost,
)
from monofs.model.paths import parse_path


@pytest.fixture
def lake(home: Home) -> Home:
    return lay(home)


# ---- locks ----------------------------------------------------------------------------------------------------------


def test_a_lock_keeps_off_changes_at_its_path_above_and_below_and_no_others(lake: Home) -> None:
    intent = lake.begin_write("/m/d/x/f")
    for refusal in (
        lake.begin_write("/m/d/x/f"),
        lake.begin_write("/m/d/x"),
        lake.begin_write("/m/d/x/f/deeper"),
        lake.begin_mkdir("/m/d/x"),
        lake.begin_rename("/m/d", "/m/e"),
        lake.begin_rename("/m/f", "/m/d/x/f/g"),
        lake.begin_copy("/m/f", "/m/d/x/f"),
        lake.remove_tree("/m/d"),
        lake.rename_tree("/m/d", "/m/e"),
        lake.mount("/m/d/x"),
    ):
        if not isinstance(refusal, NotFound):
            assert refused(refusal, Busy)
    assert refused(lake.begin_write("/m/d/x"), Busy)
    assert lake.begin_write("/m/d/x/f").detail["operation"] == intent.number
    lake.end(lake.begin_write("/m/d/g"), file("g", "2"))
    lake.end(lake.begin_write("/m/d/x/ff"), file("ff"))
    lake.end(intent, file("f"))
    assert lake.names("/m/d/x") == [b"f", b"ff"]


def test_locks_are_asked_for_by_path_above_and_below(lake: Home) -> None:
    namespace = lake.namespace
    number = lake.begin_rename("/m/f", "/m/d/f").number
    for path in ("/m/f", "/m/d/f"):
        assert namespace.lock_at(parse_path(path)) == number
        assert namespace.locked_above(parse_path(path + "/below")) == number
    assert [namespace.locked_below(parse_path(path)) for path in ("/", "/m", "/m/d", "/m/f", "/m/e")] == [
        number,
        number,
        number,
        0,
        0,
    ]
    assert namespace.locked_above(parse_path("/m/d/g")) == 0
    assert namespace.intent(number) == namespace.intents(0, 10)[0]
    assert namespace.intents(number, 10) == []
    lake.apply(Abandon(lake.stamp(), number, 1002, ""))
    assert namespace.locked_below(()) == 0


def test_cache_only_changes_keep_off_locks_too(home: Home) -> None:
    home.mkdir("/d/e", parents=True)
    home.create("/f")
    intent = home.begin_write("/d/e/x", write_type="MUST_CACHE")
    for refusal in (
        home.create("/d/e/x"),
        home.mkdir("/d/e/x"),
        home.rename("/d", "/g"),
        home.rename("/f", "/d/e/x"),
        home.remove_tree("/d"),
        home.mount("/d/e/x/y"),
    ):
        assert refused(refusal, Busy)
    assert refused(home.delete("/d/e"), Busy)
    home.end(intent, None)
    assert home.rename("/f", "/d/e/x")


def test_open_intents_are_bounded(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "INTENTS_MAX", 2)
    one = lake.begin_write("/m/1")
    lake.end(lake.begin_write("/m/2"), file("2"))
    two = lake.begin_write("/m/2")
    for refusal in (lake.begin_write("/m/3"), lake.begin_delete("/m/f"), lake.begin_mkdir("/m/3")):
        assert refused(refusal, Overloaded)
    lake.end(one, file("1"))
    lake.end(two, file("2", "2"))


def test_intents_and_locks_survive_restarts(lake: Home) -> None:
    one, two = lake.begin_write("/m/1", asker=ANN), lake.begin_rename("/m/f", "/m/d/f")
    lake.begin_write("/m/3", size=-1)
    for stop in (lake.lose_memory, lake.flush):
        stop()
        if stop == lake.flush:
            lake.close()
        lake.open()
        assert lake.namespace.intents(0, 10)[:2] == [one, two]
        assert lake.namespace.intent_of(ANN) == one
        assert refused(lake.begin_write("/m/1"), Busy)
        assert refused(lake.begin_write("/m/d/f"), Busy)
    for intent in lake.namespace.intents(0, 10):
        lake.apply(Abandon(lake.stamp(), intent.number, 1002, ""))
    assert nothing_is_left(lake)


# ---- ending ---------------------------------------------------------------------------------------------------------


def test_outcomes_that_cannot_be_are_refused_and_leave_the_intent_open(lake: Home) -> None:
    through, kept = lake.begin_write("/m/x"), lake.begin_write("/m/y", write_type="MUST_CACHE")
    parts, made = lake.begin_write("/m/z", size=-1), lake.begin_mkdir("/m/made")
    assert refused(lake.end(through, None), InvalidArgument)
    assert refused(lake.end(through, file("x"), size=11), InvalidArgument)
    assert refused(lake.end(kept, file("y")), InvalidArgument)
    assert refused(lake.apply(End(lake.stamp(), kept.number, None, 10)), InvalidArgument)
    assert refused(lake.end(parts, file("z")), InvalidArgument)
    assert refused(lake.end(made, None), InvalidArgument)
    assert len(lake.namespace.intents(0, 10)) == 4
    for intent in (through, kept, parts, made):
        assert refused(lake.apply(Abandon(lake.stamp(), intent.number, NotFound.code, "no")), NotFound)
    assert told(lake, FeedKind.RETIRED) == [through.content, kept.content, parts.content]
    assert refused(lake.end(through, file("x")), ConditionFailed)
    assert refused(lake.apply(Abandon(lake.stamp(), through.number, 1002, "")), ConditionFailed)


def test_the_outcome_is_the_answer_of_the_request(lake: Home) -> None:
    intent = lake.begin_write("/m/x", asker=ANN)
    stamp = Stamp(lake.clock_ns, ANN.client, 1, 1)
    assert lake.namespace.recall(stamp) is FRESH
    assert refused(lake.begin_write("/m/elsewhere", asker=ANN), Busy)
    record = lake.end(intent, file("x"), stamp=stamp)
    assert lake.namespace.recall(stamp) == record
    assert lake.end(intent, file("x"), stamp=stamp) == record
    assert refused(lake.begin_write("/m/elsewhere", asker=ANN), Busy)
    second = lake.begin_delete("/m/x", Asker(ANN.client, 2, 1))
    lake.apply(Abandon(Stamp(lake.clock_ns, ANN.client, 2, 1), second.number, UfsChanged.code, "changed"))
    assert refused(lake.namespace.recall(Stamp(lake.clock_ns, ANN.client, 2, 1)), UfsChanged)
    assert refused(lake.begin_delete("/m/x", Asker(ANN.client, 2, 1)), UfsChanged)


def test_an_outcome_is_applied_though_its_asker_is_past_hearing_it(lake: Home) -> None:
    """The act was done: whether somebody still waits for the answer changes nothing."""
    trimmed = lake.begin_write("/m/x", asker=Asker(ANN.client, 2, 1))
    forgotten = lake.begin_write("/m/y", asker=Asker(b"gone", 1, 1))
    lake.apply(ExpireClients(lake.stamp(ANN.client, 1, 1), [b"gone"]))
    lake.apply(ExpireClients(lake.stamp(ANN.client, 3, 3), [b"gone"]))
    stamp = Stamp(lake.clock_ns, ANN.client, 2, 1)
    assert refused(lake.namespace.recall(stamp), SessionExpired)
    assert lake.end(trimmed, file("x"), stamp=stamp) == lake.namespace.lookup(parse_path("/m/x")).raw
    stamp = Stamp(lake.clock_ns, b"gone", 9, 8)
    assert lake.apply(Abandon(stamp, forgotten.number, UfsChanged.code, "changed")).code == UfsChanged.code
    assert nothing_is_left(lake)
    assert b"gone" not in lake.namespace.clients()


def test_an_outcome_is_applied_where_no_more_answers_are_held(lake: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    intent = lake.begin_write("/m/x", asker=ANN)
    monkeypatch.setattr(sessions, "ANSWERS_MAX", 0)
    stamp = Stamp(lake.clock_ns, ANN.client, 1, 1)
    assert isinstance(lake.end(intent, file("x"), stamp=stamp), bytes)
    assert nothing_is_left(lake)


def test_a_mount_owes_its_store_what_is_open_and_goes_only_when_that_is_given_up(lake: Home) -> None:
    intent = lake.begin_write("/m/x", asker=ANN)
    job = lake.remove_tree("/m/d")
    assert refused(lake.apply(RemoveMount(lake.stamp(), "/m")), Busy)
    lake.apply(Abandon(lake.stamp(), intent.number, 1002, ""))
    assert refused(lake.apply(RemoveMount(lake.stamp(), "/m")), Busy)
    late = lake.begin_write("/m/x")
    index = lake.covering("/m").changed_index
    lake.apply(UpdateMount(lake.stamp(), "/m", index, {}, b"", False, None, "noAccess"))
    unasked = lake.apply(RemoveMount(lake.stamp(), "/m", False, len(lake.log)))
    assert refused(unasked, WouldLose)
    assert "/m/x, which is being written" in str(unasked)
    assert "job 1, which deletes what was below /m/d" in str(unasked)
    assert lake.namespace.counts()["intents"] == 1
    told_of = lake.apply(RemoveMount(lake.stamp(), "/m", True, len(lake.log)))
    assert told_of == ["/m/x, which is being written", "job 1, which deletes what was below /m/d"]
    assert nothing_is_left(lake)
    assert late.content in told(lake, FeedKind.RETIRED)
    assert lake.namespace.job(job).state == 4
    assert refused(lake.end(late, file("x")), ConditionFailed)
    while lake.apply(RemoveBelow(lake.stamp(), 10)):
        pass
    assert lake.namespace.counts()["inodes"] == 1


def test_a_mount_given_up_tells_which_uploads_stay_in_its_store(lake: Home) -> None:
    begun = lake.begin_write("/m/large", size=-1)
    lake.apply(RecordUpload(lake.stamp(), begun.number, "upload-1"))
    index = lake.covering("/m").changed_index
    lake.apply(UpdateMount(lake.stamp(), "/m", index, {}, b"", False, None, "noAccess"))
    assert lake.apply(RemoveMount(lake.stamp(), "/m", True, len(lake.log))) == [
        "/m/large, which is being written (upload upload-1)"
    ]


def test_a_mount_stays_when_files_no_store_has_came_while_it_was_searched_for_them(lake: Home) -> None:
    searched = len(lake.log)
    lake.write("/m/d/persisted")
    assert lake.namespace.meta.kept_index <= searched
    lake.keep("/m/d/kept")
    assert refused(lake.apply(RemoveMount(lake.stamp(), "/m", True, searched)), Busy)
    searched = len(lake.log)
    lake.end(lake.begin_rename("/m/d/kept", "/m/kept"), None)
    assert refused(lake.apply(RemoveMount(lake.stamp(), "/m", False, searched)), Busy), "one it may have missed moved"
    searched = len(lake.log)
    lake.keep("/m/e/kept")
    moves = len(lake.log)
    lake.rename_tree("/m/e", "/m/g")
    assert lake.namespace.meta.kept_index == moves + 1
    lake.keep("/elsewhere")
    assert lake.namespace.meta.kept_index == moves + 1, "it lies below no mount"


def test_a_mount_is_not_made_where_something_is_under_way(lake: Home) -> None:
    intent = lake.begin_write("/m/new/f")
    assert refused(lake.apply(AddMount(lake.stamp(), "/m/new", "s3://b", {}, b"", False, False)), Busy)
    lake.end(intent, file("f"))


def test_a_mount_made_over_a_write_in_parts_loses_it(lake: Home) -> None:
    intent = lake.begin_write("/m/new/f", size=-1)
    lake.mount("/m/new")
    assert refused(lake.apply(Publish(lake.stamp(), intent.number, 1)), WriteLost)
    lake.apply(Abandon(lake.stamp(), intent.number, 1002, ""))


def test_ends_do_what_still_can_be_done(lake: Home) -> None:
    """Beside adoption, which leaves locked names alone, nothing gets past a lock; ends do not rely on it."""
    deleting, renaming = lake.begin_delete("/m/f"), lake.begin_rename("/m/d/g", "/m/d/h")
    emptying = lake.begin_delete("/m/empty")
    root, d = lake.inode("/m").id, lake.inode("/m/d").id
    gone = [(root, b"f", lake.inode("/m/f")), (d, b"g", lake.inode("/m/d/g"))]
    draft = Draft(lake.namespace, len(lake.log), 1)
    for parent, key, inode in gone:
        draft.remove_file(parent, key, inode)
    draft.add_inode(lake.inode("/m/empty").id, b"child", draft.changed(gone[0][2], id=lake.inode("/m/f").id))
    lake.namespace._take_over(draft, 1)
    assert lake.end(deleting, None) is None
    assert refused(lake.end(renaming, file("h")), NotFound)
    assert refused(lake.end(emptying, None), NotEmpty)
    assert nothing_is_left(lake)
