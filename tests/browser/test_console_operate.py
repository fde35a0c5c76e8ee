"""Mounts, workers, cache and jobs: what is shown is what the cluster says, what is done with the mouse is done, and what goes wrong meanwhile is said."""

import os
import re
import time
from urllib.parse import quote

import boto3
import pytest

from monofs.model.errors import MountNotFound
from monofs.testing.moto import Moto
from monofs.testing.nodes import ServedNode
from monofs.testing.storeproxy import StoreProxy

HOSTILE = "/<img src=x onerror=alert(1)>\u202e\"'"
WAIT_S = 60.0


def until(condition):
    """Wait for a condition on the cluster's side."""
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def store(tmp_path, name="store", files=3, size=1 << 20):
    directory = tmp_path / name
    directory.mkdir()
    for number in range(files):
        (directory / f"f{number}").write_bytes(os.urandom(size))
    return f"file://{directory}"


def row(page, text):
    return page.get_by_role("row").filter(has_text=text)


def reaches_workers(fs, path):
    """Whether workers know the mount of a file: they hear of it with their next heartbeat."""
    try:
        return bool(fs.read(path))
    except MountNotFound:
        return False


@pytest.fixture
def mounted(fs, tmp_path):
    """A mount with three files, removed at the end."""
    path = f"/{tmp_path.name.replace('_', '-')}"
    fs.mount_add(path, store(tmp_path))
    until(lambda: reaches_workers(fs, f"{path}/f2"))
    fs.free(path, recursive=True)
    yield path
    if any(mount.path == path for mount in fs.mount_list()):
        fs.mount_remove(path)


@pytest.fixture(scope="module")
def bucket():
    """An S3 server with one bucket: (server, URI, options of a mount without the endpoint)."""
    with Moto() as moto:
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=moto.endpoint, **keys).create_bucket(Bucket="console-bucket")
        options = {"access_key": "testing", "secret_key": "very-secret-one", "region": "us-east-1"}
        yield moto, "s3://console-bucket", options


# ---- mounts --------------------------------------------------------------------------------------------------------------


def test_a_store_is_mounted_changed_tested_and_removed_with_the_mouse(visit, fs, tmp_path):
    page = visit("/mounts", expects="Failed to load resource").page
    page.get_by_role("button", name="Mount a store").first.click()
    form = page.get_by_role("dialog")
    form.get_by_label("Kind of store").select_option("file")
    form.get_by_label("Path", exact=True).fill("/by-mouse")
    form.get_by_label("Store", exact=True).fill(f"file://{tmp_path}/missing")
    form.get_by_role("button", name="Try it").click()
    form.get_by_text(re.compile("missing")).first.wait_for()
    form.get_by_label("Store", exact=True).fill(store(tmp_path))
    form.get_by_role("button", name="Try it").click()
    form.get_by_text("The store answers. Nothing was changed.").wait_for()
    assert not [mount for mount in fs.mount_list() if mount.path == "/by-mouse"]
    form.get_by_label("Look at the store again after").fill("10m")
    form.get_by_role("button", name="Mount it").click()
    page.wait_for_url("**/mounts?path=%2Fby-mouse")
    page.get_by_text(f"file://{tmp_path}/store").first.wait_for()
    assert [mount.sync_interval_s for mount in fs.mount_list() if mount.path == "/by-mouse"] == [600.0]
    assert len(fs.read("/by-mouse/f0")) == 1 << 20

    page.get_by_role("button", name="Test").click()
    page.get_by_text("The store answers.").wait_for()
    page.get_by_role("button", name="Change").click()
    form = page.get_by_role("dialog")
    form.get_by_text("nothing yet").wait_for()
    form.get_by_label(re.compile("^Read only")).check()
    form.get_by_label("Look at the store again after").fill("never")
    form.get_by_text("look again after: 10m → never").wait_for()
    form.get_by_text("read only: no → yes").wait_for()
    form.get_by_role("button", name="Change it").click()
    page.get_by_text("/by-mouse is changed").wait_for()
    (mount,) = [mount for mount in fs.mount_list() if mount.path == "/by-mouse"]
    assert (mount.readonly, mount.sync_interval_s) == (True, -1.0)

    page.get_by_role("button", name="Remove").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove it").click()
    page.wait_for_url("**/mounts")
    until(lambda: not [mount for mount in fs.mount_list() if mount.path == "/by-mouse"])
    assert sorted(os.listdir(tmp_path / "store")) == ["f0", "f1", "f2"]


