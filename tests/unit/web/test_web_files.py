"""What stands behind Browse: uploads that are whole or nothing, the map of a file's pages, names of topics that are one viewer's own."""

from __future__ import annotations

import msgspec
import pytest

from monofs.model.block import GROUP_PAGES, PAGE_SIZE_BYTES
from monofs.model.errors import AlreadyExists, ConditionFailed, NotFound, Overloaded, Unreachable
from monofs.model.principal import ANONYMOUS
from monofs.rpc.api import CachedAnswer, CachedGroup, Gone
from monofs.web.files_api import CELLS_MAX, _before, cache_map
from monofs.web.hub import Hub
from monofs.web.topics import own_topic, source_of
from monofs.web.uploads import ALL_MAX, EACH_MAX, IDLE_S, PIECE_MAX_BYTES, UploadBegin, Uploads
from monofs.web.viewers import Viewer


class Session:
    """A file system object that remembers what is written to it."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.aborted: list[str] = []

    def writer(self, path: str, *, exclusive: bool):
        if exclusive and path in self.files:
            raise AlreadyExists(path)
        return Written(self, path)


class Written:
    def __init__(self, session: Session, path: str) -> None:
        self.session, self.path, self.data = session, path, b""

    def write(self, piece: bytes) -> None:
        self.data += piece

    def abort(self) -> None:
        self.session.aborted.append(self.path)


@pytest.fixture
def session():
    return Session()


@pytest.fixture
def viewer(session):
    return Viewer(ANONYMOUS, session)


def test_pieces_come_in_order_and_each_counts_once(viewer):
    uploads = Uploads()
    begun = uploads.upload_begin(viewer, UploadBegin("/f"))
    assert uploads.upload_take(viewer, begun.id, 0, b"abc").received == 3
    assert uploads.upload_take(viewer, begun.id, 0, b"abc").received == 3, "the answer was lost: it is sent again"
    with pytest.raises(ConditionFailed, match="has 3 bytes"):
        uploads.upload_take(viewer, begun.id, 4, b"x")
    uploads.upload_take(viewer, begun.id, 3, b"de")
    with pytest.raises(ConditionFailed, match="has 5 bytes, not 6"):
        uploads.upload_end(viewer, begun.id, 6)
    uploads.upload_abort(viewer, begun.id)
    assert viewer.fs.aborted == ["/f"]
    with pytest.raises(NotFound):
        uploads.upload_take(viewer, begun.id, 5, b"x")


def test_nobody_else_continues_an_upload(viewer, session):
    uploads = Uploads()
    begun = uploads.upload_begin(viewer, UploadBegin("/f"))
    other = Viewer(ANONYMOUS, session)
    with pytest.raises(NotFound):
        uploads.upload_take(other, begun.id, 0, b"x")
    with pytest.raises(NotFound):
        uploads.upload_abort(other, begun.id)


def test_uploads_are_bounded_for_each_viewer_and_in_all(session):
    uploads = Uploads()
    viewers = [Viewer(ANONYMOUS, session) for _ in range(ALL_MAX // EACH_MAX + 1)]
    for viewer in viewers[:-1]:
        for number in range(EACH_MAX):
            uploads.upload_begin(viewer, UploadBegin(f"/{number}"))
    with pytest.raises(Overloaded, match="of yours"):
        uploads.upload_begin(viewers[0], UploadBegin("/one more"))
    with pytest.raises(Overloaded, match="too many"):
        uploads.upload_begin(viewers[-1], UploadBegin("/one more"))


def test_an_upload_that_could_not_begin_holds_no_place(viewer, session):
    session.files["/there"] = b""
    uploads = Uploads()
    for _ in range(EACH_MAX + 1):
        with pytest.raises(AlreadyExists):
            uploads.upload_begin(viewer, UploadBegin("/there"))
    uploads.upload_begin(viewer, UploadBegin("/there", replace=True))


def test_what_nobody_continues_is_given_up(viewer):
    now_s = [0.0]
    uploads = Uploads(clock=lambda: now_s[0])
    begun = uploads.upload_begin(viewer, UploadBegin("/f"))
    now_s[0] = IDLE_S - 1
    assert not uploads.has_idle()
    uploads.upload_take(viewer, begun.id, 0, b"abc")
    now_s[0] += IDLE_S
    assert not uploads.has_idle()
    now_s[0] += 1
    assert uploads.has_idle()
    uploads.sweep()
    assert viewer.fs.aborted == ["/f"]
    assert not uploads.has_idle()


def group(number: int, pages: int, tier: str = "MEM", *, pinned: bool = False) -> CachedGroup:
    return CachedGroup(7, number, pages, 0, tier, pinned, 0, 0)


def test_of_a_file_of_few_pages_each_page_is_a_cell():
    size = 70 * PAGE_SIZE_BYTES - 5
    told = cache_map(size, {"a:1": CachedAnswer([group(0, 0b101), group(1, 0b100001, "DISK", pinned=True)])}, {})
    assert (told.pages, told.cells, told.pages_per_cell) == (70, 70, 1)
    assert sorted(map(int, told.workers["a:1"].cells)) == [0, 2, 64, 69]
    assert told.workers["a:1"].cells["69"].tier == "DISK"
    assert told.workers["a:1"].cells["69"].pinned
    assert told.workers["a:1"].pages == 4


def test_of_a_larger_file_a_cell_is_several_pages_and_says_how_many_it_has():
    told = cache_map(600 * PAGE_SIZE_BYTES, {"a:1": CachedAnswer([group(1, 0b1110001)])}, {})
    assert (told.cells, told.pages_per_cell) == (300, 2)
    assert {int(at): cell.pages for at, cell in told.workers["a:1"].cells.items()} == {32: 1, 34: 2, 35: 1}


@pytest.mark.parametrize("size", [0, 1, 512 << 20, (512 << 20) + 1, 1 << 40, 1 << 50])
def test_however_large_a_file_its_map_is_bounded_and_counts_every_page(size):
    pages = -(-size // PAGE_SIZE_BYTES)
    groups = -(-pages // GROUP_PAGES)
    last = [group(groups - 1, 1)] if groups else []
    told = cache_map(size, {"a:1": CachedAnswer(last)}, {})
    assert told.cells <= CELLS_MAX
    assert told.cells * told.pages_per_cell >= pages
    assert told.workers["a:1"].pages == len(last)
    assert all(int(cell) < told.cells for cell in told.workers["a:1"].cells)


def test_a_worker_that_does_not_answer_is_said_and_what_left_is_told_newest_first():
    gone = [Gone(7, 0, "evicted", 5), Gone(7, 1, "freed", 9)]
    answers = {"a:1": Unreachable("away"), "b:1": CachedAnswer([group(0, 1)], gone)}
    told = cache_map(1 << 30, answers, {"a:1": 130.0, "b:1": 6.0})
    assert (told.workers["a:1"].error, told.workers["a:1"].silent_s) == ("away", 130.0)
    assert told.workers["b:1"].silent_s == 0, "it answers"
    assert [each["why"] for each in told.gone] == ["freed"], "group 0 is there again"


@pytest.mark.parametrize("begun", ["a", "b", "\u0001", "\ue000", "日", "a" * 255])
def test_names_that_begin_so_stand_behind_the_key_that_is_asked_from(begun):
    key = _before(begun)
    key.decode()
    assert len(key) <= 257
    assert key < begun.encode()


class Browser:
    is_full = False

    def __init__(self) -> None:
        self.got: list[dict] = []

    def send(self, message: bytes) -> None:
        self.got.append(msgspec.json.decode(message))


def test_a_path_is_told_to_the_viewer_who_asks_and_to_nobody_else(session):
    one, two = Viewer(ANONYMOUS, session), Viewer(ANONYMOUS, session)
    hub, watching, other = Hub(), Browser(), Browser()
    hub.watch(own_topic("file:/secret", one), watching)
    hub.watch(own_topic("file:/secret", two), other)
    hub.publish(own_topic("file:/secret", one), {"a": 1}, 5)
    assert [message["topic"] for message in watching.got] == ["file:/secret"]
    assert other.got == []
    forged = own_topic(own_topic("file:/secret", one), two)
    assert forged == own_topic("file:/secret", two), "what a browser sends cannot name another's topic"
    assert source_of(forged).is_own


def test_a_piece_is_no_longer_than_a_body_may_be():
    from monofs.web.events import BODY_MAX_BYTES

    assert PIECE_MAX_BYTES <= BODY_MAX_BYTES
