"""`monofs admin report` for people: sections in the order an operator reads them, sizes and times with units, lists as tables.

What a section holds is the master's business: names and units are read off the keys (``_bytes``, ``_s``), and a section not
known here is shown like the others, at the end.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import click

from monofs.cli.output import print_table, show_seconds
from monofs.config.units import format_bytes

_ORDER = (
    "cluster",
    "mounts",
    "all_workers",
    "workers",
    "namespace",
    "journal",
    "freshness",
    "feed",
    "odd_names",
    "beside_directories",
)
_TITLES = {
    "all_workers": "All workers together",
    "freshness": "What is known of stores",
    "feed": "Feed of retired contents",
    "odd_names": "Names in stores that no path can hold",
    "beside_directories": "Files beside a directory of their name, which is what their path means",
}
_LABELS = {
    "leads": "this master leads",
    "epoch": "epoch of the slot table",
    "level": "level of entries",
    "uptime_s": "up for",
    "now_ms": "its clock",
    "clients": "clients with changes",
    "answers": "answers kept for retries",
    "feed": "contents retired lately",
    "removal": "trees being taken apart",
    "memtable": "records not yet in the database",
    "queue_bytes": "waiting for the disk",
    "queue_entries": "entries waiting",
    "fsync_p50_s": "fsync, half within",
    "fsync_p99_s": "fsync, 99 % within",
    "bytes": "size",
    "present": "paths looked at",
    "absent": "paths known to be missing",
    "directories": "directories listed",
    "cursor": "feed read to",
    "slots": "slots owned",
    "intents": "open changes of stores",
    "jobs": "jobs remembered",
    "ttls": "times to live",
    "distrusted": "paths marked by needs-sync",
}
_NOT_SHOWN = ("id", "totals")
"""In tables: what a worker did is twelve numbers, for which `monofs cache status` has lines, and a program `--json`."""
_NONE = {"mounts": "none: `monofs mount add PATH URI` makes one", "workers": "none: nothing can be read"}
_OF_LEADERS = {"workers": "not known: only a master that leads hears workers"}


def show_report(sections: dict[str, dict[str, Any]]) -> None:
    """Print all sections; those of odd names, of files beside directories and the feed only when they hold something."""
    names = [name for name in _ORDER if name in sections] + [name for name in sections if name not in _ORDER]
    for position, name in enumerate(name for name in names if _says_something(name, sections[name])):
        if position:
            click.echo()
        click.echo(_TITLES.get(name, name.replace("_", " ").capitalize()))
        facts = sections[name]
        if not facts:
            leads = sections.get("cluster", {}).get("leads", True)
            click.echo(f"  {(_NONE if leads else _NONE | _OF_LEADERS).get(name, 'none')}")
        elif all(isinstance(value, dict) for value in facts.values()):
            _show_table(name, facts)
        else:
            _show_facts(facts)


def _says_something(name: str, facts: dict[str, Any]) -> bool:
    if name == "odd_names":
        return bool(facts.get("seen"))
    if name == "beside_directories":
        return bool(facts.get("shown"))
    if name == "all_workers":
        return bool(facts["live"] + facts["silent"] > 1)
    return name != "feed" or bool(facts.get("newest"))


def _show_table(name: str, rows: dict[str, dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row if column not in _NOT_SHOWN))
    headers = [name.removesuffix("s"), *(_label(column) for column in columns)]
    cells = [[key, *(show_value(column, row.get(column)) for column in columns)] for key, row in rows.items()]
    print_table([header.upper() for header in headers], cells, indent="  ")


def _show_facts(facts: dict[str, Any]) -> None:
    for key, value in facts.items():
        if isinstance(value, list):
            click.echo(f"  {_label(key)}: {'none' if not value else ''}".rstrip())
            for each in value:
                click.echo(f"    {each}")
        else:
            click.echo(f"  {_label(key):32} {show_value(key, value)}")


def _label(key: str) -> str:
    return _LABELS.get(key) or key.removesuffix("_bytes").removesuffix("_s").replace("_", " ")


def show_value(key: str, value: Any) -> str:
    """One value as the name of its key says: bytes and seconds with units, yes and no; never a dict's Python form."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if key.endswith("bytes"):
            return format_bytes(value)
        if key.endswith("_s"):
            return show_seconds(value)
        if key == "now_ms":
            return dt.datetime.fromtimestamp(value / 1000).astimezone().isoformat(" ", "milliseconds")
        return f"{value:.15g}"
    if isinstance(value, dict):
        return ", ".join(f"{_label(name)} {show_value(name, each)}" for name, each in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(str(each) for each in value) or "-"
    return str(value)
