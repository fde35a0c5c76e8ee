"""Tiers are read from settings, and a wrong one is told by entry and field."""

from __future__ import annotations

import pytest

from monofs.model.errors import ConfigError
from monofs.tiering.spec import TierSpec, parse_quota, parse_tiers


def test_without_tiers_there_is_one_in_the_home():
    assert parse_tiers("", "/h", "80%") == [TierSpec("DISK", "/h/worker/pages", 0, quota_share=0.8, in_home=True)]
    assert parse_tiers(" ", "/h", "1GiB") == [TierSpec("DISK", "/h/worker/pages", 1 << 30, in_home=True)]


def test_tiers_are_listed_top_first():
    text = '[{"name":"MEM","dir":"/m","quota":1048576,"durable":false},{"name":"SSD","dir":"/s","quota":"50%"}]'
    assert parse_tiers(text, "/h", "80%") == [
        TierSpec("MEM", "/m", 1 << 20, durable=False),
        TierSpec("SSD", "/s", 0, quota_share=0.5),
    ]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[", r"worker\.tiers: not JSON"),
        ("{}", r"worker\.tiers: must be a list"),
        ("[]", r"worker\.tiers: must be a list"),
        ("[1]", r"worker\.tiers\[0\]: must be an object"),
        ('[{"name":"A","dir":"/a","quota":"1MiB"},{"dir":"/b","quota":"1MiB"}]', r"worker\.tiers\[1\]\.name"),
        ('[{"name":"","dir":"/a","quota":"1MiB"}]', r"worker\.tiers\[0\]\.name"),
        ('[{"name":"A","dir":"a","quota":"1MiB"}]', r"worker\.tiers\[0\]\.dir: must be an absolute path"),
        ('[{"name":"A","dir":"/a\\u0000","quota":"1MiB"}]', r"worker\.tiers\[0\]\.dir"),
        ('[{"name":"A","dir":"/a"}]', r"worker\.tiers\[0\]\.quota: is missing"),
        ('[{"name":"A","dir":"/a","quota":0}]', r"worker\.tiers\[0\]\.quota: .*at least a page"),
        ('[{"name":"A","dir":"/a","quota":true}]', r"worker\.tiers\[0\]\.quota"),
        ('[{"name":"A","dir":"/a","quota":"101%"}]', r"worker\.tiers\[0\]\.quota: .*100%"),
        ('[{"name":"A","dir":"/a","quota":"0%"}]', r"worker\.tiers\[0\]\.quota"),
        ('[{"name":"A","dir":"/a","quota":"much"}]', r"worker\.tiers\[0\]\.quota: 'much'"),
        ('[{"name":"A","dir":"/a","quota":"1MiB","durable":1}]', r"worker\.tiers\[0\]\.durable"),
        ('[{"name":"A","dir":"/a","quota":"1MiB","size":1}]', r"worker\.tiers\[0\]\.size: unknown"),
        (
            '[{"name":"A","dir":"/a","quota":"1MiB"},{"name":"B","dir":"/x/../a","quota":"1MiB"}]',
            r"\[1\]\.dir: .* twice",
        ),
        ('[{"name":"A","dir":"/a","quota":1048575}]', r"worker\.tiers\[0\]\.quota: .*nothing fits"),
        (
            '[{"name":"A","dir":"/a","quota":"1MiB"},{"name":"B","dir":"/a/b","quota":"1MiB"}]',
            r"\[1\]\.dir: .*inside of /a",
        ),
        (
            '[{"name":"A","dir":"/a/b/c","quota":"1MiB"},{"name":"B","dir":"/a/b/","quota":"1MiB"}]',
            r"\[1\]\.dir: .*inside",
        ),
    ],
)
def test_a_wrong_tier_is_named(text, where):
    with pytest.raises(ConfigError, match=where):
        parse_tiers(text, "/h", "80%")


@pytest.mark.parametrize(
    ("text", "size_bytes", "share"),
    [("100GiB", 100 << 30, 0), (1 << 20, 1 << 20, 0), ("80%", 0, 0.8), (" 2.5 % ", 0, 0.025), ("1GB", 10**9, 0)],
)
def test_a_quota_is_bytes_or_a_share(text, size_bytes, share):
    assert parse_quota(text) == (size_bytes, pytest.approx(share))


def test_directories_beside_each_other_may_begin_alike():
    text = '[{"name":"A","dir":"/a","quota":"1MiB"},{"name":"B","dir":"/ab","quota":"1MiB"},{"name":"C","dir":"/abc","quota":"1MiB"}]'
    assert len(parse_tiers(text, "/h", "80%")) == 3
