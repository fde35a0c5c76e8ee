"""Ten thousand jobs: all are remembered, each view of them is of a bounded size, and the page of jobs stays fluid; what ends while they are looked at is seen."""

import json

import lmdb
import pytest
from playwright.sync_api import expect

from monofs.metadata.snapshot import open_databases, read_meta
from monofs.metadata.tables import JOBS_MAX, META_KEY, Job, JobKind, JobState, Table, encode_record, pack_id
from monofs.testing.nodes import ServedNode
from monofs.testing.visitors import Visitor, changed
from monofs.web.cluster_api import ENDED_LIVE

FAILED_EVERY = 100


def work_for_years(home):
    """As if so many jobs had been begun and ended: their records are put into the namespace of a node that is stopped."""
    with lmdb.open(f"{home}/namespace", max_dbs=32, map_size=1 << 30) as environment:
        databases = open_databases(environment, create=False)
        with environment.begin(write=True) as transaction:
            meta = read_meta(transaction.get(META_KEY, db=databases[Table.META]))
            meta.last_job = JOBS_MAX
            transaction.put(META_KEY, encode_record(meta), db=databases[Table.META])
            for number in range(1, JOBS_MAX + 1):
                failures = [("/f", "gone")] if number % FAILED_EVERY == 0 else []
                at_ns = meta.now_ns + number
                job = Job(number, JobKind.SYNC, JobState.DONE, f"/table-{number}", created_ns=at_ns, ended_ns=at_ns, done=5, failed=len(failures), failures=failures, ended_index=1)  # fmt: skip
                transaction.put(pack_id(number), encode_record(job), db=databases[Table.JOBS])


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    served = ServedNode(str(tmp_path_factory.mktemp("veteran") / "home"))
    with served:
        served.stop()
        work_for_years(served.home)
        yield served.start()


def numbers(page):
    """The jobs that are drawn."""
    return [int(each) for each in page.locator("tbody tr:not(.pad) td:first-child").all_inner_texts()]


def test_ten_thousand_jobs_are_told_page_by_page_and_the_last_of_them_first(node, fs):
    assert [job.number for job in fs.jobs()] == list(range(JOBS_MAX, 0, -1))
    assert [job.number for job in fs.jobs(3)] == [JOBS_MAX, JOBS_MAX - 1, JOBS_MAX - 2]
    assert fs.jobs(0) == []
    assert fs.job(FAILED_EVERY).failures == [("/f", "gone")]
    listed = node.cli("job", "ls").stdout.splitlines()
    assert [listed[1].split()[0], listed[-1].split()[0], len(listed)] == [str(JOBS_MAX), str(JOBS_MAX - 49), 51]
    assert len(node.cli("job", "ls", "--ended", "5").stdout.splitlines()) == 6
    told = node.cli("job", "ls", "--all", "--json").stdout.splitlines()
    assert [json.loads(each)["number"] for each in told] == list(range(JOBS_MAX, 0, -1))
    visitor = Visitor(node.doors["console"])
    page = visitor.ask("GET", f"/api/v1/jobs/history?before={JOBS_MAX - 1000}").json()
    assert list(page) == [str(JOBS_MAX - 1001 - at) for at in range(len(page))]
    assert len(page) == 500
    assert visitor.ask("GET", "/api/v1/jobs/history?before=1").json() == {}


def test_a_socket_is_told_the_last_jobs_and_then_what_changes(node, fs):
    socket = Visitor(node.doors["console"]).enter().watch("jobs")
    first = socket.receive()
    value = first["value"]
    assert len(value) == ENDED_LIVE
    number = fs.start_job("load", "/").number
    while not value.get(str(number), {}).get("ended_ns"):
        change = socket.receive()["change"]
        assert len(json.dumps(change)) < 3000
        value = changed(value, change)
    assert len(value) == ENDED_LIVE
    socket.close()


def test_the_page_of_ten_thousand_jobs_is_drawn_at_once_and_loads_more_when_it_is_scrolled(visit, fs):
    page = visit("/jobs").page
    page.get_by_text("more as you scroll").wait_for()
    newest = fs.jobs(1)[0].number
    page.locator("tbody tr", has_text=f"/table-{JOBS_MAX}").wait_for()
    assert numbers(page)[0] == newest
    assert len(numbers(page)) < 100
    box = page.get_by_role("searchbox", name="Filter jobs")
    box.fill("table-7777")  # which is found wherever it is
    page.get_by_role("link", name="7777", exact=True).wait_for()
    assert numbers(page) == [7777]
    page.get_by_text(f"1 of {JOBS_MAX:,}").wait_for()
    page.get_by_text("more as you scroll").wait_for(state="detached")
    box.fill("")
    page.get_by_label("Which jobs").select_option("failed")
    page.get_by_text(str(JOBS_MAX // FAILED_EVERY), exact=True).wait_for()
    page.get_by_label("Which jobs").select_option("")
    page.get_by_role("button", name="Begun").click()
    page.locator("tbody tr", has_text="/table-20").first.wait_for()
    assert numbers(page) == sorted(numbers(page))
    assert len(numbers(page)) < 100


def test_what_ends_while_ten_thousand_are_looked_at_is_seen_however_many_end_at_once(visit, fs):
    page = visit("/jobs").page
    page.get_by_text("more as you scroll").wait_for()
    begun = [fs.start_job("load", "/").number for _ in range(ENDED_LIVE + 50)]
    for number in begun:
        fs.wait_job(number)
    page.get_by_role("link", name=str(begun[-1]), exact=True).wait_for()
    for number in (begun[-1], begun[0]):
        page.get_by_role("searchbox", name="Filter jobs").fill(str(number))
        page.locator("tbody tr", has=page.get_by_role("link", name=str(number), exact=True)).get_by_text("done", exact=True).wait_for()  # fmt: skip
    box = page.locator("tbody tr:not(.pad) time").first
    expect(box).not_to_have_text(
        box.inner_text(), timeout=90_000
    )  # how long ago it began goes on, though nothing of it changes
