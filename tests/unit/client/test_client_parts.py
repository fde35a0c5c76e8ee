"""Parts of the client by themselves: errors, the slot table, the table of descriptors."""

import errno
import io
import os
import pickle
import threading
from array import array
from collections import deque

import pytest

from monofs.client.cluster import OTHERS, Cluster
from monofs.client.descriptors import Descriptor, DescriptorTable, Hot
from monofs.client.errors import python_error
from monofs.model.block import GROUP_SIZE_BYTES, LAYOUT_WHOLE, PAGE_SIZE_BYTES, SLOTS, pages_mask, slot_of
from monofs.model.errors import BY_CODE, Closed, ConnectionLost, MonofsError, NotReady, NoWorker, Unreachable
from monofs.model.ids import ContentId
from monofs.model.inode import Inode, Kind
from monofs.model.slots import EMPTY, SlotTable, pack_delta, table_of
from monofs.rpc.addresses import host_id
from monofs.rpc.api import ClusterAnswer, DescriptorAnswer, SlotsNews, WorkerInfo
from monofs.testing.masters import wait_until


@pytest.mark.parametrize("cls", list(BY_CODE.values()), ids=lambda cls: cls.__name__)
def test_every_error_leaves_the_client_as_an_oserror_too(cls):
    error = python_error(cls("a sentence", path="/x"))
    assert isinstance(error, cls)
    assert isinstance(error, OSError)
    assert isinstance(error, ValueError) == (error.code in (Closed.code, 1008))
    assert (error.errno, str(error), error.code) == (cls.errno, "a sentence", cls.code)
    assert error.detail == {"path": "/x"}
    assert not isinstance(error, BlockingIOError)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.detail) == (str(error), error.detail)
    assert python_error(error) is error


def test_the_builtin_is_the_one_of_the_errno():
    builtin = {errno.ENOENT: FileNotFoundError, errno.EEXIST: FileExistsError, errno.EACCES: PermissionError}
    builtin |= {errno.ENOTDIR: NotADirectoryError, errno.EISDIR: IsADirectoryError, errno.ETIMEDOUT: TimeoutError}
    builtin |= {errno.ECONNREFUSED: ConnectionRefusedError, errno.ECONNRESET: ConnectionResetError}
    for cls in BY_CODE.values():
        assert isinstance(python_error(cls()), builtin.get(cls.errno, OSError))


class Answers:
    """What a master would say, changeable."""

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    def __call__(self, request, timeout_s):
        self.asked += 1
        return self.answer


def worker(number, *, host="elsewhere", live=True):
    return WorkerInfo(number, f"127.0.0.1:{number}", f"/run/{number}.sock", host, live)


