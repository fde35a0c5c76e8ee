"""Browse: the tree as it is, live; what is known of a file; and every change one can make, compared with what the SDK and the store say."""

import json
import os
import re
import struct
import time
import zlib

import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

HOSTILE = [
    "<script>alert(1)<script>",
    "a \"quoted\" 'name'",
    "line\nbreak",
    "\u202egpj.exe",
    "%2e%2e",
    "#hash?query=1&b=2",
    " leading space",
    "x" * 255,
    "Ωmega 日本",
    "back\\slash",
    "; rm -rf *",
]


@pytest.fixture(scope="module")
def lake(fs, tmp_path_factory):
    """A store with all kinds of files, mounted; gives its directory."""
    store = tmp_path_factory.mktemp("lake")
    (store / "hello.txt").write_text("hello <b>world</b>\n" * 40)
    (store / "data.json").write_text('{"rows":[1,{"deep":null}],"text":"</script>"}')
    (store / "blocks.bin").write_bytes(bytes(range(256)) * (40 << 10))
    (store / "picture.png").write_bytes(png(40, 30))
    (store / "evil.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="60" height="40"><script>parent.stolen = 1; window.stolen = 1</script>'
        '<rect width="60" height="40" fill="teal"/></svg>'
    )
    (store / "page.html").write_text("<!doctype html><script>window.stolen = 1</script>")
    names = [f"row <i>{number}</i>" for number in range(80)]
    parquet.write_table(pyarrow.table({"id": list(range(80)), "name": names}), store / "table.parquet")
    (store / "many").mkdir()
    for number in range(2500):
        (store / "many" / f"file {number:05d}").touch()
    (store / "names").mkdir()
    for name in HOSTILE:
        (store / "names" / name).write_text(f"I am {name!r}")
    fs.mount_add("/lake", f"file://{store}")
    return store


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes([200, 60, 20]) * width) * height
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def eventually(look, deadline_s=60.0):
    """Wait until it is so."""
    end_s = time.monotonic() + deadline_s
    while True:
        value = look()
        if value or time.monotonic() > end_s:
            return value
        time.sleep(0.05)


def saved(download):
    with open(download.path(), "rb") as file:
        return file.read()


def row(page, name):
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def choose(page, name, action):
    page.get_by_role("button", name=f"Actions for {name}", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name=action, exact=True).click()


def more(page, action):
    """An action of the file that is shown, behind the button More."""
    page.get_by_role("button", name="More", exact=True).click()
    page.get_by_role("dialog").get_by_role("button", name=action, exact=True).click()


# ---- directories ----


def test_a_directory_shows_what_the_sdk_lists_and_follows_it(visit, fs, lake):
    page = visit("/browse/lake").page
    for info in fs.list("/lake"):
        row(page, info.name).wait_for()
    page.get_by_title("10,485,760 bytes").wait_for()
    fs.write("/lake/arrived.txt", b"new")
    row(page, "arrived.txt").wait_for()
    fs.write("/lake/arrived.txt", b"longer than it was")
    row(page, "arrived.txt").get_by_text("18 B").wait_for()
    fs.delete("/lake/arrived.txt")
    row(page, "arrived.txt").wait_for(state="detached")


def test_a_large_directory_is_loaded_as_one_comes_to_it(visit, lake):
    watched = visit("/browse/lake/many")
    page = watched.page
    asked = []
    page.on("request", lambda request: asked.append(request.url) if "/files?" in request.url else None)
    row(page, "file 00000").wait_for()
    assert page.get_by_role("row").count() < 100, "only what is seen is in the page"
    page.get_by_text("more as you scroll").wait_for()
    assert asked == []
    page.get_by_role("searchbox", name="Filter files").fill("02499")
    row(page, "file 02499").wait_for()
    page.get_by_text("1 of 2,500").wait_for()
    assert len(asked) == 2, "pages of 1,000"
    page.get_by_role("searchbox", name="Filter files").fill("")
    page.get_by_role("button", name="Name").click()
    page.get_by_role("button", name="Name").click()
    row(page, "file 02499").wait_for()


def test_a_large_directory_that_changes_behind_its_first_page_says_so(visit, fs, lake):
    page = visit("/browse/lake/many").page
    row(page, "file 00000").wait_for()
    page.get_by_role("searchbox", name="Filter files").fill("02499")
    row(page, "file 02499").wait_for()
    page.get_by_text("1 of 2,500").wait_for()
    assert page.get_by_text("changed since it was loaded").count() == 0

    def is_told():  # from the second after the rest was loaded on, each change is
        fs.write("/lake/many/zzz", os.urandom(8))
        return page.get_by_text("changed since it was loaded").count()

    assert eventually(is_told)
    page.get_by_role("button", name="Load again").click()
    page.get_by_role("searchbox", name="Filter files").fill("zzz")
    row(page, "zzz").wait_for()
    fs.delete("/lake/many/zzz")


