"""A page whose node is killed or stands still says that what it shows is old, comes back by itself, and shows what is so then; a clock that is off makes nothing old."""

import re
import signal

import pytest

from monofs.testing.nodes import ServedNode

LOST = "connection lost: trying again; what is shown is old"


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A node of our own, on a port that it has again when it comes back."""
    home = tmp_path_factory.mktemp("away")
    with ServedNode(str(home / "home")) as served:
        yield served


def test_a_page_outlives_kill_9_of_its_node_and_says_what_is_old_meanwhile(visit, house):
    page = visit("/", base=house.doors["console"], expects="ERR_").page
    page.get_by_text("all is well").wait_for()
    files = page.get_by_role("link", name=re.compile("Files and directories"))
    shown = files.inner_text()
    house.kill()
    page.get_by_text(LOST).wait_for()
    assert files.inner_text() == shown, "what was so stays in sight"
    assert "stale" in (page.locator("body").get_attribute("class") or "")
    assert files.evaluate("each => Number(getComputedStyle(each).opacity) < 1"), "and is seen to be old"
    house.start()
    with house.connect() as fs:
        fs.make_directory("/made-since")
    page.locator("#standing").get_by_text("live", exact=True).wait_for()
    files.get_by_text("2", exact=True).wait_for()
    assert "stale" not in (page.locator("body").get_attribute("class") or "")


def test_a_node_that_stands_still_is_not_taken_for_a_quiet_one(visit, house):
    page = visit("/workers", base=house.doors["console"], expects="ERR_").page
    page.get_by_role("link", name=re.compile("Worker [0-9]+")).wait_for()
    house.process.send_signal(signal.SIGSTOP)
    try:
        page.get_by_text(LOST).wait_for()
    finally:
        house.process.send_signal(signal.SIGCONT)
    page.locator("#standing").get_by_text("live", exact=True).wait_for()
    page.get_by_text("just now").wait_for()


def test_a_viewer_whose_clock_is_an_hour_off_sees_ages_as_they_are(chromium, house):
    with house.connect() as fs:
        number = fs.start_job("sync", "/").number
        fs.wait_job(number)
    for off_ms in (3_600_000, -3_600_000):
        context = chromium.new_context()
        context.set_default_timeout(60_000)
        context.add_init_script(f"const real = Date.now; Date.now = () => real() + {off_ms};")
        page = context.new_page()
        page.goto(f"{house.doors['console']}/jobs/{number}")
        page.locator("dt", has_text="Begun").locator("+ dd").get_by_text(re.compile("^(now|[0-9]+ seconds? ago)$")).wait_for()  # fmt: skip
        context.close()