def answer_of(workers, lower, upper, epoch=1, **more):
    """The slots of the lower half list some workers, those of the upper others."""
    rows = array("H", lower * (SLOTS // 2) + upper * (SLOTS // 2))
    table = SlotTable(epoch, len(lower), rows)
    silent = [info.id for info in workers if not info.live]
    news = SlotsNews(epoch, [pack_delta(table.whole())], 1, silent)
    return ClusterAnswer(b"c", 1, epoch, workers, [], news=news, **more)


def cluster_of(workers, lower=(), upper=(), epoch=1):
    answers = Answers(answer_of(workers, list(lower), list(upper or lower), epoch))
    return Cluster(answers, lambda address: pytest.fail("nothing is to be connected")), answers


def ids(links):
    return [link.info.id for link in links]


def test_owners_come_first_by_slot_then_everybody_else():
    cluster, _ = cluster_of([worker(1), worker(2), worker(3)], [2, 1], [3, 1])
    halves = set()
    for content in range(1, 40):
        half = slot_of(ContentId(content), 0) >= SLOTS // 2
        halves.add(half)
        found = ids(cluster.candidates(ContentId(content), 0, 1))
        assert sorted(found) == [1, 2, 3]
        assert found[:2] == ([3, 1] if half else [2, 1])
    assert halves == {True, False}


def test_the_next_in_the_list_comes_first_when_the_owner_is_lost_and_of_others_those_of_this_machine():
    workers = [worker(1), worker(2), worker(3, live=False), worker(4, host=host_id())]
    cluster, _ = cluster_of(workers, [3, 2])
    assert ids(cluster.candidates(ContentId(5), 0, 1)) == [2, 4, 1, 3]


def test_while_all_that_a_slot_lists_are_lost_everybody_asks_the_same_other_worker():
    workers = [worker(1, live=False), worker(2), worker(3), worker(4)]
    cluster, _ = cluster_of(workers, [1])
    for content in range(1, 30):
        slot = slot_of(ContentId(content), 0)
        assert ids(cluster.candidates(ContentId(content), 0, 1))[0] == [2, 3, 4][slot % 3]


def test_of_many_workers_a_few_are_tried():
    cluster, _ = cluster_of([worker(number) for number in range(1, 101)], [7, 9])
    found = ids(cluster.candidates(ContentId(5), 0, 1))
    assert found[:2] == [7, 9]
    assert len(found) <= 2 + OTHERS


def test_the_table_is_followed_by_deltas_and_asked_for_as_a_whole_when_one_does_not_fit():
    cluster, answers = cluster_of([worker(1), worker(2)], [1])
    cluster.refresh()
    before, after = table_of(1, 1, b"\1\0" * SLOTS), table_of(2, 1, b"\2\0" + b"\1\0" * (SLOTS - 1))
    answers.answer = ClusterAnswer(
        b"c", 1, 2, [], [], news=SlotsNews(2, [pack_delta(before.delta_to(after))], 1), listed=0
    )
    answers.answer.workers = [worker(1), worker(2)]
    cluster.refresh()
    assert cluster._table == after
    other = after.delta_to(table_of(3, 1, b"\2\0" * 2 + b"\1\0" * (SLOTS - 2)))
    answers.answer.news = SlotsNews(3, [pack_delta(before.delta_to(after)), pack_delta(other)], 1)
    cluster.refresh()
    assert cluster._table == EMPTY


def test_bytes_that_only_some_workers_have_are_asked_of_those_alone():
    cluster, answers = cluster_of([worker(1), worker(2), worker(3)], [1])
    assert ids(cluster.candidates(ContentId(5), 0, 1, [3])) == [3]
    assert not cluster.failed(cluster.worker(3), ConnectionLost())
    assert ids(cluster.candidates(ContentId(5), 0, 1, [3])) == [3], "silent, but nobody else has them"
    with pytest.raises(NoWorker, match="at worker 9 only"):
        cluster.candidates(ContentId(5), 0, 1, [9])
    answers.answer = answer_of([worker(1), worker(9)], [1], [1])
    assert cluster.worker(9).info.id == 9
    with pytest.raises(NoWorker, match="worker 7 is not registered"):
        cluster.worker(7)


def test_who_did_not_answer_is_asked_last_and_a_socket_is_left_for_tcp_first():
    here = worker(1, host=host_id())
    cluster, _ = cluster_of([here, worker(2)], [1])
    first = cluster.candidates(ContentId(5), 0, 1)[0]
    assert first.is_local
    assert cluster.failed(first, Unreachable()), "the same worker, by TCP"
    assert not first.is_local
    assert not cluster.failed(first, Unreachable())
    assert ids(cluster.candidates(ContentId(5), 0, 1)) == [2, 1]
    cluster.look_again()
    assert first.is_local, "it may have restarted"
    other = cluster.links()[1]
    assert not cluster.failed(other, ConnectionLost())


def test_the_table_is_fetched_once_and_again_when_an_answer_names_another_epoch():
    cluster, answers = cluster_of([worker(1)], [1])
    link = cluster.candidates(ContentId(5), 0, 1)[0]
    for _ in range(5):
        assert cluster.candidates(ContentId(5), 0, 1) == [link]
    assert answers.asked == 1
    answers.answer = answer_of([worker(1), worker(9)], [9], [9], 2)
    cluster._refreshed_s = float("-inf")
    assert ids(cluster.candidates(ContentId(5), 0, 2)) == [9, 1]
    assert answers.asked == 2
    assert cluster.links()[0] is link, "a worker that stayed keeps its link, connections and leases"


def test_a_leader_that_has_not_heard_its_workers_yet_takes_none_away_and_is_waited_for():
    cluster, answers = cluster_of([worker(1)], [1])
    link = cluster.candidates(ContentId(5), 0, 1)[0]
    answers.answer = ClusterAnswer(b"c", 1, 2, [], [], awaited=True)
    cluster.refresh()
    assert cluster.candidates(ContentId(5), 0, 2) == [link]
    assert cluster.candidates(ContentId(5), 0, 2, [1]) == [link]
    with pytest.raises(NotReady):
        cluster.candidates(ContentId(5), 0, 2, [9])
    with pytest.raises(NotReady):
        cluster.worker(9)
    answers.answer = ClusterAnswer(b"c", 1, 3, [], [])
    cluster.refresh()
    with pytest.raises(NoWorker):
        cluster.candidates(ContentId(5), 0, 3)


def test_a_client_without_a_table_waits_for_the_workers_of_a_new_leader():
    cluster, answers = cluster_of([])
    answers.answer = ClusterAnswer(b"c", 1, 1, [], [], awaited=True)
    with pytest.raises(NotReady):
        cluster.candidates(ContentId(5), 0, 1)


def test_without_workers_the_error_says_so():
    cluster, _ = cluster_of([], [])
    with pytest.raises(NoWorker, match="no worker is registered"):
        cluster.candidates(ContentId(5), 0, 1)


@pytest.fixture
def leases():
    return deque()


@pytest.fixture
def make(tmp_path, leases):
    def make(number, present=1, length=100):
        path = tmp_path / str(number)
        path.write_bytes(b"x" * length)
        inode, answer = Inode(Kind.FILE, 1, 1, length), DescriptorAnswer(present, 0, length, number, number)
        return Descriptor(os.open(path, os.O_RDONLY), inode, 0, answer, leases)

    return make


class Interrupted(int):
    """Pages told to one thread while another one is told the same, just before they are added."""

    def __new__(cls, pages, meanwhile):
        self = super().__new__(cls, pages)
        self.meanwhile = meanwhile
        return self

    def __ror__(self, before):
        self.meanwhile()
        return int(self) | before


def test_a_block_of_which_two_threads_learn_the_same_group_is_not_whole_while_another_group_is_missing(
    tmp_path, leases
):
    path, size = tmp_path / "block", 2 * GROUP_SIZE_BYTES
    path.touch()
    os.truncate(path, size)
    inode = Inode(Kind.FILE, 1, 1, size, layout=LAYOUT_WHOLE)
    answer = DescriptorAnswer(0, 0, GROUP_SIZE_BYTES, 1, 1)
    descriptor = Descriptor(os.open(path, os.O_RDONLY), inode, 0, answer, leases)
    full = pages_mask(0, 63)
    descriptor.add_pages(0, Interrupted(full, lambda: descriptor.add_pages(0, full)))
    assert not descriptor.whole, "group 1 would be read as zeros"
    descriptor.add_pages(1, full)
    assert descriptor.whole


class Giver:
    """Stands for the link to a worker."""

    def __init__(self, wanted=()):
        self.asked, self.kept, self.wanted = 0, [], wanted

    def give_back(self, at_least=32, kept=()):
        assert at_least == 1
        self.asked += 1
        self.kept.append(sorted(kept))
        return [lease for lease in kept if lease in self.wanted]


W = Giver()


def test_a_descriptor_closes_and_gives_its_lease_back_with_its_last_reference(make, leases):
    table = DescriptorTable(limit=8)
    descriptor = make(7)
    number = descriptor.fd
    table.add((W, 1, 0), descriptor)
    table.drop((W, 1, 0))
    assert os.pread(number, 1, 0) == b"x", "a thread still reads"
    assert not leases
    del descriptor
    assert list(leases) == [7]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(number)
    assert table.open_count() == 0


def test_an_open_file_reads_by_itself_only_from_what_the_table_still_holds(make, leases):
    table, hot, other = DescriptorTable(limit=8), Hot(), Hot()
    descriptor = make(7)
    table.add((W, 1, 0), descriptor)
    for each in (hot, other):
        table.lend((W, 1, 0), descriptor, each)
        assert each.last is descriptor
        assert each.at(99) is descriptor
        assert each.at(GROUP_SIZE_BYTES) is None
    del other, each
    table.drop((W, 1, 0))
    assert (hot.last, hot.at(0)) == (None, None)
    table.lend((W, 1, 0), descriptor, hot)
    assert hot.at(0) is None, "it was dropped between asking and lending"
    del descriptor
    assert list(leases) == [7]


def test_only_a_complete_and_exact_file_is_read_without_looking_at_bits(make):
    assert make(1).whole
    assert not make(2, present=0).whole
    two_pages = make(3, present=1, length=PAGE_SIZE_BYTES + 5)
    assert not two_pages.whole
    two_pages.add_pages(0, 0b10)
    assert two_pages.whole
    longer = make(4)
    os.truncate(f"/proc/self/fd/{longer.fd}", 200)
    longer.add_pages(0, 0)
    assert not longer.whole, "a read could run into what is not of this group"


def test_at_the_bound_the_least_used_go_first_and_held_ones_are_not_counted_away(make):
    table = DescriptorTable(limit=16)
    for number in range(16):
        assert table.has_room()
        table.add((W, number, 0), make(number))
    for number in range(16):
        descriptor = table.get((W, number, 0))
        descriptor.used = number >= 4
    descriptor = None
    assert table.has_room()
    assert table.open_count() == 14
    assert table.get((W, 0, 0)) is None
    assert table.get((W, 15, 0)) is not None
    held = [table.get((W, number, 0)) for number in range(16)]
    held = [one for one in held if one is not None]
    while table.open_count() < 16:
        extra = make(100 + len(held))
        table.add((W, 100 + len(held), 0), extra)
        held.append(extra)
    assert not table.has_room(), "every one is held by somebody"
    held.clear()
    extra = None
    assert table.has_room()


def test_what_nobody_uses_is_closed_and_given_back_though_the_program_does_nothing(make, leases):
    giver = Giver()
    table = DescriptorTable(limit=16, idle_s=0.01)
    table.add((giver, 1, 0), make(1))
    table.add((giver, 2, 0), make(2))
    wait_until(lambda: table.open_count() == 0 and giver.asked >= 2, "they stay open")
    assert sorted(leases) == [1, 2]
    table.add((giver, 3, 0), make(3))
    wait_until(lambda: table.open_count() == 0, "it stays open")


def test_what_a_worker_wants_back_is_closed_though_it_is_in_use(make, leases):
    giver = Giver(wanted=(2,))
    table, hot = DescriptorTable(limit=16, idle_s=0.05), Hot()
    for number in (1, 2):
        table.add((giver, number, 0), make(number))
    table.lend((giver, 2, 0), table.get((giver, 2, 0)), hot)

    def use():
        for number in (1, 2):
            table.get((giver, number, 0))
        return list(leases) == [2]

    wait_until(use, "it was not given up")
    assert giver.kept[0] == [1, 2]
    assert (hot.last, hot.at(0)) == (None, None), "the open file asks again"
    assert table.get((giver, 1, 0)) is not None


def test_a_descriptor_that_came_meanwhile_is_not_taken_for_the_one_wanted_back(make, leases):
    table = DescriptorTable(limit=16)
    table.add((W, 1, 0), make(8))
    table._give_up({(W, 1, 0): 7})
    assert table.get((W, 1, 0)).lease == 8
    assert not leases


def test_threads_that_read_never_meet_a_number_used_again(make):
    table = DescriptorTable(limit=4)
    wrong = []

    def churn(seed):
        for i in range(200):
            key = (W, (seed + i) % 10, 0)
            found = table.get(key)
            if found is None and table.has_room():
                found = make(f"{seed}-{i}")
                table.add(key, found)
            if found is not None and os.pread(found.fd, 10, 0) != b"x" * 10:
                wrong.append(key)

    threads = [threading.Thread(target=churn, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


def test_io_takes_our_errors_for_its_own():
    assert isinstance(python_error(MonofsError("x")), OSError)
    assert isinstance(python_error(Closed()), io.UnsupportedOperation)
