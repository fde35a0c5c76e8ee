"""What `monofs cache status` says of a worker's counters."""

from monofs.cli.cache import held, summarize
from monofs.cli.report import show_report
from monofs.rpc.api import TierStatus


def test_evictions_moves_and_scrubbing_are_told_when_there_were_any():
    counters = {
        "monofs_evicted_bytes{tier=TOP,reason=ahead}": 3 << 20,
        "monofs_evicted_bytes{tier=LOW,reason=room}": 1 << 20,
        "monofs_moved_bytes{tier=LOW,direction=demoted}": 2 << 20,
        "monofs_scrubbed_bytes{tier=LOW}": 5 << 20,
    }
    told = "\n".join(summarize(counters))
    assert "evicted: 4.0 MiB, of which 1.0 MiB while somebody waited for the room" in told
    assert "moved between tiers: 2.0 MiB down, 0 B up" in told
    assert "compared with their checksums in the background: 5.0 MiB" in told
    quiet = "\n".join(summarize({}))
    assert "evicted" not in quiet
    assert "checksums" not in quiet


def test_what_readers_hold_is_told_when_they_hold_anything():
    tiers = [TierStatus("DISK", "/d", 100 << 20, 64 << 20, 0, 0, "ok", held_bytes=64 << 20)]
    counters = {"monofs_descriptors_out": 3.0, "monofs_descriptors_recalled": 1.0}
    (line,) = held(tiers, counters)
    assert "3 descriptors out, 1 asked back so far; 64.0 MiB used by files that are gone already" in line
    assert list(held([], {})) == []


def test_the_report_has_a_row_a_worker_that_fits_a_screen(capsys):
    """What a worker did since it began is for programs and for `monofs cache status`."""
    worker = {
        "address": "10.0.0.1:29999",
        "live": True,
        "slots": 65536,
        "totals": {"page_hits": 1.0, "store_gets": 2.0},
    }
    show_report({"cluster": {"leads": True}, "workers": {"1": worker}})
    told = capsys.readouterr().out
    assert "10.0.0.1:29999" in told
    assert "TOTALS" not in told
    assert max(map(len, told.splitlines())) < 80
