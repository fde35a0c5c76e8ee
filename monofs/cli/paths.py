"""Completion of paths in the shell: what the tree holds below what was typed so far.

It must never get in the way: a cluster that does not answer within two seconds, and any other failure, gives no candidates.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import click
from click.shell_completion import CompletionItem

import monofs
from monofs.model.errors import MonofsError

TIMEOUT_S = 2.0
CANDIDATES_MAX = 200


class TreePath(click.ParamType[str]):
    """A path in monofs; any text is taken as it is."""

    name = "path"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path itself: the master says what is wrong with it."""
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Children of the directory typed so far whose names go on as typed; directories end in ``/``."""
        if not incomplete.startswith("/"):
            return [CompletionItem("/", type="plain")] if not incomplete else []
        options = ctx.find_root().params
        try:
            reach: dict[str, Any] = {
                name: options.get(name) for name in ("cluster_secret_file", "token_file", "tls_ca")
            }
            with monofs.connect(options.get("masters"), timeout_s=TIMEOUT_S, **reach) as fs:
                return [CompletionItem(path) for path in islice(_matches(fs, incomplete), CANDIDATES_MAX)]
        except (MonofsError, OSError):
            return []


def _matches(fs: monofs.FileSystem, incomplete: str) -> Iterator[str]:
    directory, _, start = incomplete.rpartition("/")
    for name in fs.names(directory or "/"):
        if name.startswith(start) and name.isprintable():
            yield f"{directory}/{name}"


TREE_PATH = TreePath()
