"""`/api/v1` about the logs of the node that serves it: the last lines, as records and as a file.

Not here: lines as they come (tail.py).
"""

from __future__ import annotations

import socket
import time
from typing import Any

from monofs.model.errors import NotFound
from monofs.model.principal import Right
from monofs.observe.recent import LINES_MAX, Recent
from monofs.web.routes import Parameter, Routes
from monofs.web.sending import Sent
from monofs.web.tail import read_line
from monofs.web.viewers import Viewer

LEVELS = ("debug", "info", "warning", "error", "critical")
RANKS = {level: rank for rank, level in enumerate(LEVELS)}


def is_wanted(line: dict[str, Any], level: str, words: list[str], text: str) -> bool:
    """Whether a line is at least of a level ('': any) and holds all words. ``text``: the line in small letters."""
    if level and RANKS.get(line.get("level", "info"), 0) < RANKS[level]:
        return False
    return all(word in text for word in words)


def add_routes(routes: Routes, logs: dict[str, Recent]) -> None:
    """All of these. ``logs``: by name."""

    def found(log: str, level: str, words: str, lines: int) -> list[tuple[bytes, dict[str, Any]]]:
        recent = logs.get(log)
        if recent is None or (level and level not in LEVELS):
            raise NotFound(f"there are the logs {', '.join(logs)}, and the levels {', '.join(LEVELS)}")
        looked_for = words.lower().split()
        kept = []
        for line in reversed(recent.tail(LINES_MAX)[1]):
            told = read_line(line)
            if is_wanted(told, level, looked_for, line.decode("utf-8", "replace").lower()):
                kept.append((line, told))
                if len(kept) == lines:
                    break
        return kept[::-1]

    def log_lines(_: Viewer, log: str, level: str, words: str, lines: int) -> list[dict[str, Any]]:
        """The last lines of a log of this node, oldest first."""
        return [told for _, told in found(log, level, words, lines)]

    def log_file(_: Viewer, log: str, level: str, words: str, lines: int) -> Sent:
        """The same as a file: one JSON object a line."""
        data = b"".join(line + b"\n" for line, _ in found(log, level, words, lines))
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        name = f"monofs-{socket.gethostname()}-{log}-{stamp}.jsonl"
        return Sent(name, len(data), lambda *_: iter([data]), content_type="application/x-ndjson")

    which = (
        Parameter("log", "logs, or audit."),
        Parameter("level", "At least: debug, info, warning, error or critical.", default=""),
        Parameter("words", "All of them are in the line, in whatever case.", default=""),
        Parameter("lines", "How many at most.", "integer", default=500, least=1, most=LINES_MAX),
    )
    routes.add("GET", "/logs/{log}", log_lines, Right.ADMIN, list[dict[str, Any]], *which)
    routes.add("GET", "/logs/{log}/file", log_file, Right.ADMIN, bytes, *which)
