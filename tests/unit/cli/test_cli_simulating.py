"""`monofs cache simulate`: a table of hit ratios, a plot, and what it says of traces that are none."""

import json
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner

from monofs.cli.main import main
from monofs.tiering.orders import POLICIES
from monofs.tiering.trace import HEAD, MAGIC, RECORD, VERSION

SMALL = ("--objects", "30", "--accesses", "200")


def simulate(*words):
    return CliRunner().invoke(main, ["cache", "simulate", *map(str, words)])


def write_trace(path, contents, size=1000):
    head = HEAD.pack(MAGIC, VERSION, RECORD.size)
    path.write_bytes(head + b"".join(RECORD.pack(at, content, 0, size) for at, content in enumerate(contents)))
    return path


def test_every_policy_is_compared_at_every_size():
    done = simulate("--generate", "zipf", *SMALL, "--sizes", "10%,1GiB")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "(10%)" in lines[1]
    assert "1.0 GiB" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == list(POLICIES)


def test_files_of_a_trace_are_read_one_after_the_other(tmp_path):
    older, newer = write_trace(tmp_path / "t.1", [1, 2, 1]), write_trace(tmp_path / "t", [2, 3, 2])
    done = simulate(older, newer, "--sizes", "2000", "--policy", "lru", "--json")
    assert json.loads(done.output) == {
        "policy": "lru", "capacity_bytes": 2000, "accesses": 6, "hits": 3, "bytes": 6000, "hit_bytes": 3000,
    }  # fmt: skip


def test_the_plot_is_a_picture_with_a_line_for_each_policy(tmp_path):
    plot = tmp_path / "plot.svg"
    assert simulate("--generate", "scan", *SMALL, "--plot", plot).exit_code == 0
    root = ET.fromstring(plot.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == len(POLICIES)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ((), 2, "give either files of a trace, or --generate"),
        (("--generate", "zipf", *SMALL, "--sizes", "0"), 2, "no room at all"),
        (("--generate", "zipf", *SMALL, "--sizes", "much"), 2, "is not a size"),
        (("--generate", "zipf", "--policy", "mru"), 2, "'mru' is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(words, code, told):
    done = simulate(*words)
    assert (done.exit_code, told in done.output) == (code, True), done.output


def test_a_file_that_is_no_trace_or_an_empty_one_is_named(tmp_path):
    (tmp_path / "notes").write_text("no trace at all")
    assert "is not a trace of a monofs worker" in simulate(tmp_path / "notes").output
    assert "nothing was recorded" in simulate(write_trace(tmp_path / "empty", [])).output
