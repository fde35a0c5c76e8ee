"""A real Chromium that looks at a real node. One node and one browser for a file of tests; a context of its own for each test."""

import os
import shutil

import pytest
from playwright.sync_api import Page, sync_playwright

from monofs.testing.nodes import ServedNode

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = os.path.join(os.path.dirname(__file__), "vendor", "axe.min.js")
DESK = {"width": 1280, "height": 860}
LOOKS = (
    ("light", DESK, ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]),
    ("dark", {"width": 360, "height": 740}, ["color-contrast", "scrollable-region-focusable"]),
)
"""How a page is looked at, and the rules or kinds of rules of axe it is judged by: what does not depend on looks is asked once."""


def pytest_collection_modifyitems(items):
    for item in items:
        if "/browser/" in str(item.path):
            item.add_marker(pytest.mark.system)
            if CHROMIUM is None:
                item.add_marker(
                    pytest.mark.skip(reason="no chromium here: apt-get install --no-install-recommends chromium")
                )


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    """A node of both roles. Tests mount what they need below paths of their own."""
    home = tmp_path_factory.mktemp("console")
    served = ServedNode(str(home / "home"))
    with served:
        yield served


@pytest.fixture(scope="module")
def fs(node):
    with node.connect() as client:
        yield client


@pytest.fixture(scope="module")
def chromium():
    """Not for longer than a file: while it is there this thread has a running event loop, and nothing else may run one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


class Watched:
    """A page and everything that went wrong in it."""

    def __init__(self, page: Page, base: str) -> None:
        self.page, self.base = page, base
        self.problems: list[str] = []
        self.sockets: list[str] = []
        self.expects = ""
        """Part of a line in the browser's console that is no surprise."""
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        page.on("websocket", lambda socket: self.sockets.append(socket.url))

    def open(self, path: str, token: str = "") -> Page:
        self.page.goto(self.base + path)
        if token:
            self.page.get_by_label("Token").fill(token)
            self.page.get_by_role("button", name="Sign in").click()
        self.page.locator("#standing").get_by_text(
            "live", exact=True
        ).wait_for()  # wait_for_function would eval, which the policy forbids
        return self.page

    def look(self, path: str = "") -> Page:
        """Open the page, if it is not open yet, and wait until it has been told all it shows."""
        if path:
            self.open(path)
        self.page.locator("main[aria-busy=false]").wait_for()
        return self.page

    def check_looks(self) -> None:
        """The page as it is, light on a desk and dark on a phone: no serious findings of axe, and nothing is cut off."""
        with open(AXE, encoding="utf-8") as source:
            self.page.evaluate(source.read())  # not as a script of the page, which its policy would not let run
        for theme, size, rules in LOOKS:
            self.page.emulate_media(color_scheme=theme)
            self.page.set_viewport_size(size)
            found = self.page.evaluate(
                "rules => axe.run(document, { resultTypes: ['violations'], runOnly: rules })", rules
            )
            problems = [
                f"{each['id']}: {each['help']}: {[node['html'][:120] for node in each['nodes'][:3]]}"
                for each in found["violations"]
                if each["impact"] in ("serious", "critical")
            ]
            assert problems == [], (self.page.url, theme)
            assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (self.page.url, theme)


@pytest.fixture
def visit(chromium, node):
    """``visit(path, …)``: a page of the console, live. At the end no page may have had an error of its own."""
    contexts, seen = [], []

    def open_page(path="/", *, base=None, expects="", token="", **options):
        context = chromium.new_context(viewport=DESK, **options)
        contexts.append(context)
        context.set_default_timeout(60_000)
        watched = Watched(context.new_page(), base or node.doors["console"])
        watched.expects = expects
        seen.append(watched)
        watched.open(path, token)
        return watched

    yield open_page
    for context in contexts:
        context.close()
    problems = [
        problem for each in seen for problem in each.problems if not each.expects or each.expects not in problem
    ]
    assert not problems