def test_fields_of_a_store_are_checked_as_they_are_typed(visit, mounted):
    page = visit("/mounts").page
    page.get_by_role("button", name="Mount a store").first.click()
    form = page.get_by_role("dialog")
    form.get_by_label("Path", exact=True).fill(mounted)
    form.get_by_text(f"something is mounted at {mounted} already").wait_for()
    form.get_by_label("Store", exact=True).fill("s3://b")
    form.get_by_text(re.compile("with the name of a bucket")).wait_for()
    form.get_by_label("endpoint").fill("ftp://host")
    form.get_by_text(re.compile("must be http://host")).wait_for()
    assert form.get_by_label("endpoint").get_attribute("aria-invalid") == "true"
    form.get_by_label("endpoint").fill("http://127.0.0.1:9")
    form.get_by_text(re.compile("must be http://host")).wait_for(state="hidden")
    form.get_by_label("Store", exact=True).fill("s3://bucket")
    form.get_by_label("access_key").fill("key")
    form.get_by_text(re.compile("belong together")).wait_for()
    form.get_by_label("secret_key").fill("secret")
    form.get_by_text(re.compile("belong together")).wait_for(state="hidden")


def test_secrets_are_set_and_never_shown(visit, fs, bucket):
    moto, uri, options = bucket
    fs.mount_add("/secretive", uri, {**options, "endpoint": moto.endpoint})
    watched = visit("/mounts?path=%2Fsecretive")
    page = watched.page
    page.get_by_text("set, not shown").wait_for()
    page.get_by_role("button", name="Change").click()
    form = page.get_by_role("dialog")
    field = form.get_by_label("secret_key", exact=True)
    assert field.input_value() == ""
    form.get_by_label("region").fill("eu-west-1")
    form.get_by_text("region: us-east-1 → eu-west-1").wait_for()
    form.get_by_role("button", name="Change it").click()
    page.get_by_text("/secretive is changed").wait_for()
    assert "very-secret-one" not in page.content()
    (mount,) = [mount for mount in fs.mount_list() if mount.path == "/secretive"]
    assert mount.secrets == ["secret_key"]
    assert mount.options["region"] == "eu-west-1"
    fs.mount_test("/secretive")  # with the secret that was left as it is
    page.get_by_role("button", name="Change").click()
    form.get_by_label("secret_key", exact=True).fill("another")
    form.get_by_text("secret_key: as it is set → another one").wait_for()
    form.get_by_role("button", name="Change it").click()
    form.wait_for(state="hidden")
    fs.mount_remove("/secretive")


def test_a_mount_that_goes_while_its_form_is_open_is_said(visit, fs, mounted):
    page = visit(f"/mounts?path={quote(mounted)}").page
    page.get_by_role("button", name="Change").click()
    form = page.get_by_role("dialog")
    fs.mount_update(mounted, readonly=True)
    form.get_by_text(re.compile("Somebody changed this mount")).wait_for()
    fs.mount_remove(mounted)
    form.get_by_text(re.compile("somebody removed it meanwhile")).wait_for()
    form.get_by_label("Look at the store again after").fill("5m")
    form.get_by_role("button", name="Change it").click()
    form.get_by_role("alert").get_by_text(re.compile("somebody removed it meanwhile")).wait_for()
    form.get_by_role("button", name="Cancel").click()
    page.get_by_text(re.compile("This mount was removed")).wait_for()
    assert page.get_by_role("button", name="Remove").count() == 0


def test_a_mount_tells_hits_and_bytes(visit, fs, mounted):
    page = visit("/mounts").page
    fs.read(f"{mounted}/f0")
    fs.read(f"{mounted}/f1")
    row(page, mounted).get_by_text("3.00 MiB").wait_for()
    row(page, mounted).get_by_text("ok", exact=True).wait_for()
    row(page, mounted).get_by_role("link").click()
    page.get_by_text("3.00 MiB").first.wait_for()
    page.get_by_text(re.compile(r"\d, none failed")).wait_for()


def test_a_store_that_is_away_is_said(visit, fs, bucket):
    moto, uri, options = bucket
    door = StoreProxy(moto.endpoint)
    door.start()
    fs.mount_add("/away", uri, {**options, "endpoint": door.endpoint})
    page = visit("/mounts?path=%2Faway", expects="Failed to load resource").page
    page.get_by_role("button", name="Test").click()
    page.get_by_text("The store answers.").wait_for()
    door.stop()
    page.get_by_role("button", name="Test").click()
    page.locator("#toasts .bad").wait_for()
    page.get_by_text("unavailable").first.wait_for()
    page.get_by_role("link", name="Mounts", exact=True).last.click()
    row(page, "/away").get_by_text("unavailable").wait_for()
    fs.mount_remove("/away")


