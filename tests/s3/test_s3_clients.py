"""Every S3 client does real work against three workers: what one writes through one worker, others read through the others.

The command-line clients are Debian's; s3fs, which does not go with our boto3, has an environment of its own (see `sandbox`).
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config
from s3_world import REGION, three_workers

BIG = 20 << 20
HERE = Path(__file__).parent
JETS3T = Path("/usr/share/java/jets3t.jar")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with three_workers(tmp_path_factory.mktemp("s3clients")) as made:
        yield made


def client(world, worker=0, **config):
    return boto3.client(
        "s3",
        endpoint_url=world.endpoints[worker],
        aws_access_key_id=world.access,
        aws_secret_access_key=world.secret,
        region_name=REGION,
        config=Config(retries={"max_attempts": 1}, **config),
    )


@pytest.fixture(scope="module")
def s3(world):
    return client(world)


@pytest.fixture
def bucket(s3, request):
    name = "b-" + hashlib.md5(request.node.name.encode()).hexdigest()[:12]
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="module")
def big():
    return os.urandom(BIG)


def run(world, *words, **more):
    """Run a program, its errors shown; what it printed."""
    program = shutil.which(words[0], path="/usr/bin:/bin")
    if program is None:
        pytest.skip(f"{words[0]} is not installed")
    done = subprocess.run([program, *words[1:]], env=world.environment, capture_output=True, timeout=120, **more)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout.decode()


def test_boto3_transfers_in_parts_and_reads_through_another_worker(world, bucket, big):
    s3, other = client(world), client(world, 1)
    config = boto3.s3.transfer.TransferConfig(multipart_threshold=6 << 20, multipart_chunksize=6 << 20)
    s3.upload_fileobj(io.BytesIO(big), bucket, "in/parts", Config=config, ExtraArgs={"Metadata": {"made": "here"}})
    head = other.head_object(Bucket=bucket, Key="in/parts")
    assert (head["ContentLength"], head["Metadata"]) == (BIG, {"made": "here"})
    assert head["ETag"].endswith('-4"')
    into = io.BytesIO()
    other.download_fileobj(bucket, "in/parts", into, Config=config)
    assert into.getvalue() == big
    resource = boto3.resource(
        "s3",
        endpoint_url=world.endpoints[2],
        aws_access_key_id=world.access,
        aws_secret_access_key=world.secret,
        region_name=REGION,
    )
    assert [each.key for each in resource.Bucket(bucket).objects.filter(Prefix="in/")] == ["in/parts"]


def test_boto3_pages_and_deletes_many(world, bucket):
    s3 = client(world)
    names = [f"d{n % 7}/k{n:03d}" for n in range(60)]
    for n, name in enumerate(names):
        client_of = s3 if n % 2 else client(world, 2)
        client_of.put_object(Bucket=bucket, Key=name, Body=name.encode())
    pages = client(world, 1).get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
    assert [each["Key"] for page in pages for each in page["Contents"]] == sorted(names)
    prefixes = s3.list_objects_v2(Bucket=bucket, Delimiter="/")["CommonPrefixes"]
    assert [each["Prefix"] for each in prefixes] == [f"d{n}/" for n in range(7)]
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": name} for name in names]})
    assert len(gone["Deleted"]) == 60
    assert "Contents" not in client(world, 1).list_objects_v2(Bucket=bucket)
    s3.delete_bucket(Bucket=bucket)


def test_presigned_urls_work_without_a_key_for_what_was_signed(world, bucket):
    s3 = client(world)  # for us-east-1 boto3 presigns with version 2 by itself
    kind = "application/x-www-form-urlencoded"  # urllib says so of data, and version 2 signs it
    named = {"Bucket": bucket, "Key": "signed", "ContentType": kind}
    put = s3.generate_presigned_url("put_object", Params=named, ExpiresIn=60)
    with urllib.request.urlopen(urllib.request.Request(put, data=b"through a URL", method="PUT")) as answer:
        assert answer.status == 200
    get = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "signed"}, ExpiresIn=60)
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"through a URL"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(get.replace("signed?", "other?"))
    assert refused.value.code == 403
    assert b"<Code>SignatureDoesNotMatch</Code>" in refused.value.read()


def test_a_wrong_secret_and_an_unknown_key_are_refused(world, bucket):
    for access, secret, code in (
        (world.access, "wrong", "SignatureDoesNotMatch"),
        ("MFAAAAAAAAAAAAAAAAAA", world.secret, "InvalidAccessKeyId"),
    ):
        stranger = boto3.client(
            "s3",
            endpoint_url=world.endpoints[0],
            aws_access_key_id=access,
            aws_secret_access_key=secret,
            region_name=REGION,
        )
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            stranger.list_objects_v2(Bucket=bucket)
        assert refused.value.response["Error"]["Code"] == code


def test_aws_cli_copies_syncs_lists_presigns_and_removes(world, s3, bucket, big, tmp_path):
    aws = ("aws", "--endpoint-url", world.endpoints[1], "s3")
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "small.txt").write_text("small")
    (tmp_path / "tree" / "sub" / "ünï code +&.txt").write_text("odd")
    (tmp_path / "tree" / "big").write_bytes(big)
    run(world, *aws, "sync", str(tmp_path / "tree"), f"s3://{bucket}/tree")
    listed = run(world, *aws, "ls", "--recursive", f"s3://{bucket}/")
    assert {line.split(None, 3)[3] for line in listed.splitlines()} == {
        "tree/big",
        "tree/small.txt",
        "tree/sub/ünï code +&.txt",
    }
    assert run(world, *aws, "sync", str(tmp_path / "tree"), f"s3://{bucket}/tree") == "", "nothing is left to do"
    run(world, *aws, "cp", f"s3://{bucket}/tree/big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == big
    run(world, *aws, "mv", f"s3://{bucket}/tree/small.txt", f"s3://{bucket}/moved.txt")
    url = run(world, *aws, "presign", f"s3://{bucket}/moved.txt").strip()
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"small"
    run(world, *aws, "rm", "--recursive", f"s3://{bucket}/")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_s3cmd_puts_gets_syncs_and_knows_what_it_has(world, bucket, big, tmp_path):
    host = world.endpoints[2].partition("://")[2]
    s3cmd = (
        "s3cmd", f"--host={host}", f"--host-bucket={host}", "--no-ssl", f"--access_key={world.access}", f"--secret_key={world.secret}",
        "--config=/dev/null", "--multipart-chunk-size-mb=6",
    )  # fmt: skip
    (tmp_path / "big").write_bytes(big)
    run(world, *s3cmd, "put", str(tmp_path / "big"), f"s3://{bucket}/dir/big")
    assert f"s3://{bucket}/dir/big" in run(world, *s3cmd, "ls", f"s3://{bucket}/dir/")
    run(world, *s3cmd, "get", f"s3://{bucket}/dir/big", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == big
    assert "MD5 sum" in run(world, *s3cmd, "info", f"s3://{bucket}/dir/big")
    run(world, *s3cmd, "del", f"s3://{bucket}/dir/big")
    assert run(world, *s3cmd, "ls", "--recursive", f"s3://{bucket}/") == ""


def test_rclone_copies_checks_and_deletes(world, bucket, big, tmp_path):
    remote = f":s3,provider=Other,env_auth=true,endpoint='{world.endpoints[0]}',region={REGION}:{bucket}"
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "big").write_bytes(big)
    for n in range(20):
        (tmp_path / "tree" / f"f{n}").write_text(str(n))
    run(
        world, "rclone", "copy", str(tmp_path / "tree"), f"{remote}/tree", "--s3-upload-cutoff=6M", "--s3-chunk-size=6M"
    )
    run(world, "rclone", "check", "--download", str(tmp_path / "tree"), f"{remote}/tree")
    listed = json.loads(run(world, "rclone", "lsjson", "-R", "--files-only", f"{remote}/tree"))
    assert len(listed) == 21
    run(world, "rclone", "purge", f"{remote}/tree")
    assert json.loads(run(world, "rclone", "lsjson", "-R", remote)) == []


def test_curl_signs_and_asks_for_ranges(world, s3, bucket):
    s3.put_object(Bucket=bucket, Key="page", Body=b"0123456789", ContentType="text/plain")
    sign = (
        "--aws-sigv4",
        f"aws:amz:{REGION}:s3",
        "--user",
        f"{world.access}:{world.secret}",
        "--silent",
        "--show-error",
    )
    empty = ("-H", "x-amz-content-sha256: " + hashlib.sha256().hexdigest())
    url = f"{world.endpoints[1]}/{bucket}/page"
    assert run(world, "curl", *sign, *empty, "-r", "2-4", url) == "234"
    shown = run(world, "curl", *sign, *empty, "--head", url)
    assert "HTTP/1.1 200" in shown
    assert "text/plain" in shown


def test_pyarrow_writes_and_reads_a_dataset(world, bucket):
    import pyarrow as pa
    import pyarrow.dataset as ds
    from pyarrow import fs

    def reach(worker):
        where = world.endpoints[worker].partition("://")[2]
        return fs.S3FileSystem(
            access_key=world.access,
            secret_key=world.secret,
            endpoint_override=where,
            scheme="http",
            region=REGION,
            allow_bucket_creation=True,
        )

    table = pa.table({"part": [n % 3 for n in range(3000)], "value": list(range(3000))})
    ds.write_dataset(
        table,
        f"{bucket}/table",
        filesystem=reach(0),
        format="parquet",
        partitioning=["part"],
        existing_data_behavior="overwrite_or_ignore",
    )
    found = ds.dataset(f"{bucket}/table", filesystem=reach(1), partitioning=["part"]).to_table()
    assert sorted(found["value"].to_pylist()) == list(range(3000))
    there = reach(2)
    assert there.get_file_info(f"{bucket}/table").type == fs.FileType.Directory
    assert there.get_file_info(f"{bucket}/nothing").type == fs.FileType.NotFound
    there.delete_dir(f"{bucket}/table")
    assert there.get_file_info(f"{bucket}/table").type == fs.FileType.NotFound


def options(world, worker):
    return {
        "aws_access_key_id": world.access,
        "aws_secret_access_key": world.secret,
        "aws_region": REGION,
        "aws_endpoint_url": world.endpoints[worker],
        "aws_allow_http": "true",
    }


def test_polars_writes_and_scans(world, bucket):
    import polars as pl

    frame = pl.DataFrame({"n": range(1000), "text": [f"row {n}" for n in range(1000)]})
    frame.write_parquet(f"s3://{bucket}/polars/frame.parquet", storage_options=options(world, 0))
    lazy = pl.scan_parquet(f"s3://{bucket}/polars/*.parquet", storage_options=options(world, 1))
    assert lazy.filter(pl.col("n") > 990).collect().height == 9
    lazy.sink_parquet(f"s3://{bucket}/polars/again.parquet", storage_options=options(world, 2))
    assert pl.read_parquet(f"s3://{bucket}/polars/again.parquet", storage_options=options(world, 0)).equals(frame)


def test_obstore_puts_in_parts_and_conditionally(world, bucket, big):
    import obstore
    from obstore.exceptions import AlreadyExistsError
    from obstore.store import S3Store

    def reach(worker):
        return S3Store(
            bucket,
            endpoint=world.endpoints[worker],
            access_key_id=world.access,
            secret_access_key=world.secret,
            region=REGION,
            client_options={"allow_http": True},
        )

    obstore.put(reach(0), "big", big, use_multipart=True, chunk_size=6 << 20)
    assert bytes(obstore.get(reach(1), "big").bytes()) == big
    assert bytes(obstore.get_range(reach(2), "big", start=5, end=25)) == big[5:25]
    obstore.put(reach(0), "once", b"first", mode="create")
    with pytest.raises(AlreadyExistsError):
        obstore.put(reach(1), "once", b"second", mode="create")
    assert [each["path"] for page in obstore.list(reach(2)) for each in page] == ["big", "once"]
    obstore.delete(reach(0), ["big", "once"])


def test_minio_py_puts_lists_and_removes(world, bucket, big):
    minio = pytest.importorskip("minio")
    reach = minio.Minio(world.endpoints[0].partition("://")[2], world.access, world.secret, secure=False, region=REGION)
    reach.put_object(bucket, "some/big", io.BytesIO(big), len(big), part_size=6 << 20)
    assert reach.get_object(bucket, "some/big").read() == big
    assert [each.object_name for each in reach.list_objects(bucket, recursive=True)] == ["some/big"]
    from minio.deleteobjects import DeleteObject

    assert list(reach.remove_objects(bucket, [DeleteObject("some/big")])) == []
    assert list(reach.list_objects(bucket)) == []


def test_deltalake_commits_of_many_writers_lose_nothing(world, bucket):
    pytest.importorskip("deltalake")
    code = (
        "import sys, json, pyarrow as pa, deltalake\n"
        "how, uri, who = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])\n"
        "for n in range(5):\n"
        "    deltalake.write_deltalake(uri, pa.table({'who': [who], 'n': [n]}), mode='append', storage_options=how)\n"
    )
    import deltalake
    import pyarrow as pa

    how = options(world, 0) | {"aws_conditional_put": "etag"}
    uri = f"s3://{bucket}/delta"
    deltalake.write_deltalake(uri, pa.table({"who": [-1], "n": [0]}), storage_options=how)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(how | {"aws_endpoint_url": world.endpoints[n % 3]}), uri, str(n)]
        )
        for n in range(3)
    ]
    assert [each.wait(120) for each in writers] == [0, 0, 0]
    rows = deltalake.DeltaTable(uri, storage_options=how).to_pyarrow_table().to_pylist()
    assert sorted((row["who"], row["n"]) for row in rows) == sorted(
        [(-1, 0), *((who, n) for who in range(3) for n in range(5))]
    )


def test_s3fs_with_pandas_and_duckdb(world, bucket):
    python = os.environ.get("MONOFS_TEST_S3FS_PYTHON") or str(Path(sys.prefix).parent / ".venv-s3fs" / "bin" / "python")
    if not os.path.exists(python):
        pytest.skip(f"no environment with s3fs at {python}: `make test` makes it")
    code = (
        "import sys, s3fs, duckdb, pandas as pd\n"
        "end, access, secret, bucket = sys.argv[1:]\n"
        "fs = s3fs.S3FileSystem(key=access, secret=secret, client_kwargs={'endpoint_url': end, 'region_name': 'us-east-1'})\n"
        "how = {'key': access, 'secret': secret, 'client_kwargs': {'endpoint_url': end, 'region_name': 'us-east-1'}}\n"
        "frame = pd.DataFrame({'n': range(100), 'g': [n % 5 for n in range(100)]})\n"
        "frame.to_parquet(f's3://{bucket}/pandas/f.parquet', storage_options=how)\n"
        "assert pd.read_parquet(f's3://{bucket}/pandas/f.parquet', storage_options=how).equals(frame)\n"
        "with fs.open(f'{bucket}/text', 'wb') as out: out.write(b'x' * 12_000_000)\n"
        "assert fs.info(f'{bucket}/text')['size'] == 12_000_000\n"
        "assert fs.cat(f'{bucket}/text')[:3] == b'xxx'\n"
        "fs.mv(f'{bucket}/text', f'{bucket}/moved'); assert not fs.exists(f'{bucket}/text')\n"
        "duckdb.register_filesystem(fs)\n"
        "rows = duckdb.sql(f\"select g, sum(n) from read_parquet('s3://{bucket}/pandas/*.parquet') group by g order by g\").fetchall()\n"
        "assert rows == [(g, sum(n for n in range(100) if n % 5 == g)) for g in range(5)]\n"
        "fs.rm(f'{bucket}/pandas', recursive=True); assert fs.find(bucket) == [f'{bucket}/moved']\n"
    )
    subprocess.run(
        [python, "-c", code, world.endpoints[1], world.access, world.secret, bucket], check=True, timeout=120
    )


def test_the_sdk_for_javascript_does_what_programs_do_with_it(world, bucket):
    if not (HERE / "node" / "node_modules" / ".installed").exists():
        pytest.skip("its packages are not installed: `make test` does it where npm is")
    told = json.loads(run(world, "node", str(HERE / "node" / "work.mjs"), bucket, *world.endpoints))
    assert told["left"] == ["big", "by-url", "copied", "small/ü +%.txt"]
    body = client(world, 2).get_object(Bucket=bucket, Key="big")["Body"].read()
    assert hashlib.sha256(body).hexdigest() == told["big"]


def test_jets3t_does_what_programs_in_java_do_with_it(world, bucket):
    if not JETS3T.exists():
        pytest.skip("libjets3t-java is not installed")
    told = run(
        world,
        "java",
        "-XX:TieredStopAtLevel=1",
        "-Dfile.encoding=UTF-8",
        "-cp",
        f"{JETS3T.parent}/*",
        str(HERE / "java" / "Work.java"),
        bucket,
        *world.endpoints,
    )
    assert told.splitlines() == ["big", "small/ü +%.txt"]
    assert client(world, 2).head_object(Bucket=bucket, Key="big")["Metadata"] == {"made": "in parts"}
