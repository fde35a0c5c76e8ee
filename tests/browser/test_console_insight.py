"""Journal, configuration, metrics, logs and clients: what they say is what the SDK says, live; their actions; and how they look to everybody."""

import re
import threading

import boto3
import pytest
from botocore.exceptions import ClientError

from monofs.testing.masters import wait_until
from monofs.testing.nodes import ServedNode
from monofs.testing.visitors import Visitor

HOSTILE = "<img src=x onerror=alert(1)> \"quotes' \u202egpj.exe\nnewline"
MINE = [
    "/journal",
    "/configuration",
    "/configuration/console.port",
    "/measures",
    "/measures/monofs_rpc_requests_total",
    "/measures/monofs_rpc_seconds",
    "/logs",
    "/logs/audit",
    "/clients",
]


def holds(page, function, arg=None):
    """Wait until a function is true in the page; asked from outside, because the page's policy lets nothing be evaluated in it later."""
    wait_until(lambda: page.evaluate(function, arg), f"{function} is not so")


def test_every_page_is_accessible_and_fits(visit, fs):
    fs.make_directory("/seen")  # so that there is something to be seen
    watched = visit(MINE[0])
    for path in MINE:
        watched.look(path)
        watched.check_looks()
    assert len(watched.sockets) == 1 + len(MINE), "one of each page"


# ---- journal ------------------------------------------------------------------------------------------------------------


def test_a_lone_master_says_that_it_is_alone_and_its_figures_are_those_of_the_report(visit, fs):
    page = visit("/journal").page
    page.get_by_text("This master is alone").wait_for()
    for number in range(20):
        fs.make_directory(f"/journal-{number}")
    index = fs.report()["journal"]["applied_index"]
    page.locator("dl.facts").get_by_text(f"{index:,}").first.wait_for()
    page.get_by_text("Entries written").wait_for()