# ---- workers -------------------------------------------------------------------------------------------------------------


def test_a_worker_shows_its_tiers_its_work_and_its_console(visit, fs, node, mounted):
    page = visit("/workers").page
    (worker,) = fs.report()["workers"].values()
    row(page, worker["address"]).get_by_text("live").wait_for()
    row(page, worker["address"]).get_by_text("100.0 %").wait_for()
    page.get_by_role("link", name="Worker 1").click()
    page.wait_for_url("**/workers/1")
    page.get_by_text("DISK").first.wait_for()
    (status,) = fs.worker_status().values()
    page.get_by_text(status.tiers[0].directory).wait_for()
    assert page.get_by_role("link", name="Its own console").get_attribute("href") == node.doors["console"]
    fs.read(f"{mounted}/f0")
    page.get_by_text("All its counters").click()
    page.get_by_role("searchbox", name="Filter counters").fill("page_misses")
    row(page, "monofs_page_misses").first.wait_for()


def test_a_worker_that_never_was_is_said(visit):
    page = visit("/workers/4711").page
    page.get_by_text(re.compile("There is no worker 4711")).wait_for()


# ---- cache ---------------------------------------------------------------------------------------------------------------


def test_what_is_hot_and_what_left_are_told_by_path(visit, node, fs, mounted):
    path = f"{mounted}/f0"
    fs.read(path)
    page = visit("/cache/hot").page

    def read_again():
        with node.connect() as other:  # a program that has it open already reads it unseen
            other.read(path)
        return any(each.key == "f0" and each.mount >= 0 for told in fs.hot().values() for each in told.hot)

    until(read_again)
    row(page, path).get_by_text("DISK").wait_for()
    assert row(page, path).get_by_role("link").get_attribute("href") == f"/browse{path}"
    fs.free(path)
    page.get_by_role("link", name="What left").click()
    row(page, path).get_by_text("freed").wait_for()


def test_the_working_set_says_what_is_cached_and_why_some_was_not(visit, fs, mounted):
    for name in ("f0", "f1", "f2"):
        fs.read(f"{mounted}/{name}")
    page = visit("/cache").page
    page.get_by_text("Tiers of 1 worker").wait_for()
    (status,) = fs.worker_status().values()
    page.get_by_text(f"{status.tiers[0].groups:,} groups", exact=False).wait_for()
    page.get_by_text("Evicted, and why").wait_for()


def test_policies_are_set_changed_and_removed(visit, fs, mounted):
    page = visit("/cache/policies").page
    page.get_by_role("button", name="New policy").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Path", exact=True).fill(mounted)
    form.get_by_label("Quota").fill("lots")
    form.get_by_text(re.compile("write a size")).wait_for()
    form.get_by_label("Quota").fill("2GiB")
    form.get_by_label("Priority").select_option("HIGH")
    form.get_by_label("Layout").select_option("255")
    form.get_by_label("Copies").fill("1")
    form.get_by_role("button", name="Set it").click()
    row(page, mounted).get_by_text("of 2.00 GiB").wait_for()
    row(page, mounted).get_by_text("whole").wait_for()
    (policy,) = fs.policies()
    assert (policy.path, policy.quota_bytes, policy.priority) == (mounted, 2 << 30, "HIGH")
    assert (policy.layout, policy.replicas) == (255, 1)
    page.get_by_role("button", name=f"Change the policy of {mounted}").click()
    form = page.get_by_role("dialog")
    assert form.get_by_label("Quota").input_value() == "2GiB"
    form.get_by_text("nothing yet").wait_for()
    form.get_by_label("Time to live in the cache").fill("1d12h")
    form.get_by_text("time to live: as above it → 1d12h").wait_for()
    form.get_by_label("Layout").select_option("")
    form.get_by_text("layout: whole → as above it").wait_for()
    form.get_by_role("button", name="Change it").click()
    row(page, mounted).get_by_text("1d12h").wait_for()
    (policy,) = fs.policies()
    assert (policy.ttl_s, policy.quota_bytes, policy.layout, policy.replicas) == (129_600, 2 << 30, None, 1)
    page.get_by_role("button", name=f"Remove the policy of {mounted}").click()
    page.get_by_role("dialog").get_by_role("button", name="Remove it").click()
    page.get_by_text("No policies yet").wait_for()
    assert fs.policies() == []


