"""What the pure modules of the S3 door cost, each by itself, in CPU time of one thread: a request's head, its signature, documents, bodies.

    python benchmarks/s3_cores.py [--rounds 9]

The reference is botocore, which signs the same request, in the same run.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from machine import machine

from monofs.gateways.http_head import HeadLimits, HeadParser
from monofs.gateways.s3.bodies import read_completion, read_delete
from monofs.gateways.s3.checksums import ALGORITHMS
from monofs.gateways.s3.chunked import ChunkedDecoder
from monofs.gateways.s3.documents import Entry, Listing, objects_v2_document
from monofs.gateways.s3.head import Head, read_head
from monofs.gateways.s3.keys import place
from monofs.gateways.s3.requests import read_request
from monofs.gateways.s3.signing import authenticate

ACCESS, SECRET = "MFABCDEFGHIJKLMNOPQR", "a-secret-of-forty-characters-0123456789_"
KEY = "lake/2026/part-00001.parquet"
MIB = 1 << 20
PIECE = 256 << 10


def best_us(act: Callable[[], object], rounds: int, times: int) -> float:
    """CPU microseconds of one call, the best of ``rounds`` means: other processes only ever add."""
    means = []
    for _ in range(rounds):
        began = time.thread_time()
        for _ in range(times):
            act()
        means.append((time.thread_time() - began) / times * 1e6)
    return min(means)


def sign(target: str) -> AWSRequest:
    """A GET that botocore signs, with a range."""
    request = AWSRequest(method="GET", url=f"http://127.0.0.1:39999{target}", headers={"Range": "bytes=0-4095"})
    S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1").add_auth(request)
    return request


def requests(rounds: int) -> None:
    """One GET and one listing, from bytes to a place in the tree."""
    secrets = {ACCESS: SECRET}.get
    now_s = time.time()

    parser = HeadParser(HeadLimits())

    def head_of(target: str) -> tuple[bytes, Head]:
        headers = {**sign(target).headers, "Host": "127.0.0.1:39999", "User-Agent": "x", "Accept-Encoding": "identity"}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        block = f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode()
        return block, read(block)

    def read(block: bytes) -> Head:
        found = parser.parse(block)
        return read_head(found.method, found.target, found.headers)

    target = f"/bucket/{KEY}"
    block, head = head_of(target)
    _, listing = head_of(
        "/bucket?delimiter=%2F&encoding-type=url&list-type=2&prefix=lake%2Fa%20b%2F&start-after=lake%2Fx"
    )
    print(f"head of a GET, {len(head.headers)} headers: {best_us(lambda: read(block), rounds, 2000):.1f} us")
    print(f"its signature verified: {best_us(lambda: authenticate(head, secrets, now_s), rounds, 2000):.1f} us")
    print(f"its action, bucket and key: {best_us(lambda: read_request(head, ['localhost']), rounds, 2000):.1f} us")
    print(f"the key's place: {best_us(lambda: place((b'bucket',), KEY), rounds, 2000):.1f} us")
    print(
        f"signature of a listing verified: {best_us(lambda: authenticate(listing, secrets, now_s), rounds, 2000):.1f} us"
    )
    print(f"reference: botocore signs the GET: {best_us(lambda: sign(target), rounds, 300):.1f} us")


def documents(rounds: int) -> None:
    """The largest documents there are."""
    entries = [
        Entry(f"lake/2026/part-{number:05}.parquet", 4096, "0" * 32, 1_700_000_000 + number) for number in range(1000)
    ]
    listing = Listing("bucket", "lake/", "/", 1000, True, "owner", entries, (), "next")
    written = best_us(lambda: objects_v2_document(listing, start_after="", token="", fetch_owner=False), rounds, 10)
    print(f"a listing of 1,000 keys written: {written / 1000:.1f} ms")
    parts = b"".join(
        b'<Part><ETag>"%032d"</ETag><PartNumber>%d</PartNumber></Part>' % (each, each) for each in range(1, 10_001)
    )
    completion = b"<CompleteMultipartUpload>%b</CompleteMultipartUpload>" % parts
    print(f"a completion of 10,000 parts read: {best_us(lambda: read_completion(completion), rounds, 2) / 1000:.1f} ms")
    deletion = b"<Delete>%b</Delete>" % (b"<Object><Key>lake/2026/part-00001</Key></Object>" * 1000)
    print(f"a deletion of 1,000 keys read: {best_us(lambda: read_delete(deletion), rounds, 10) / 1000:.1f} ms")


def bodies(rounds: int) -> None:
    """Bytes on their way in."""
    data = os.urandom(MIB)
    body = memoryview(
        b"".join(b"10000\r\n%b\r\n" % data[at : at + 65536] for at in range(0, MIB, 65536)) + b"0\r\n\r\n"
    )

    def decode() -> None:
        decoder = ChunkedDecoder(MIB, None)
        for at in range(0, len(body), PIECE):
            decoder.feed(body[at : at + PIECE])
        decoder.finish()

    print(f"1 MiB in unsigned chunks of 64 KiB decoded: {best_us(decode, rounds, 100):.0f} us")
    for name, algorithm in ALGORITHMS.items():
        running = algorithm.new()
        us = best_us(lambda running=running: running.update(data), rounds, 20)  # type: ignore[misc]
        print(f"{name}: {MIB / us / 1000:.1f} GB/s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    print(machine())
    requests(rounds)
    documents(rounds)
    bodies(rounds)


if __name__ == "__main__":
    main()