def test_the_keys_walk_the_tree(visit, lake):
    page = visit("/browse/").page
    row(page, "lake").wait_for()
    page.get_by_role("region", name="Files").focus()
    names = page.get_by_role("region", name="Files").get_by_role("link").all_text_contents()
    for _ in range(names.index("lake") + 1):
        page.keyboard.press("ArrowDown")
    page.evaluate(
        """keys => { for (const key of keys) document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true })); }""",
        ["Enter", "End", "Home", "Enter"],  # all before the next directory is drawn, and even before this one is gone
    )
    row(page, "file 00000").wait_for()
    assert page.url.endswith("/browse/lake/many"), "each key once"
    page.keyboard.press("Backspace")
    row(page, "names").wait_for()
    page.keyboard.press("Alt+ArrowUp")
    page.wait_for_url("**/browse/")
    page.go_back()
    page.wait_for_url("**/browse/lake")


def test_hostile_names_are_names_and_nothing_else(visit, fs, lake, node):
    page = visit("/browse/lake/names").page
    for name in HOSTILE:
        link = page.locator(
            "td a", has_text=re.compile(re.escape(name.strip().split("\n")[0].replace("\u202e", "")[:40]))
        )
        link.first.wait_for()
    assert page.locator("main script, td b").count() == 0
    page.get_by_text("⟨202E⟩").first.wait_for()
    hrefs = page.locator("td a").evaluate_all("links => links.map((link) => link.href)")
    assert len(hrefs) == len(HOSTILE)
    for number in range(len(HOSTILE)):
        page.locator("td a").nth(number).click()
        page.get_by_text("I am ").wait_for()
        page.go_back()
        page.locator("td a").nth(number).wait_for()
    for href in (each for each in hrefs if re.search("%0A|%23|%25|%E2", each)):
        page.goto(href)
        page.get_by_text("I am ").wait_for()
    assert page.evaluate("window.stolen") is None
    with page.expect_download() as coming:
        page.goto(next(href for href in hrefs if "script" in href))
        page.get_by_role("link", name="Download").click()
    assert b"I am '<script>" in saved(coming.value)


def test_the_path_bar_offers_what_begins_so_and_goes_there(visit, lake):
    page = visit("/browse/").page
    page.get_by_role("combobox", name="Go to a path").fill("/lake/h")
    page.locator("datalist option[value='/lake/hello.txt']").wait_for(state="attached")
    page.get_by_role("combobox", name="Go to a path").fill("/lake/hello.txt")
    page.get_by_role("button", name="Go", exact=True).click()
    page.wait_for_url("**/browse/lake/hello.txt")
    page.get_by_role("navigation", name="Path").get_by_role("link", name="lake").click()
    row(page, "names").wait_for()


def test_what_is_deleted_or_renamed_while_it_is_looked_at_is_said(visit, fs):
    fs.write("/passing/inner/file", b"x")
    page = visit("/browse/passing/inner").page
    row(page, "file").wait_for()
    fs.rename("/passing/inner", "/passing/other")
    page.get_by_text("This directory is not there any more").wait_for()
    page.get_by_role("link", name="Go one level up").click()
    row(page, "other").wait_for()
    page.goto(page.url + "/nothing")
    page.get_by_text("There is nothing at this path").wait_for()


# ---- a file ----


def test_a_file_shows_its_attributes_and_which_pages_are_where(visit, fs, lake):
    page = visit("/browse/lake/blocks.bin").page
    info = fs.stat("/lake/blocks.bin")
    for text in ("10,485,760 bytes", info.fingerprint, f"file://{lake}/blocks.bin"):
        page.get_by_text(text).first.wait_for()
    page.get_by_text("persisted").first.wait_for()
    fs.free("/lake/blocks.bin")
    page.get_by_text("No worker has pages of it").wait_for()
    fs.read("/lake/blocks.bin", 0, 1)
    fs.read("/lake/blocks.bin")
    page.get_by_role("img", name=re.compile(r"10 of 10 pages, 100.0 %")).wait_for()
    assert sum(group.pages.bit_count() for group in fs.cached(["/lake/blocks.bin"])["/lake/blocks.bin"]) == 10
    page.get_by_text("answered from").wait_for()
    page.get_by_text(fs.why("/lake/blocks.bin")["content"]).first.wait_for()