# ---- jobs ----------------------------------------------------------------------------------------------------------------


def test_a_job_is_begun_followed_and_its_failures_are_named(visit, fs, mounted, tmp_path):
    list(fs.list(mounted))
    page = visit("/jobs").page
    page.get_by_role("button", name="New job").first.click()
    form = page.get_by_role("dialog")
    form.get_by_label("Path").fill(mounted)
    form.get_by_role("button", name="Begin").click()
    page.wait_for_url(re.compile(r"/jobs/\d+$"))
    page.get_by_text("done", exact=True).wait_for()
    page.get_by_text("3 of 3, 100.0 %").wait_for()
    newest = fs.jobs()[0]
    assert (newest.kind, newest.path, newest.done) == ("load", mounted, 3)
    fs.free(mounted, recursive=True)
    fs.set_policy(mounted, quota_bytes=1 << 20)
    until(lambda: fs.policies()[0].id)
    fs.set_pin(f"{mounted}/f0")
    fs.wait_job(fs.start_job("load", f"{mounted}/f0").number)
    number = fs.start_job("load", mounted).number
    assert fs.wait_job(number).failed == 2
    page.goto(page.url.rpartition("/")[0] + f"/{number}")
    page.get_by_role("heading", name="Failures").wait_for()
    page.get_by_role("link", name=f"{mounted}/f1").wait_for()
    fs.remove_policy(mounted)
    page.get_by_role("button", name="Begin again").click()
    page.wait_for_url(f"**/jobs/{number + 1}")
    page.get_by_text("3 of 3, 100.0 %").wait_for()
    number = fs.start_job("load", f"{mounted}/nothing").number
    page.goto(page.url.rpartition("/")[0] + f"/{number}")
    page.get_by_text(re.compile("no such file")).wait_for()
    page.get_by_role("link", name="Jobs", exact=True).first.click()
    row(page, mounted).first.wait_for()


def test_jobs_are_paused_resumed_and_stopped(visit, fs, mounted):
    job = fs.start_job("load", mounted, bandwidth=1 << 17)  # three files, eight seconds each
    page = visit(f"/jobs/{job.number}").page
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").wait_for()
    assert fs.job(job.number).state == "paused"
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
    page.get_by_text("stopped", exact=True).wait_for()
    assert fs.job(job.number).state == "stopped"
    page.goto(page.url.rpartition("/")[0])
    page.get_by_label("Which jobs").select_option("ended")
    row(page, mounted).get_by_text("stopped").wait_for()


CHOOSE_AT_ONCE = """
new MutationObserver((_, observer) => {
  const choice = document.querySelector('select[aria-label="Which jobs"]');
  if (!choice) return;
  observer.disconnect();
  choice.value = "ended";
  choice.dispatchEvent(new Event("change"));
}).observe(document, { childList: true, subtree: true });
"""


def test_jobs_may_be_chosen_before_any_was_told(visit, fs, mounted):
    fs.load(mounted)
    page = visit("/").page
    page.add_init_script(CHOOSE_AT_ONCE)
    page.goto(page.url + "jobs")
    row(page, mounted).get_by_text("done").wait_for()
    assert page.get_by_label("Which jobs").input_value() == "ended"


def test_changes_under_way_say_what_they_wait_for(visit, fs, mounted):
    page = visit("/jobs/intents").page
    with fs.open(f"{mounted}/written", "wb") as file:
        for _ in range(3):
            file.write(bytes(8 << 20))
        file.flush()
        row(page, f"{mounted}/written").get_by_text(re.compile("worker 1 takes its bytes")).wait_for()
        (intent,) = fs.intents()
        row(page, str(intent.number)).get_by_text("write", exact=True).wait_for()
    page.get_by_text("Nothing is under way").wait_for()


def test_ten_thousand_rows_stay_fluid(visit):
    page = visit("/jobs").page
    drawn = page.evaluate(
        """async () => {
          const told = JSON.parse(document.getElementById("told").textContent);
          const { table } = await import(`/static/${told.release}/js/table.js`);
          const list = table([{ name: "n", title: "N", value: (row) => row.n, cell: (row) => String(row.n) }], { key: (row) => row.n, sort: ["n", true], match: (row) => String(row.n), label: "Many" });
          document.getElementById("view").replaceChildren(list.element);
          const rows = Array.from({ length: 10000 }, (_, n) => ({ n }));
          list.show(rows);
          const first = list.element.querySelector("tbody tr:not(.pad)");
          list.show(rows.map((row) => (row.n === 9999 ? { n: 9999, again: true } : row)));
          return [list.element.querySelectorAll("tbody tr").length, first.isConnected, first.textContent];
        }"""
    )
    assert drawn[0] < 100
    assert drawn[1:] == [True, "9999"]


