"""Two browsers, one at the master that leads and one at another: what is done in one is seen in the other without loading anything, on every page where something can be done."""

import re

import pytest
from playwright.sync_api import expect

from monofs.testing.masters import Masters, wait_until
from monofs.testing.nodes import ServedNode


class House:
    """Three masters and two workers."""

    def __init__(self, directory):
        self.masters = Masters(str(directory / "group"))
        self.workers = [ServedNode(str(directory / f"worker-{number}"), sets=[f"worker.masters={self.masters.addresses}"]) for number in (1, 2)]  # fmt: skip
        for each in self.workers:
            each.flags = ["--role", "worker", "--cluster-secret-file", self.masters.secret]


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    made = House(tmp_path_factory.mktemp("together"))
    with made.masters, made.workers[0], made.workers[1]:
        yield made


@pytest.fixture(scope="module")
def fs(house):
    with house.masters.connect() as client:
        client.make_directory("/shared")
        yield client


@pytest.fixture(scope="module")
def node(house):
    """Where pages are opened that say nothing else."""
    return house.masters.nodes["m1"]


@pytest.fixture
def two(visit, house):
    """Two pages of the same address."""

    def open_two(path):
        leader = house.masters.leader()
        other = next(name for name in house.masters.nodes if name != leader)
        return [visit(path, base=house.masters.nodes[name].doors["console"], expects="ERR_").page for name in (leader, other)]  # fmt: skip

    return open_two


def row(page, text):
    return page.get_by_role("row").filter(has_text=text)


def agree(page, button):
    """Say yes to the question that lies over the page."""
    page.get_by_role("dialog").get_by_role("button", name=button, exact=True).click()
    page.get_by_role("dialog").wait_for(state="detached")


def menu(page, name, action):
    page.get_by_role("button", name=f"Actions for {name}").click()
    page.get_by_role("dialog").get_by_role("button", name=action).click()


def test_what_is_made_uploaded_pinned_and_deleted_is_seen_by_the_other(two, fs):
    one, other = two("/browse/shared")
    one.get_by_role("button", name="New directory").click()
    one.get_by_label("Name").fill("made")
    agree(one, "Make")
    row(other, "made").wait_for()
    other.locator("input[type=file]").set_input_files({"name": "note.txt", "mimeType": "text/plain", "buffer": b"seen"})
    row(one, "note.txt").wait_for()
    row(one, "note.txt").get_by_role("link").click()
    one.get_by_text("seen", exact=True).wait_for()
    menu(other, "note.txt", "Pin")
    one.get_by_text("pinned", exact=True).first.wait_for()
    menu(other, "note.txt", "Delete")
    other.get_by_role("dialog").get_by_role("button", name="Delete").click()
    one.get_by_text(re.compile("This file is not there any more|There is nothing at this path")).first.wait_for()
    row(other, "note.txt").wait_for(state="detached")


def test_a_mount_that_is_added_changed_and_removed_is_seen_by_the_other(two, tmp_path):
    one, other = two("/mounts")
    one.get_by_role("button", name="Mount a store").first.click()
    form = one.get_by_role("dialog")
    form.get_by_label("Kind of store").select_option("file")
    form.get_by_label("Path", exact=True).fill("/together")
    form.get_by_label("Store", exact=True).fill(f"file://{tmp_path}")
    agree(one, "Mount it")
    row(other, "/together").get_by_role("link").first.click()
    other.get_by_role("button", name="Change").click()
    other.get_by_role("dialog").get_by_label(re.compile("^Read only")).check()
    agree(other, "Change it")
    one.locator("dt", has_text=re.compile("^Access")).or_(one.get_by_text("read only")).first.wait_for()
    other.get_by_role("button", name="Remove").click()
    agree(other, "Remove it")
    one.get_by_text(re.compile("This mount was removed")).wait_for()


def test_a_worker_that_is_taken_out_and_let_in_again_is_seen_by_the_other(two, house, fs):
    one, other = two("/workers")
    address = house.workers[1].doors["worker"]
    number = next(number for number, each in fs.report()["workers"].items() if each["address"] == address)
    row(one, address).get_by_text("live", exact=True).wait_for()
    row(other, address).get_by_role("link").first.click()
    other.get_by_role("button", name="Take it out").click()
    agree(other, "Take it out")
    row(one, address).get_by_text(re.compile("leaving|taken out")).wait_for()
    row(one, address).get_by_role("link", name=f"Worker {number}", exact=True).click()
    one.get_by_role("button", name="Let it stay").click()
    agree(one, "Let it stay")
    other.get_by_role("button", name="Take it out").wait_for()


