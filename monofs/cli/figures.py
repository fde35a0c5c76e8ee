"""Figures of `monofs bench`, shown beside the limit of the machine that was measured in the same run.

Not here: what is measured (bench.py, swarm.py).
"""

from __future__ import annotations

import os
import platform
import sys

import click

import monofs
from monofs.cli.output import print_json, print_table


class Report:
    """Rows of figures, printed as a table or as JSON lines."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.rows: list[tuple[str, str, str, str, str]] = []
        self.machine = (
            f"monofs {monofs.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, "
            f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f}"
        )
        if not as_json:
            click.echo(self.machine)
            click.echo("command: monofs " + " ".join(sys.argv[1:]))

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        *,
        limit: float | None = None,
        limit_name: str = "",
        note: str = "",
        lower_is_better: bool = False,
    ) -> None:
        """One figure; ``limit`` is the reference measured in this run."""
        ratio = None
        if limit:
            ratio = limit / value if lower_is_better and value else value / limit
        if self.as_json:
            print_json(
                {"what": what, "value": value, "unit": unit, "limit": limit, "limit_name": limit_name, "ratio": ratio}
                | ({"note": note} if note else {})
            )
            return
        shown_limit = f"{limit_name} {_number(limit)}" if limit else "-"
        self.rows.append((what, f"{_number(value)} {unit}", shown_limit, f"{ratio:.2f}" if ratio else "-", note))

    def finish(self) -> None:
        """Print the table."""
        if self.rows:
            print_table(["WHAT", "FIGURE", "LIMIT", "RATIO", "NOTE"], self.rows)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