# ---- all of them ---------------------------------------------------------------------------------------------------------


def test_hostile_names_are_only_text(visit, fs, tmp_path):
    fs.mount_add(HOSTILE, store(tmp_path))
    fs.set_policy(HOSTILE, priority="LOW")
    number = fs.start_job("sync", HOSTILE).number
    fs.wait_job(number)
    try:
        watched = visit("/mounts")
        for address in ("/mounts?path=" + quote(HOSTILE), "/cache/policies", "/jobs", f"/jobs/{number}", "/mounts"):
            page = watched.open(address)
            page.get_by_text(HOSTILE).first.wait_for()
            assert page.locator("img[src=x]").count() == 0
        row(page, "onerror").get_by_role("link").click()
        page.get_by_role("button", name="Test").wait_for()
    finally:
        fs.remove_policy(HOSTILE)
        fs.mount_remove(HOSTILE)


def test_who_may_only_look_gets_no_buttons(chromium, node, fs):
    token = fs.token_add("looks", "read").token
    context = chromium.new_context()
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(node.doors["console"] + "/sign-in")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("looks", exact=False).first.wait_for()
    for address, heading in (
        ("/mounts", "Mounts"),
        ("/cache/policies", "Cache"),
        ("/jobs", "Jobs"),
        ("/workers/1", "Workers"),
    ):
        page.goto(node.doors["console"] + address)
        page.get_by_role("heading", name=heading).first.wait_for()
        page.get_by_text("live", exact=True).first.wait_for()
        for name in ("Mount a store", "New policy", "New job", "Take it out"):
            assert page.get_by_role("button", name=name).count() == 0
    context.close()
    fs.token_remove("looks")


def test_pages_are_accessible_and_fit(visit, fs, mounted):
    fs.read(f"{mounted}/f0")
    fs.set_policy(mounted, quota_bytes=1 << 30)
    number = fs.start_job("load", mounted).number
    fs.wait_job(number)
    pages = [
        "/mounts",
        f"/mounts?path={quote(mounted)}",
        "/cache/policies",
        "/jobs",
        "/jobs/intents",
        f"/jobs/{number}",
    ]
    watched = visit(pages[0])
    for address in pages:
        watched.look(address)
        watched.check_looks()
    for address, button in (("/mounts", "Mount a store"), ("/cache/policies", "New policy"), ("/jobs", "New job")):
        watched.look(address).get_by_role("button", name=button).first.click()
        watched.page.get_by_role("dialog").get_by_role("button", name="Cancel").wait_for()
        watched.check_looks()
    fs.remove_policy(mounted)


def test_a_worker_is_taken_out_hands_over_and_comes_back(visit, fs, node, mounted, tmp_path):
    secret = f"security.cluster_secret_file={node.home}/cluster.secret"
    second = ServedNode(str(tmp_path / "second"), sets=["node.role=worker", f"worker.masters={node.doors['rpc']}", secret])  # fmt: skip
    with second:
        number = next(n for n, each in fs.report()["workers"].items() if each["address"] == second.doors["worker"])
        for name in ("f0", "f1", "f2"):
            fs.read(f"{mounted}/{name}")
        watched = visit(f"/workers/{number}")
        page = watched.page
        page.get_by_text("live", exact=True).nth(1).wait_for()
        page.get_by_role("button", name="Take it out").click()
        page.get_by_role("dialog").get_by_role("button", name="Take it out").click()
        page.get_by_text(re.compile("stop it")).wait_for()
        assert fs.report()["workers"][number]["leaving"]
        assert not fs.report()["workers"][number]["slots"]
        page.get_by_role("button", name="Let it stay").click()
        page.get_by_role("dialog").get_by_role("button", name="Let it stay").click()
        page.get_by_role("button", name="Take it out").wait_for()
        until(lambda: fs.report()["workers"][number]["slots"])
        second.kill()
        for address in ("/workers/1", "/cache", "/cache/hot", "/cache/left", "/workers"):
            watched.look(address)  # while the masters find out
            watched.check_looks()
        row(page, second.doors["worker"]).get_by_text("silent").wait_for()
        watched.open(f"/workers/{number}").get_by_text(re.compile("It is silent")).wait_for()
        page.get_by_text("silent", exact=True).wait_for()
