"""Groups of commands, whose help tells the first sentence of each command to its end."""

from __future__ import annotations

import click


class Group(click.Group):
    """Click cuts what it lists at one line, often in the middle of the sentence; this wraps it."""

    group_class = type

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Name and first sentence of each command."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        rows = [
            (name, command.get_short_help_str(limit=1000))
            for name, command in commands.items()
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