def test_a_policy_that_is_set_changed_and_removed_is_seen_by_the_other(two):
    one, other = two("/cache/policies")
    one.get_by_role("button", name="New policy").click()
    one.get_by_role("dialog").get_by_label("Path", exact=True).fill("/shared")
    one.get_by_role("dialog").get_by_label("Priority").select_option("LOW")
    agree(one, "Set it")
    row(other, "/shared").get_by_text("LOW").wait_for()
    other.get_by_role("button", name="Change the policy of /shared").click()
    other.get_by_role("dialog").get_by_label("Priority").select_option("HIGH")
    agree(other, "Change it")
    row(one, "/shared").get_by_text("HIGH").wait_for()
    one.get_by_role("button", name="Remove the policy of /shared").click()
    agree(one, "Remove it")
    row(other, "/shared").wait_for(state="detached")


def test_a_job_that_is_paused_resumed_and_stopped_is_seen_by_the_other(two, fs, house, tmp_path):
    (tmp_path / "large").write_bytes(bytes(4 << 20))
    fs.mount_add("/slowly", f"file://{tmp_path}")
    one, other = two("/jobs")
    number = fs.start_job("load", "/slowly", bandwidth=1).number  # it does not end by itself
    for page in (one, other):
        row(page, "/slowly").get_by_text("running", exact=True).wait_for()
    one.get_by_role("button", name=f"Pause job {number}").click()
    row(other, "/slowly").get_by_text("paused", exact=True).wait_for()
    other.get_by_role("button", name=f"Resume job {number}").click()
    row(one, "/slowly").get_by_text("running", exact=True).wait_for()
    one.get_by_role("button", name=f"Stop job {number}").click()
    agree(one, "Stop it")
    row(other, "/slowly").get_by_text("stopped", exact=True).wait_for()
    fs.mount_remove("/slowly")


def test_a_token_that_is_issued_and_removed_is_seen_by_the_other(two):
    one, other = two("/clients")
    one.get_by_role("button", name="Issue a token").click()
    one.get_by_role("dialog").get_by_label("Name").fill("ada")
    one.get_by_role("dialog").get_by_role("button", name="Issue").click()
    one.get_by_role("dialog").get_by_role("button", name="I have it").click()
    tokens = other.get_by_role("region", name="Tokens", exact=True)
    tokens.get_by_text("ada", exact=True).wait_for()
    other.get_by_role("button", name="Remove the token of ada").click()
    agree(other, "Remove it")
    one.get_by_text("No tokens yet").wait_for()


def test_masters_that_are_taken_in_get_a_vote_lead_and_are_taken_out_are_seen_by_the_other(two, house, fs):
    """The last one: the group is another one afterwards."""
    one, other = two("/journal")
    masters = house.masters
    first = masters.leader()
    for page in (one, other):
        page.get_by_text("3 voters, all heard").wait_for()
    newest = masters.add("m4")
    newest.launch()
    wait_until(lambda: "not a member" in newest.output(), "m4 does not wait to be taken in")
    one.get_by_role("button", name="Take in a master").click()
    form = one.get_by_role("dialog")
    form.get_by_label("Name").fill("m4")
    form.get_by_label("Address of its journal door").fill(masters.journal("m4"))
    form.get_by_role("button", name="Take it in", exact=True).click()
    form.wait_for(state="detached")
    row(other, "m4").get_by_text("learns", exact=True).wait_for()

    def votes():
        """It is refused until it has caught up."""
        other.get_by_role("button", name="Let it vote m4").click()
        dialog = other.get_by_role("dialog")
        dialog.get_by_role("button", name="Let it vote", exact=True).click()
        refused = dialog.get_by_role("alert").locator("p")
        expect(refused.or_(row(other, "m4").get_by_text("follows", exact=True)).first).to_be_visible(timeout=60_000)
        if refused.count():
            dialog.get_by_role("button", name="Cancel").click()
            return False
        return True

    wait_until(votes, "m4 gets no vote")
    row(one, "m4").get_by_text("follows", exact=True).wait_for()
    for page in (one, other):
        page.get_by_text("4 voters, all heard").wait_for()

    one.get_by_role("button", name="Make it lead m4").click()
    agree(one, "Make it lead")
    row(other, "m4").get_by_text("leader", exact=True).wait_for()
    row(one, "m4").get_by_text("leader", exact=True).wait_for()
    other.get_by_role("button", name="Check every invariant").click()
    other.get_by_text(re.compile("invariants hold")).wait_for()

    victim = next(
        name for name in ("m1", "m2", "m3") if name != first and masters.nodes[name].doors["console"] not in other.url
    )
    masters.nodes[victim].kill()
    for page in (one, other):
        page.get_by_text(re.compile(f"{victim} silent")).wait_for()
    other.get_by_role("button", name=f"Take out {victim}").click()
    agree(other, "Take it out")
    row(one, victim).wait_for(state="detached")
    for page in (one, other):
        page.get_by_text("3 voters, all heard").wait_for()
