"""An entry that no release here can apply stops the node with its index; `--skip-entry` is the operator's remedy."""

import queue
import subprocess
import sys

from monofs.config.schema import JournalConfig
from monofs.journal.face import Entry
from monofs.journal.single import SingleVoter
from monofs.testing.journal import ListMachine
from monofs.testing.nodes import ServedNode


def poison(journal_directory):
    """Append an entry of an unknown kind, as a newer release would; returns its index."""
    turns = queue.SimpleQueue()
    machine = ListMachine()
    journal = SingleVoter(
        journal_directory, machine, JournalConfig(), call_soon=turns.put, on_failure=lambda error: turns.put(error)
    )
    journal.start()
    answers = []
    journal.propose(Entry(60_000, 1, b""), answers.append)
    while not answers:
        turns.get(timeout=30)()
    journal.stop()
    return machine.applied_index


def test_an_unknown_entry_stops_the_node_and_may_be_passed_over(tmp_path):
    node = ServedNode(str(tmp_path / "home")).start()
    with node.connect() as fs:
        fs.make_directory("/kept")
    node.kill()
    index = poison(f"{node.home}/journal")
    words = [sys.executable, "-m", "monofs", "serve", "--home", node.home, "--set", "master.port=0"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"entry {index} of the journal" in done.stderr
    assert "start the release that wrote this home" in done.stderr
    assert "Traceback" not in done.stderr
    node.flags = ["--skip-entry", str(index)]
    with node, node.connect() as fs:
        assert fs.is_dir("/kept")
        fs.make_directory("/after")
    node.flags = []
    with node, node.connect() as fs:
        assert fs.is_dir("/after"), "once flushed past it the entry is not met again"
        assert all(not findings for findings in fs.fsck().checks.values())