def test_text_json_pictures_parquet_and_bytes_are_previewed(visit, fs, lake):
    page = visit("/browse/lake/hello.txt").page
    page.get_by_text("hello <b>world</b>").wait_for()
    page.goto(page.url.replace("hello.txt", "data.json"))
    page.get_by_text('"deep": null').wait_for()
    page.goto(page.url.replace("data.json", "blocks.bin"))
    page.get_by_text("00000010  10 11 12").wait_for()
    page.get_by_role("combobox", name="Shown as").select_option("latin-1")
    page.get_by_text("latin-1, the first part of 10.0 MiB").wait_for()
    page.goto(page.url.replace("blocks.bin", "table.parquet"))
    page.get_by_text("Parquet, 80 rows, 2 columns").wait_for()
    page.get_by_role("columnheader", name=re.compile("id int64")).wait_for()
    page.get_by_role("cell", name="row <i>49</i>").wait_for()
    page.goto(page.url.replace("table.parquet", "picture.png"))
    picture = page.get_by_role("img", name="What picture.png shows")
    assert eventually(lambda: picture.evaluate("image => image.naturalWidth") == 40)


def test_what_a_file_holds_never_runs_here(visit, lake):
    watched = visit("/browse/lake/evil.svg")
    page = watched.page
    picture = page.get_by_role("img", name="What evil.svg shows")
    assert eventually(lambda: picture.evaluate("image => image.naturalWidth") == 60)
    page.goto(page.url.replace("evil.svg", "page.html"))
    page.get_by_text("<!doctype html>").wait_for()
    assert page.evaluate("window.stolen") is None
    for address in ("picture?path=/lake/evil.svg", "download?path=/lake/page.html"):
        answer = page.request.get(f"{watched.base}/api/v1/files/{address}")
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert page.request.get(f"{watched.base}/api/v1/files/picture?path=/lake/page.html").status == 501


def test_a_download_is_the_file_and_a_head_tells_its_length(visit, lake):
    watched = visit("/browse/lake/blocks.bin")
    page = watched.page
    with page.expect_download() as coming:
        page.get_by_role("link", name="Download").click()
    assert coming.value.suggested_filename == "blocks.bin"
    assert saved(coming.value) == (lake / "blocks.bin").read_bytes()
    answer = page.request.head(f"{watched.base}/api/v1/files/download?path=/lake/blocks.bin")
    assert answer.headers["content-length"] == str(10 << 20)


# ---- changes ----


def test_files_are_loaded_freed_pinned_and_given_a_time_to_live(visit, fs, lake):
    fs.stat("/lake/blocks.bin")
    fs.free("/lake/blocks.bin")
    page = visit("/browse/lake/blocks.bin").page
    page.get_by_text("No worker has pages of it").wait_for()
    page.get_by_role("button", name="Load into the cache").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Most bytes a second").fill("quickly")
    form.get_by_role("button", name="Load", exact=True).click()
    form.get_by_text("write a size").wait_for()
    form.get_by_label("Most bytes a second").fill("1GiB")
    form.get_by_label("Copies").fill("1")
    form.get_by_label("Compare pages").select_option("after")
    form.get_by_role("button", name="Load", exact=True).click()
    page.get_by_role("link", name=re.compile("job [0-9]+")).first.wait_for()
    assert fs.jobs()[0].arguments == {"bandwidth": str(1 << 30), "replicas": "1", "verify": "after"}
    page.get_by_role("img", name=re.compile("10 of 10 pages")).wait_for()
    page.get_by_role("button", name="Pin", exact=True).click()
    page.get_by_role("button", name="Unpin", exact=True).wait_for()
    assert fs.stat("/lake/blocks.bin").pinned
    page.get_by_role("button", name="Free from the cache").click()
    page.get_by_label("Pinned ones too").check()
    page.get_by_role("dialog").get_by_role("button", name="Free").click()
    page.get_by_text("No worker has pages of it").wait_for()
    assert fs.cached(["/lake/blocks.bin"]) == {"/lake/blocks.bin": []}
    page.get_by_role("button", name="Unpin", exact=True).click()
    page.get_by_role("button", name="Pin", exact=True).wait_for()
    more(page, "Time to live")
    page.get_by_label("After").fill("3 weeks")
    page.get_by_role("dialog").get_by_role("button", name="Set").click()
    page.get_by_role("dialog").get_by_text("write a time").wait_for()
    page.get_by_label("After").fill("3h")
    page.get_by_role("dialog").get_by_role("button", name="Set").click()
    page.locator("dt", has_text="Time to live").wait_for()
    ttl = fs.why("/lake/blocks.bin")["ttl"]
    assert ttl["action"] == "free"
    assert abs(ttl["expires_ns"] / 1e9 - time.time() - 3 * 3600) < 120
    more(page, "Time to live")
    page.get_by_role("dialog").get_by_role("button", name="Set").click()
    page.locator("dt", has_text="Time to live").wait_for(state="detached")
    assert "ttl" not in fs.why("/lake/blocks.bin")