def test_a_backup_is_a_download_that_restores(visit, fs, node, tmp_path):
    fs.make_directory("/kept-in-the-backup")
    page = visit("/journal").page
    page.get_by_role("button", name="Take a backup").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("cluster.secret").wait_for()
    with page.expect_download() as coming:
        dialog.get_by_role("button", name="Download").click()
    file = str(tmp_path / "copy.backup")
    coming.value.save_as(file)
    page.get_by_text("sent", exact=True).wait_for()
    done = node.cli("admin", "restore", file, "--dry-run")
    assert done.returncode == 0, done.stderr
    secret = f"{node.home}/cluster.secret"
    done = node.cli("--cluster-secret-file", secret, "admin", "restore", file, "--home", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    shared = [f"security.cluster_secret_file={secret}"]
    with ServedNode(str(tmp_path / "again"), sets=shared) as restored, restored.connect() as client:
        assert client.exists("/kept-in-the-backup")


# ---- configuration --------------------------------------------------------------------------------------------------------


def test_configuration_is_that_of_the_sdk_and_what_differs_stands_out(visit, fs):
    page = visit("/configuration").page
    settings = {each.name: each for each in fs.conf()}
    page.get_by_text(str(len(settings)), exact=True).wait_for()
    page.get_by_label("only what differs from the default").check()
    differing = sorted(name for name, each in settings.items() if each.value != each.default and each.value != "***")
    holds(page, "count => document.querySelectorAll('tbody a').length === count", arg=len(differing))
    assert sorted(page.locator("tbody a").all_inner_texts()) == differing
    page.get_by_role("link", name="This node").click()
    page.get_by_text(str(len(settings)), exact=True).wait_for()
    page.get_by_role("searchbox").fill("console port")
    page.get_by_role("link", name="console.port").click()
    card = page.get_by_role("region", name="console.port")
    card.get_by_text(settings["console.port"].doc).wait_for()
    card.get_by_text("MONOFS_CONSOLE_PORT=").wait_for()
    assert page.url.endswith("/configuration/console.port?node=yes")


# ---- metrics ------------------------------------------------------------------------------------------------------------


def test_metrics_are_those_of_prometheus_and_their_charts_grow(visit, fs, node):
    page = visit("/measures").page
    text = Visitor(node.doors["console"]).ask("GET", "/metrics").body.decode()
    told = {line.split(" ")[2] for line in text.splitlines() if line.startswith("# TYPE monofs")}
    holds(page, "() => document.querySelectorAll('tbody a').length > 5")
    page.get_by_role("searchbox").fill("rpc_requests")
    page.get_by_role("link", name="monofs_rpc_requests_total").wait_for()
    shown = set(page.evaluate("async () => Object.keys(await (await fetch('/api/v1/measures')).json())"))
    assert shown == told
    page.get_by_role("link", name="monofs_rpc_requests_total").click()
    page.get_by_role("heading", name="monofs_rpc_requests_total").wait_for()
    before = fs.stat("/")
    assert before is not None
    page.get_by_text("method=STAT,outcome=ok", exact=True).first.wait_for()
    page.locator(".u-over").wait_for()


# ---- logs -----------------------------------------------------------------------------------------------------------------


def test_a_change_by_somebody_else_appears_in_the_audit_log_as_it_happens_however_it_is_called(visit, fs, node):
    watched = visit("/logs/audit")
    page = watched.page
    page.get_by_role("log").or_(page.get_by_text("Nothing was changed yet")).first.wait_for()
    fs.make_directory(f"/{HOSTILE}")
    line = page.locator(".entry").filter(has_text="onerror")
    line.wait_for()
    assert page.locator("main img").count() == 0, "a name is only a name"
    line.locator("summary").click()
    line.locator("pre").get_by_text("principal: anonymous").wait_for()
    page.get_by_role("searchbox").fill("no-such-word-anywhere")
    page.get_by_text("No line matches").wait_for()
    page.get_by_role("searchbox").fill("onerror")
    page.get_by_text(re.compile("^1 of ")).wait_for()


def test_a_paused_log_stands_still_and_goes_on_with_all_of_it(visit, fs):
    page = visit("/logs/audit").page
    fs.make_directory("/before-the-pause")
    page.locator(".entry").filter(has_text="before-the-pause").wait_for()
    page.get_by_role("button", name="Pause").click()
    fs.make_directory("/during-the-pause")
    page.get_by_text(re.compile("paused, [1-9]")).wait_for()
    assert page.locator(".entry").filter(has_text="during-the-pause").count() == 0
    page.get_by_role("button", name="Go on").click()
    page.locator(".entry").filter(has_text="during-the-pause").wait_for()


def test_the_download_is_what_is_shown(visit, fs, tmp_path):
    fs.make_directory("/to-be-found-in-the-file")
    page = visit("/logs/audit?words=to-be-found-in").page
    page.locator(".entry").first.wait_for()
    assert page.get_by_role("searchbox").input_value() == "to-be-found-in", "a filter has its address"
    with page.expect_download() as coming:
        page.get_by_role("link", name="Download").click()
    coming.value.save_as(tmp_path / "lines")
    lines = (tmp_path / "lines").read_text().splitlines()
    assert len(lines) == 1
    assert "/to-be-found-in-the-file" in lines[0]


def test_a_storm_of_lines_leaves_the_page_usable_and_says_what_it_left_out(visit, fs, node):
    page = visit("/logs/audit").page

    def storm():
        with node.connect() as client:
            for number in range(900):
                client.make_directory(f"/storm-{number}")

    thread = threading.Thread(target=storm)
    thread.start()
    page.get_by_role("searchbox").fill("storm-")
    thread.join()
    page.locator(".entry").filter(has_text="/storm-899").first.wait_for()
    assert page.locator(".entry").count() <= 800


def test_the_level_is_a_floor(visit):
    page = visit("/logs").page
    page.locator(".entry").first.wait_for()
    page.get_by_label("Level").select_option("critical")
    page.get_by_text("No line matches").wait_for()
    page.get_by_label("Level").select_option("info")
    page.locator(".entry").first.wait_for()
    assert page.url.endswith("?level=info")


# ---- clients ----------------------------------------------------------------------------------------------------------------


def test_connections_and_sessions_come_and_go_and_a_session_can_be_ended(visit, node):
    mine, other = visit("/clients"), visit("/clients", expects="401")
    page = mine.page
    connections = page.get_by_role("region", name="Connections", exact=True)
    connections.get_by_text("cluster secret").first.wait_for()
    with node.connect() as client:
        client.ping()
        connections.get_by_text("anonymous").first.wait_for()
        assert any(each.name == "anonymous" for each in client.connections().connections)
    sessions = page.get_by_role("region", name="Sessions", exact=True)
    sessions.get_by_text("you", exact=True).wait_for()
    row = (
        sessions.get_by_role("row")
        .filter(has_text=re.compile(r"anonymous(?!.*you)"))
        .filter(has=page.get_by_role("cell", name="1", exact=True))
        .first
    )
    row.get_by_role("button", name="End").click()
    told = "JSON.parse(document.getElementById('told').textContent).csrf"
    before = other.page.evaluate(told)
    with other.page.expect_event("load"):
        page.get_by_role("dialog").get_by_role("button", name="End it").click()
    page.get_by_text("The session is over").wait_for()
    assert other.page.evaluate(told) != before, "it began another one"


def test_a_token_is_issued_shown_once_and_removed(visit, node, fs):
    page = visit("/clients", expects="409").page
    page.get_by_role("button", name="Issue a token").click()
    form = page.get_by_role("dialog")
    form.get_by_role("button", name="Issue").click()
    form.get_by_text("this is needed").wait_for()
    form.get_by_label("Name").fill("ada")
    form.get_by_label("May").select_option("read,write")
    form.get_by_label("Ends after").fill("2h")
    form.get_by_role("button", name="Issue").click()
    text = form.get_by_label("The token", exact=True).input_value()
    form.get_by_role("button", name="I have it").click()
    tokens = page.get_by_role("region", name="Tokens", exact=True)
    tokens.get_by_text("ada", exact=True).wait_for()
    tokens.get_by_text("in 2 hours").wait_for()
    assert text not in page.content()
    with node.connect(token=text) as client:
        assert client.exists("/")
    (told,) = fs.token_list()
    assert (told.name, told.rights) == ("ada", "read,write")
    page.get_by_role("button", name="Issue a token").click()
    form.get_by_label("Name").fill("ada")
    form.get_by_role("button", name="Issue").click()
    form.get_by_text("ada").last.wait_for()
    assert form.get_by_label("Name").get_attribute("aria-invalid") == "true"
    form.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Remove the token of ada").click()
    form.get_by_role("button", name="Remove it").click()
    page.get_by_text("No tokens yet").wait_for()
    assert fs.token_list() == []


def test_an_s3_key_is_issued_shown_once_told_from_a_token_and_removed(visit, fs, node):
    page = visit("/clients").page
    page.get_by_role("button", name="Issue an S3 key").click()
    form = page.get_by_role("dialog")
    form.get_by_label("User").fill("reports")
    form.get_by_label("Only below").fill("/lake/reports")
    form.get_by_label("Ends after").fill("never")
    form.get_by_role("button", name="Issue").click()
    key = form.get_by_label("The access key", exact=True).input_value()
    secret = form.get_by_label("The secret", exact=True).input_value()
    form.get_by_role("button", name="I have it").click()
    (told,) = fs.token_list()
    assert (told.name, told.rights, told.prefix, told.shown, told.s3) == ("reports", "read", "/lake/reports", key, True)
    s3 = boto3.client("s3", endpoint_url=node.doors["s3"], region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret)  # fmt: skip
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.put_object(Bucket="lake", Key="reports/x", Body=b"")
    assert secret not in page.content()
    row = page.get_by_role("region", name="Tokens", exact=True).get_by_role("row").filter(has_text=key)
    row.get_by_text("S3 key", exact=True).wait_for()
    row.get_by_text("below /lake/reports").wait_for()
    row.get_by_role("button", name=f"Remove the S3 key {key} of reports").click()
    page.get_by_role("dialog").get_by_text("signed with it are refused").wait_for()
    page.get_by_role("dialog").get_by_role("button", name="Remove it").click()
    page.get_by_text("No tokens yet").wait_for()
    assert fs.token_list() == []


# ---- who may not ------------------------------------------------------------------------------------------------------------


def test_a_reader_gets_no_button_and_no_line_of_the_logs(visit, tmp_path):
    with ServedNode(str(tmp_path / "home"), sets=["security.authentication=required"]) as node:
        words = ["--cluster-secret-file", f"{node.home}/cluster.secret", "token", "add", "rita", "--rights", "read"]
        token = node.cli(*words).stdout.split()[0]
        by_hand = visit("/journal", base=node.doors["console"], token=token, expects="ERR_CONNECTION_REFUSED")
        assert by_hand.page.get_by_text("rita").is_visible(), "signed in with the form, as people do"
        visitor = Visitor(node.doors["console"]).sign_in(token)
        name, _, value = visitor.cookie.partition("=")
        cookies = {
            "cookies": [
                {
                    "name": name,
                    "value": value,
                    "domain": "127.0.0.1",
                    "path": "/",
                    "expires": -1,
                    "httpOnly": True,
                    "secure": False,
                    "sameSite": "Strict",
                }
            ],
            "origins": [],
        }
        watched = visit("/journal", base=node.doors["console"], storage_state=cookies)
        page = watched.page
        page.get_by_text("Taking one needs the right admin").wait_for()
        assert page.get_by_role("button", name="Take a backup").count() == 0
        page.get_by_role("link", name="Logs").click()
        page.get_by_text("The logs are for administrators").wait_for()
        page.get_by_role("link", name="Clients").click()
        page.get_by_text("is for administrators").wait_for()
        page.get_by_role("link", name="Configuration").click()
        page.get_by_role("link", name="console.port").wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="monofs").wait_for()
        assert page.url.endswith("/sign-in")


