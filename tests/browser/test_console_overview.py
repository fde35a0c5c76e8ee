"""The overview: what it says is what the cluster says, live, over one socket, in both themes, on a phone too."""

import re


def test_the_overview_says_what_the_report_says_and_follows_it(visit, fs, tmp_path):
    watched = visit("/")
    page = watched.page
    page.get_by_text("all is well").wait_for()
    page.get_by_role("link", name="Workers 1 live").wait_for()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "f").write_bytes(bytes(3 << 20))
    fs.mount_add("/overview", f"file://{tmp_path}/store")
    page.get_by_text("1 mount", exact=True).wait_for()
    fs.read("/overview/f")
    page.get_by_role("link", name=re.compile("Files and directories 3 ")).wait_for()
    assert fs.report()["namespace"]["inodes"] == 3
    assert len(watched.sockets) == 1, "one socket, whatever is shown"


def test_the_overview_is_accessible_and_fits(visit):
    watched = visit("/")
    watched.look().get_by_text("Throughput by source").wait_for()
    watched.check_looks()


def test_every_page_has_its_address_and_the_keys_reach_it(visit):
    page = visit("/nowhere", expects="404").page
    page.get_by_text("There is no such page").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "view"