def test_directories_and_files_are_made_renamed_and_deleted(visit, fs, lake):
    fs.make_directory("/lake/work", exist_ok=True)
    page = visit("/browse/lake/work", expects="409").page
    page.get_by_text("This directory is empty").wait_for()
    page.get_by_role("button", name="New directory").click()
    page.get_by_label("Name").fill("in <here>")
    page.get_by_role("dialog").get_by_role("button", name="Make").click()
    row(page, "in <here>").wait_for()
    assert (lake / "work" / "in <here>").is_dir()
    fs.write("/lake/work/in <here>/inner", b"1")
    fs.write("/lake/work/old", b"2")
    fs.write("/lake/work/taken", b"3")
    row(page, "old").wait_for()
    choose(page, "old", "Rename")
    page.get_by_label("New name").fill("taken")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    page.get_by_role("dialog").get_by_text("exists already").wait_for()
    page.get_by_label("New name").fill("n\u00e9w #1")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    row(page, "n\u00e9w #1").wait_for()
    assert fs.read("/lake/work/n\u00e9w #1") == b"2"
    assert fs.read("/lake/work/taken") == b"3"
    choose(page, "n\u00e9w #1", "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert fs.exists("/lake/work/n\u00e9w #1")
    choose(page, "n\u00e9w #1", "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    row(page, "n\u00e9w #1").wait_for(state="detached")
    assert not os.path.exists(lake / "work" / "n\u00e9w #1")
    choose(page, "in <here>", "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_text("Tick that you know").wait_for()
    page.get_by_label("Everything below it too").check()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    row(page, "in <here>").wait_for(state="detached")
    assert eventually(lambda: not (lake / "work" / "in <here>").exists())


def test_a_file_is_copied_and_kept_in_so_many_copies(visit, fs, lake):
    page = visit("/browse/lake/hello.txt", expects="409").page
    more(page, "Copy to")
    form = page.get_by_role("dialog")
    form.get_by_label("Name of the copy").fill("data.json")
    form.get_by_role("button", name="Copy", exact=True).click()
    form.get_by_text("exists already").wait_for()
    assert form.get_by_label("Name of the copy").get_attribute("aria-invalid") == "true"
    form.get_by_label("Name of the copy").fill("hello again.txt")
    form.get_by_role("button", name="Copy", exact=True).click()
    page.get_by_role("link", name="/lake/hello again.txt").wait_for()
    assert (lake / "hello again.txt").read_bytes() == (lake / "hello.txt").read_bytes()
    fs.delete("/lake/hello again.txt")
    fs.set_policy("/lake/hello.txt", priority="HIGH")
    more(page, "Replication")
    form.get_by_label("Copies").fill("9")
    form.get_by_role("button", name="Set").click()
    form.get_by_text("a whole number from 1 to 8").wait_for()
    form.get_by_label("Copies").fill("1")
    form.get_by_role("button", name="Set").click()
    page.get_by_text("One copy is kept").wait_for()
    (policy,) = fs.policies()
    assert (policy.path, policy.priority, policy.replicas) == ("/lake/hello.txt", "HIGH", 1)
    fs.remove_policy("/lake/hello.txt")


def test_files_are_uploaded_in_pieces_and_seen_whole_or_not_at_all(visit, fs, lake, tmp_path):
    fs.make_directory("/lake/up", exist_ok=True)
    (tmp_path / "large.bin").write_bytes(os.urandom((3 << 20) + 17))
    (tmp_path / "empty").touch()
    page = visit("/browse/lake/up", expects="409").page
    page.get_by_text("This directory is empty").wait_for()
    page.get_by_label("Files to upload").set_input_files([tmp_path / "large.bin", tmp_path / "empty"])
    row(page, "large.bin").wait_for()
    row(page, "empty").wait_for()
    assert fs.read("/lake/up/large.bin") == (tmp_path / "large.bin").read_bytes()
    assert (lake / "up" / "large.bin").read_bytes() == (tmp_path / "large.bin").read_bytes()
    (tmp_path / "large.bin").write_bytes(b"another one")
    page.get_by_label("Files to upload").set_input_files([tmp_path / "large.bin"])
    page.get_by_text("a file of this name exists").wait_for()
    assert fs.stat("/lake/up/large.bin").size == (3 << 20) + 17
    page.get_by_role("button", name="Replace it").click()
    assert eventually(lambda: fs.read("/lake/up/large.bin") == b"another one")


def test_an_upload_that_is_cancelled_leaves_nothing(visit, fs, lake, tmp_path):
    fs.make_directory("/lake/up", exist_ok=True)
    with open(tmp_path / "slow.bin", "wb") as made:
        made.truncate(40 << 20)
    page = visit("/browse/lake/up").page
    page.route("**/uploads/*?offset=4194304", lambda route: None)  # the fifth piece never arrives
    page.get_by_label("Files to upload").set_input_files([tmp_path / "slow.bin"])
    page.get_by_text(re.compile(r"4\.00 MiB of 40\.0 MiB")).wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("given up: nothing of it is there").wait_for()
    assert not fs.exists("/lake/up/slow.bin")
    assert [name for name in os.listdir(lake / "up") if "slow" in name] == []


def test_a_refused_change_says_why(visit, fs, tmp_path):
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / "file").write_text("x")
    fs.mount_add("/fixed", f"file://{tmp_path}/fixed", readonly=True)
    page = visit("/browse/fixed", expects="403").page
    row(page, "file").wait_for()
    choose(page, "file", "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.get_by_role("alert").get_by_text(re.compile("read-only", re.IGNORECASE)).wait_for()
    assert fs.exists("/fixed/file")


def test_who_may_only_read_gets_no_buttons_and_is_refused(visit, fs, lake):
    token = fs.token_add("looker", "read").token
    watched = visit("/browse/lake/hello.txt", expects="403")
    page = watched.page
    page.get_by_role("button", name="More").wait_for()
    page.goto(f"{watched.base}/sign-in")
    page.get_by_label("Token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("looker").wait_for()
    page.goto(f"{watched.base}/browse/lake/hello.txt")
    page.get_by_role("link", name="Download").wait_for()
    assert page.locator("main").get_by_role("button").all_text_contents() == ["Go", "Copy the path"]
    status = page.evaluate(
        """async () => {
        const told = JSON.parse(document.getElementById("told").textContent);
        const answer = await fetch("/api/v1/files?path=/lake/hello.txt", { method: "DELETE", headers: { "x-csrf-token": told.csrf } });
        return answer.status;
    }"""
    )
    assert status == 403
    assert fs.exists("/lake/hello.txt")
    page.goto(f"{watched.base}/browse/lake/names")
    row(page, "back\\slash").wait_for()
    assert page.get_by_role("button", name="Upload", exact=True).count() == 0


# ---- how it looks ----


def test_browse_is_accessible_and_fits(visit, lake):
    watched = visit("/browse/lake/names")
    watched.page.get_by_role("link", name="back\\slash").wait_for()
    watched.check_looks()
    for name in ("blocks.bin", "data.json"):
        page = watched.open(f"/browse/lake/{name}")
        page.get_by_role("region", name="What the file holds").wait_for()
        page.get_by_text("a cell is").wait_for()
        watched.check_looks()
    page.get_by_role("button", name="Load into the cache").click()
    page.get_by_role("dialog").get_by_label("Copies").wait_for()
    watched.check_looks()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="More", exact=True).click()
    watched.check_looks()
    page.get_by_role("button", name="Time to live").click()
    watched.check_looks()


def test_the_api_answers_as_its_document_says(visit, fs, lake):
    watched = visit("/browse/lake")
    document = json.loads(watched.page.request.get(f"{watched.base}/api/v1/openapi.json").text())
    for path in ("/files", "/files/known", "/files/preview", "/files/download", "/uploads/{id}"):
        assert f"/api/v1{path}" in document["paths"]
    page = watched.page.request.get(f"{watched.base}/api/v1/files?path=/lake/many&limit=10").json()
    assert [each["name"] for each in page["entries"]] == [f"file {number:05d}" for number in range(10)]
    following = watched.page.request.get(
        f"{watched.base}/api/v1/files", params={"path": "/lake/many", "limit": 10, "after": page["next"]}
    ).json()
    assert following["entries"][0]["name"] == "file 00010"
