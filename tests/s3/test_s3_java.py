"""Java's clients against three workers, in a bucket that is cached only and in one of a mounted store: Amazon's SDK, Hadoop's s3a, and Spark with every committer.

`make test-java` fetches their jars, half a GB; without them these tests are left out. JetS3t, Debian's, is among ``test_s3_clients``.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pyarrow.dataset
import pyarrow.fs
import pytest
from s3_world import REGION, World, three_workers

from monofs.testing.buckets import Bucket

JAVA = Path(__file__).parent / "java"
JARS = JAVA / "jars"
REACHED_INTO = (
    "java.io", "java.lang", "java.lang.invoke", "java.lang.reflect", "java.net", "java.nio", "java.util", "java.util.concurrent",
    "java.util.concurrent.atomic", "sun.nio.ch", "sun.nio.cs", "sun.security.action", "sun.util.calendar",
)  # fmt: skip
"""Packages of java.base that Spark 3.2 looks into, which Java 17 has to be told."""
FLAGS = [
    *(f"--add-opens=java.base/{name}=ALL-UNNAMED" for name in REACHED_INTO),
    "-XX:TieredStopAtLevel=1",
    "-Dfile.encoding=UTF-8",
]
pytestmark = pytest.mark.skipif(
    not (JARS / ".installed").exists(), reason="the jars are not there: `make test-java` fetches them"
)


@dataclass
class Ground:
    """A bucket of the door, and what is behind it."""

    world: World
    name: str
    client: Any
    behind: Bucket | None
    classes: Path

    def listed(self) -> list[str]:
        """The keys of the bucket; those of its store are the same."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
        assert self.behind is None or self.behind.keys() == keys
        return keys

    def check_no_upload_is_open(self) -> None:
        assert self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []) == []
        assert self.behind is None or self.behind.uploads() == {}

    def run(self, program: str, *words: str) -> str:
        """What a program printed."""
        done = subprocess.run(
            ["java", *FLAGS, "-cp", f"{self.classes}:{JARS}/*", program, *words],
            env=self.world.environment | {"LC_ALL": "C.UTF-8"},  # names of files
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-6000:]
        return done.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with three_workers(tmp_path_factory.mktemp("s3java")) as made:
        yield made


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs, compiled."""
    if shutil.which("javac") is None:
        pytest.skip("there is no JDK: scripts/system-packages installs it")
    made = tmp_path_factory.mktemp("classes")
    sources = [str(JAVA / f"{program}.java") for program in ("AwsSdk", "S3a", "SparkTables")]
    subprocess.run(
        ["javac", "-nowarn", "-encoding", "UTF-8", "-cp", f"{JARS}/*", "-d", str(made), *sources], check=True
    )
    return made


@pytest.fixture(params=["cached", pytest.param("mounted", marks=pytest.mark.ceph)])
def ground(request: pytest.FixtureRequest, world: World, classes: Path) -> Ground:
    name = f"{request.param}-{request.node.originalname.replace('_', '-')}"[:40].rstrip("-")
    client = boto3.client(
        "s3",
        endpoint_url=world.endpoints[2],
        aws_access_key_id=world.access,
        aws_secret_access_key=world.secret,
        region_name=REGION,
    )
    if request.param == "cached":
        client.create_bucket(Bucket=name)
        return Ground(world, name, client, None, classes)
    behind = request.getfixturevalue("make_bucket")()
    with world.master.connect() as fs:
        fs.mount_add(f"/{name}", behind.uri, behind.options)
    return Ground(world, name, client, behind, classes)


def test_the_sdk_does_what_programs_do_with_it(ground: Ground) -> None:
    told = ground.run("AwsSdk", ground.name, *ground.world.endpoints)
    assert told.splitlines() == ground.listed()
    assert "small/ü +%.txt" in ground.listed()
    ground.check_no_upload_is_open()


def test_s3a_is_a_file_system(ground: Ground, tmp_path: Path) -> None:
    ground.run("S3a", ground.name, str(tmp_path), *ground.world.endpoints)
    assert ground.listed() == []
    ground.check_no_upload_is_open()


def test_spark_commits_tables_by_every_committer(ground: Ground) -> None:
    ground.run("SparkTables", ground.name, ground.world.endpoints[0])
    ground.check_no_upload_is_open()
    assert [key for key in ground.listed() if "/_" in key and not key.endswith("/_SUCCESS")] == []
    store = pyarrow.fs.S3FileSystem(
        access_key=ground.world.access,
        secret_key=ground.world.secret,
        endpoint_override=ground.world.endpoints[1].partition("://")[2],
        scheme="http",
        region=REGION,
    )
    for committer in ("v1", "v2", "magic", "directory", "partitioned"):
        table = pyarrow.dataset.dataset(
            f"{ground.name}/tables/{committer}", filesystem=store, format="parquet", partitioning="hive"
        )
        assert sorted(table.to_table()["n"].to_pylist()) == list(range(6000)), committer
