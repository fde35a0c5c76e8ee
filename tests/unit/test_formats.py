"""The test vectors of docs/formats.md hold."""

import re
from pathlib import Path

from monofs.master.placement import Share, plan_slots
from monofs.metadata.copyfile import HEAD_BYTES, CopyHead, pack_head, unpack_head
from monofs.model.block import slot_of
from monofs.model.capability import Capability, open_capability, seal_capability
from monofs.model.ids import ContentId, format_content_id, make_content_id
from monofs.model.s3_key import access_key_id, s3_secret
from monofs.model.slots import EMPTY, SlotTable

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (Path(__file__).resolve().parents[2] / "docs/formats.md").read_text()


def test_content_ids():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \| `([0-9a-f-]+)` \|$", PAGE, re.MULTILINE)
    assert rows
    for incarnation, counter, content, shown in rows:
        assert make_content_id(int(incarnation), int(counter)) == int(content)
        assert format_content_id(ContentId(int(content))) == shown


def test_slots():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\d+) \|$", PAGE, re.MULTILINE)
    assert len(rows) == 3
    for content, block, slot in rows:
        assert slot_of(ContentId(int(content)), int(block)) == int(slot)


def test_slot_tables():
    rows = re.findall(
        r"^\| workers ([0-9, ]+) \| (\d) \| (\d+) \| ([0-9, ]+) \| `([0-9a-f]{8})` \|$", PAGE, re.MULTILINE
    )
    assert len(rows) == 4
    table = EMPTY
    for workers, replicas, owned, listed, digest in rows:
        shares = [Share(int(worker), 100) for worker in workers.split(", ")]
        table = SlotTable(table.epoch + 1, *plan_slots(shares, 2, table))
        assert (table.replicas, table.counts()[1]) == (int(replicas), int(owned))
        assert list(table.owners(45283)) == [int(worker) for worker in listed.split(", ")]
        assert table.digest == int(digest, 16)


def test_capability():
    (text,) = re.findall(r"```\n((?:[0-9a-f]+\n)+)```", PAGE)
    token = bytes.fromhex(text.replace("\n", ""))
    key, cluster = bytes(range(32)), bytes(range(16))
    expected = Capability(
        1, cluster, ContentId(281474976711343), 3_000_000, 26, 2, "lake/part-0.parquet",
        "e:9b2cf535f27731c974343645a3985328", 0, 1, 1700000000, 1700000300, 77, "000102030405-1-4d", "CACHE_THROUGH",
        ContentId(281474976711342), 5,
    )  # fmt: skip
    assert open_capability(token, {1: key}, cluster, 1700000100) == expected
    assert seal_capability(expected, key) == token


def test_s3_keys():
    page = (DOCS / "formats/wire.md").read_text()
    (shown,) = re.findall(r"^access_key_id = (\S+)$", page, re.MULTILINE)
    (secret,) = re.findall(r"^secret_access_key = (\S+)$", page, re.MULTILINE)
    assert access_key_id(3, bytes(range(16))) == shown
    assert s3_secret(bytes(range(32)), b"0123456789abcdef", 3, bytes(range(16))) == secret


def test_head_of_a_copy():
    page = (DOCS / "formats/copy.md").read_text()
    front = bytes.fromhex("".join(re.findall(r"^    ([0-9a-f]+)$", page, re.MULTILINE)))
    (crc,) = re.findall(r"at the end `([0-9a-f]{8})`", page)
    head = CopyHead(9, 2, b"m", b"c" * 16, 3, 1, 300, b"\xaa" * 32, 5, 4, b"d", b"k", 7, "1")
    expected = front.ljust(HEAD_BYTES - 4, b"\0") + bytes.fromhex(crc)
    assert pack_head(head) == expected
    assert unpack_head(expected, "the example") == head
