"""`monofs cache simulate`: replay a trace against every policy of eviction and several sizes of cache; a table, and a plot."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import click

from monofs.cli.output import print_json, print_table
from monofs.config.units import format_bytes, parse_bytes
from monofs.model.errors import ConfigError
from monofs.tiering.orders import POLICIES
from monofs.tiering.simulate import KINDS, Result, footprint_bytes, generate, replay
from monofs.tiering.trace import Access, read_trace

ACCESSES_MAX = 20_000_000
"""A trace of a worker has up to 5.6 million; each takes about 0.2 KB of memory."""
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377")


@click.command()
@click.argument("traces", metavar="[TRACE]...", nargs=-1, type=click.Path(exists=True, dir_okay=False))
@click.option("--generate", "kind", type=click.Choice(list(KINDS)), help="Make a trace up instead of reading one.")
@click.option(
    "--objects",
    type=click.IntRange(1, ACCESSES_MAX),
    default=10_000,
    show_default=True,
    help="How many, with --generate.",
)
@click.option(
    "--accesses",
    type=click.IntRange(1, ACCESSES_MAX),
    default=100_000,
    show_default=True,
    help="How many, with --generate.",
)
@click.option(
    "--alpha", type=click.FloatRange(0, 5), default=0.9, show_default=True, help="How uneven zipf and scan are."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    help="The same seed makes the same trace.",
)
@click.option(
    "--sizes",
    default="2%,5%,10%,25%,50%",
    show_default=True,
    help="Sizes of the cache: bytes, or percent of all different bytes asked for.",
)
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(POLICIES), help="Only this one; may be repeated."
)
@click.option("--plot", type=click.Path(dir_okay=False, writable=True), help="Draw the hit ratios into an SVG file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a policy and size.")
def simulate(
    traces: tuple[str, ...],
    kind: str | None,
    objects: int,
    accesses: int,
    alpha: float,
    seed: int,
    sizes: str,
    policies: tuple[str, ...],
    plot: str | None,
    as_json: bool,
) -> None:
    """Compare the policies of `worker.eviction` on a trace that a worker recorded (`worker.trace`; give FILE.1 before FILE).

    Needs no node. Shown are the shares of accesses, and of bytes, that the cache would have had at hand.
    """
    if bool(traces) == (kind is not None):
        raise click.UsageError("give either files of a trace, or --generate")
    if kind is not None:
        trace: Sequence[Access] = generate(kind, objects=objects, accesses=accesses, alpha=alpha, seed=seed)
        what = f"{kind}, {objects:,} objects, seed {seed}"
    else:
        trace = _read(traces)
        what = ", ".join(traces)
    whole = footprint_bytes(trace)
    capacities = [_capacity(text, whole) for text in sizes.split(",")]
    chosen = policies or POLICIES
    results = [replay(trace, policy, capacity) for policy in chosen for capacity in capacities]
    if as_json:
        for result in results:
            print_json(
                {
                    "policy": result.policy,
                    "capacity_bytes": result.capacity_bytes,
                    "accesses": result.accesses,
                    "hits": result.hits,
                    "bytes": result.bytes,
                    "hit_bytes": result.hit_bytes,
                }
            )
    else:
        click.echo(f"{what}: {len(trace):,} accesses to {format_bytes(whole)}; hits of accesses / of bytes, in percent")
        headers = ["POLICY", *(f"{format_bytes(size)} ({_percent(size, whole)})" for size in capacities), "MEAN"]
        print_table(headers, [_row(policy, [r for r in results if r.policy == policy]) for policy in chosen])
    if plot:
        Path(plot).write_text(draw(f"{what}: hits of accesses", results, whole), encoding="utf-8")


def _read(files: tuple[str, ...]) -> list[Access]:
    trace: list[Access] = []
    for access in chain.from_iterable(map(read_trace, files)):
        if len(trace) == ACCESSES_MAX:
            raise ConfigError(f"more than {ACCESSES_MAX:,} accesses: give fewer files")
        trace.append(access)
    if not trace:
        raise ConfigError("nothing was recorded: a worker writes a trace when worker.trace names a file")
    return trace


def _capacity(text: str, whole: int) -> int:
    percent = _PERCENT.fullmatch(text.strip())
    size = int(whole * float(percent[1]) / 100) if percent is not None else parse_bytes(text)
    if size <= 0:
        raise ConfigError(f"--sizes: {text.strip()!r} is no room at all")
    return size


def _percent(size: int, whole: int) -> str:
    return f"{100 * size / whole:.3g}%"


def _row(policy: str, results: list[Result]) -> list[str]:
    cells = [_ratios(result.hit_ratio, result.byte_hit_ratio) for result in results]
    count = len(results)
    mean = _ratios(sum(r.hit_ratio for r in results) / count, sum(r.byte_hit_ratio for r in results) / count)
    return [policy, *cells, mean]


def _ratios(of_accesses: float, of_bytes: float) -> str:
    return f"{100 * of_accesses:.1f} / {100 * of_bytes:.1f}"


# ---- the plot -----------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 720, 440, 60, 40, 130, 50


def draw(title: str, results: list[Result], whole: int) -> str:
    """Lines of hit ratios over the sizes of the cache, one colour a policy, as SVG. Sizes are drawn at equal distances."""
    sizes = sorted({result.capacity_bytes for result in results})
    policies = list(dict.fromkeys(result.policy for result in results))
    wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM

    def across(size: int) -> float:
        return _LEFT + wide * (sizes.index(size) + 0.5) / len(sizes)

    def up(ratio: float) -> float:
        return _TOP + high * (1 - ratio)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="24" font-size="14">{_escape(title)}</text>',
    ]
    for percent in range(0, 101, 20):
        at = up(percent / 100)
        parts.append(f'<path d="M{_LEFT} {at:.1f}h{wide}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{percent} %</text>')
    for size in sizes:
        label = f"{format_bytes(size)} ({_percent(size, whole)})"
        parts.append(f'<text x="{across(size):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{label}</text>')
    for position, policy in enumerate(policies):
        colour = _COLOURS[position % len(_COLOURS)]
        points = sorted((r.capacity_bytes, r.hit_ratio) for r in results if r.policy == policy)
        line = " ".join(f"{across(size):.1f},{up(ratio):.1f}" for size, ratio in points)
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.extend(f'<circle cx="{across(s):.1f}" cy="{up(r):.1f}" r="3" fill="{colour}"/>' for s, r in points)
        parts.append(
            f'<text x="{_WIDTH - _RIGHT + 12}" y="{_TOP + 16 + 20 * position}" fill="{colour}">{policy}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
