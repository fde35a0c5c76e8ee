"""`monofs admin`: the cluster's health, settings, open changes and integrity."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from monofs.cli.backup import backup, restore
from monofs.cli.decommission import decommission
from monofs.cli.group import Group
from monofs.cli.job import age
from monofs.cli.journal import journal
from monofs.cli.listing import printable
from monofs.cli.main import Session
from monofs.cli.output import print_json, print_table
from monofs.cli.quorum import quorum
from monofs.cli.report import show_report
from monofs.config.loader import load_config, setting_fields
from monofs.model.errors import MonofsError


@click.group(cls=Group)
def admin() -> None:
    """See the cluster's health, settings and integrity; back its namespace up."""


admin.add_command(backup)
admin.add_command(decommission)
admin.add_command(restore)


admin.add_command(journal)


admin.add_command(quorum)


@admin.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def report(session: Session, as_json: bool) -> None:
    """Summarise the cluster: journal, namespace, mounts, workers."""
    sections = session.fs.report()
    if as_json:
        print_json(sections)
        return
    show_report(sections)


@admin.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--all", "all_", is_flag=True, help="Defaults too.")
@click.option("--config", "file", metavar="FILE", help="Show what this file would give, without a server.")
@click.option("--set", "sets", metavar="SECTION.KEY=VALUE", multiple=True, help="With --config: as for `serve`.")
@click.option("--local", is_flag=True, help="Show what `monofs serve` started here would use, without a server.")
@click.pass_obj
def conf(session: Session, as_json: bool, all_: bool, file: str | None, sets: tuple[str, ...], local: bool) -> None:
    """Show every setting, its value, and where the value came from."""
    if local or file or sets:
        settings = local_settings(file, list(sets))
    else:
        settings = [{name: getattr(each, name) for name in each.__struct_fields__} for each in session.fs.conf()]
    if as_json:
        for each in settings:
            if all_ or each["source"] != "default":
                print_json(each)
        return
    if not all_:
        shown = [each for each in settings if each["source"] != "default"]
        print_table(["SETTING", "VALUE", "SOURCE"], [(s["name"], s["value"], s["source"]) for s in shown])
        click.echo(f"{len(settings) - len(shown)} settings have their default: --all shows them")
        return
    print_table(
        ["SETTING", "VALUE", "SOURCE", "UNIT"], [(s["name"], s["value"], s["source"], s["unit"]) for s in settings]
    )


def local_settings(file: str | None, sets: list[str]) -> list[dict[str, Any]]:
    """The settings a server started here would have."""
    loaded = load_config(file=file, sets=sets)
    return [
        {
            "name": field.name,
            "value": str(getattr(getattr(loaded.config, field.section), field.key)),
            "default": str(field.default),
            "source": loaded.sources.get(field.name, "default"),
            "unit": field.unit,
            "doc": field.doc,
        }
        for field in setting_fields()
    ]


@admin.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.pass_obj
def intents(session: Session, as_json: bool) -> None:
    """List changes of stores that are under way, the oldest first, and what each waits for."""
    found = session.fs.intents()
    if as_json:
        for each in found:
            print_json(each)
        return
    rows = []
    for each in found:
        paths = printable(each.path) + (f" -> {printable(each.target)}" if each.target else "")
        rows.append(
            (each.number, each.kind, each.state, age(each.created_ns), each.principal or "-", each.worker or "-", paths)
        )
    print_table(["INTENT", "KIND", "STATE", "AGE", "BY", "WORKER", "PATH"], rows)
    for each in found:
        if each.error:
            click.echo(f"{each.number}: {each.error}", err=True)


@admin.command()
@click.option("--home", metavar="DIR", help="Check the closed home of a stopped node instead of a running master.")
@click.option("--pages", is_flag=True, help="Read every cached page too and compare it with its checksum.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_obj
def fsck(session: Session, home: str | None, pages: bool, as_json: bool) -> None:
    """Check every named invariant of the namespace; exit 1 if one does not hold."""
    if home is not None:
        from monofs.node.offline import check_home

        checks: dict[str, list[str]] = check_home(os.path.expanduser(home), pages=pages)
        summary = f"{len(checks)} checks"
    else:
        answer = session.fs.fsck()
        checks = dict(answer.checks)
        summary = f"{len(checks)} checks over {answer.inodes} inodes in {answer.seconds:.1f} s"
        if pages:
            for address, result in session.fs.verify().items():
                if isinstance(result, MonofsError):
                    checks[f"worker {address} answers"] = [str(result)]
                else:
                    checks[f"cached pages match their checksums ({address}, {result.pages} pages)"] = list(result.bad)
    broken = {name: findings for name, findings in checks.items() if findings}
    if as_json:
        print_json({"checks": checks, "broken": len(broken)})
    else:
        for name, findings in checks.items():
            click.echo(f"{'BROKEN' if findings else 'ok':7}{name}")
            for finding in findings[:100]:
                click.echo(f"       {finding}")
        click.echo(f"{summary}: {'clean' if not broken else f'{len(broken)} broken'}")
    sys.exit(1 if broken else 0)