def test_a_log_begins_at_its_end_and_follows_unless_it_is_scrolled_back(visit, fs):
    page = visit("/logs/audit").page
    for number in range(60):
        fs.make_directory(f"/follow-{number}")
    page.locator(".entry").filter(has_text="/follow-59").wait_for()
    holds(
        page,
        "() => { const box = document.querySelector('main .scroll'); return box.scrollHeight > box.clientHeight && box.scrollHeight - box.scrollTop - box.clientHeight < 4; }",
    )
    page.evaluate("document.querySelector('main .scroll').scrollTop = 0")
    fs.make_directory("/follow-more")
    page.locator(".entry").filter(has_text="/follow-more").wait_for(state="attached")
    assert page.evaluate("document.querySelector('main .scroll').scrollTop") == 0


def test_times_are_said_in_full_digits(visit):
    page = visit("/journal").page
    said = page.evaluate(
        "async () => { const { seconds } = await import(`/static/${JSON.parse(document.getElementById('told').textContent).release}/js/format.js`);"
        " return [0.1, 0.2, 0.01, 0.0123, 0.5, 0.00005, 1, 100].map(seconds); }"
    )
    assert said == ["100 ms", "200 ms", "10 ms", "12.3 ms", "500 ms", "50 µs", "1 s", "1 min 40 s"]
