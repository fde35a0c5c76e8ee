"""What `monofs cache status` says of a worker's counters."""

from monofs.cli.cache import summarize


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
