"""docs/cli.md and `--help` say the same: every command, and every flag of every command, in both."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from monofs.cli.main import main

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()
NOT_LISTED = {"--help", "--json"}
"""Said once for all commands."""


def commands():
    """Every command with its words, groups left out."""
    found = {}

    def walk(command, words):
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                walk(command.get_command(context, name), (*words, name))
        else:
            found[words] = command

    walk(main, ())
    return found


COMMANDS = commands()


def line_of(words):
    """The part of the page that describes a command: its row of a table, or its fenced block."""
    named = re.compile(rf"`{' '.join(words)}[ `]|\$ monofs {' '.join(words)}[ \n]")
    rows = [line for line in PAGE.splitlines() if named.search(line + "\n")]
    assert rows, f"docs/cli.md does not name `{' '.join(words)}`"
    return "\n".join(rows)


def flags_of(command):
    return {
        flag for each in command.params if isinstance(each, click.Option) for flag in (*each.opts, *each.secondary_opts)
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_helps(words):
    done = CliRunner().invoke(main, [*words, "--help"])
    assert done.exit_code == 0
    assert done.output.startswith("Usage: ")
    for each in COMMANDS[words].params:
        if isinstance(each, click.Option):
            assert each.help or isinstance(each.type, click.Choice), f"{each.name} says nothing about itself"
            for flag in each.opts:
                assert flag in done.output


@pytest.mark.parametrize("words", [w for w in COMMANDS if w[0] not in ("bench", "version")], ids=" ".join)
def test_every_flag_is_in_the_page(words):
    line = line_of(words)
    for flag in flags_of(COMMANDS[words]) - NOT_LISTED:
        assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", line), f"{flag} is not in: {line}"


@pytest.mark.parametrize("words", [w for w in COMMANDS if w != ("version",)], ids=" ".join)
def test_every_flag_in_the_page_exists(words):
    known = set().union(
        *(flags_of(command) for other, command in COMMANDS.items() if " ".join(other) in line_of(words))
    )
    for flag in re.findall(r"(?<=[`/\s\[])--?[A-Za-z][\w-]*", line_of(words)):
        assert flag in known, f"{flag} of `{' '.join(words)}` does not exist"


def test_the_page_names_the_flags_of_all_commands():
    for flag in ("--masters", "--cluster-secret-file", "--timeout", "--json"):
        assert flag in PAGE
    done = CliRunner().invoke(main, ["--help"])
    assert "Exit codes: 0 done" in re.sub(r"\s+", " ", done.output)


def complete(words, environment):
    script = os.path.join(os.path.dirname(sys.executable), "monofs")
    asked = {"_MONOFS_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([script], env=os.environ | asked | environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_the_shell_completes_commands_flags_and_paths(tmp_path, serve_files):
    masters = {"MONOFS_MASTERS": serve_files}
    assert complete(["monofs", "fs", "du"], {}) == ["du"]
    assert {"cat", "checksum", "count"} <= set(complete(["monofs", "fs", "c"], {}))
    assert complete(["monofs", "fs", "ls", "--so"], {}) == ["--sort"]
    assert complete(["monofs", "fs", "ls", "/fi"], masters) == ["/files/"]
    assert complete(["monofs", "fs", "cat", "/files/"], masters) == ["/files/dir/", "/files/one", "/files/two"]
    assert complete(["monofs", "fs", "cat", "/files/t"], masters) == ["/files/two"]
    assert complete(["monofs", "fs", "cat", "/none/t"], masters) == []
    assert complete(["monofs", "fs", "cat", "/"], {"MONOFS_MASTERS": "127.0.0.1:1"}) == []


@pytest.fixture
def serve_files(node, tmp_path):
    files = tmp_path / "files"
    (files / "dir").mkdir(parents=True)
    for name in ("one", "two"):
        (files / name).write_text(name)
    with node.connect() as fs:
        fs.mount_add("/files", f"file://{files}")
    return node.doors["rpc"]
