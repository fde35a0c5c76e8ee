"""Libraries write through monofs to a bucket as their users write it, and read it back; the bucket is looked at behind monofs' back."""

import importlib.util
import io

import duckdb
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from monofs.fsspec import MonofsFileSystem
from monofs.testing.nodes import ServedNode

ROWS = 20_000


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{' and '.join(missing)} is not installed")


@pytest.fixture(scope="module")
def lake(tmp_path_factory, make_bucket):
    """A bucket mounted at /lake; returns (node, bucket)."""
    bucket = make_bucket()
    with ServedNode(str(tmp_path_factory.mktemp("writing") / "home")) as node:
        with node.connect() as client:
            client.mount_add("/lake", bucket.uri, bucket.options)
        yield node, bucket
        MonofsFileSystem.clear_instance_cache()


@pytest.fixture
def url(lake, monkeypatch):
    monkeypatch.setenv("MONOFS_MASTERS", lake[0].doors["rpc"])
    return f"monofs://{lake[0].doors['rpc']}/lake"


@pytest.fixture
def fs(url):
    return fsspec.url_to_fs(url)[0]


@pytest.fixture
def frame():
    random = np.random.default_rng(1)
    years = np.repeat([2023, 2024, 2025, 2026], ROWS // 4)
    return pd.DataFrame(
        {"year": years, "id": np.arange(ROWS), "value": random.random(ROWS), "name": [f"n{i}" for i in range(ROWS)]}
    )


def files(bucket, prefix):
    """Keys, but for those that stand for directories."""
    return [key for key in bucket.keys(prefix) if not key.endswith("/")]


def in_order(frame):
    return frame.sort_values("id").reset_index(drop=True)[["id", "value", "name"]]


def test_pandas_writes_csv_plain_and_compressed(lake, url, frame):
    _, bucket = lake
    frame.to_csv(f"{url}/pandas/rows.csv", index=False)
    assert bucket.get("pandas/rows.csv") == frame.to_csv(index=False).encode()
    pd.testing.assert_frame_equal(pd.read_csv(f"{url}/pandas/rows.csv"), frame)
    frame.to_csv(f"{url}/pandas/rows.csv.gz", index=False)
    pd.testing.assert_frame_equal(pd.read_csv(io.BytesIO(bucket.get("pandas/rows.csv.gz")), compression="gzip"), frame)
    pd.testing.assert_frame_equal(pd.read_csv(f"{url}/pandas/rows.csv.gz"), frame)


def test_pandas_writes_parquet_by_partitions_and_again_over_them(lake, url, frame):
    _, bucket = lake
    for _ in range(2):
        frame.to_parquet(
            f"{url}/pandas/parts",
            partition_cols=["year"],
            existing_data_behavior="delete_matching",
            max_rows_per_group=2000,
        )
        keys = bucket.keys("pandas/parts/")
        assert len([key for key in keys if key.endswith(".parquet")]) == 4
        back = pd.read_parquet(f"{url}/pandas/parts")
        pd.testing.assert_frame_equal(in_order(back), in_order(frame))
    one = pd.read_parquet(f"{url}/pandas/parts", filters=[("year", "=", 2025)])
    assert len(one) == ROWS // 4


def test_pyarrow_writes_datasets_and_files_of_several_parts(lake, url, fs, frame):
    _, bucket = lake
    table = pa.Table.from_pandas(frame, preserve_index=False)
    partitioning = ds.partitioning(pa.schema([("year", pa.int64())]), flavor="hive")
    ds.write_dataset(
        table,
        "/lake/arrow/set",
        filesystem=fs,
        format="parquet",
        partitioning=partitioning,
        existing_data_behavior="overwrite_or_ignore",
    )
    assert len(files(bucket, "arrow/set/year=")) == 4
    back = ds.dataset("/lake/arrow/set", filesystem=fs, partitioning="hive").to_table()
    pd.testing.assert_frame_equal(in_order(back.to_pandas()), in_order(frame))
    noise = pa.table({"noise": pa.array([np.random.default_rng(n).bytes(1 << 20) for n in range(30)], pa.binary())})
    wrapped = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    pq.write_table(noise, "/lake/arrow/noise.parquet", filesystem=wrapped, compression="none", row_group_size=3)
    assert pq.read_table(io.BytesIO(bucket.get("arrow/noise.parquet"))) == noise
    assert pq.read_table("/lake/arrow/noise.parquet", filesystem=wrapped) == noise


def test_duckdb_copies_to_files_and_partitions(lake, url, fs):
    _, bucket = lake
    with duckdb.connect() as db:
        db.register_filesystem(fs)
        db.execute("create table t as select range as n, range % 3 as part, 'row ' || range as name from range(50000)")
        for name, options in (("t.csv", "header"), ("t.parquet", "format parquet")):
            db.execute(f"copy t to '{url}/duck/{name}' ({options})")
            found = db.execute(f"select count(*), sum(n), max(name) from '{url}/duck/{name}'").fetchone()
            assert found == (50_000, sum(range(50_000)), "row 9999")
        assert bucket.get("duck/t.csv").count(b"\n") == 50_001
        db.execute(f"copy t to '{url}/duck/parts' (format parquet, partition_by (part), overwrite_or_ignore)")
        assert {key.split("/")[2] for key in files(bucket, "duck/parts/")} == {"part=0", "part=1", "part=2"}
        found = db.execute(f"select count(*), sum(n) from read_parquet('{url}/duck/parts/*/*.parquet')").fetchone()
        assert found == (50_000, sum(range(50_000)))


@needs("polars")
def test_polars_writes_and_reads_through_files(lake, url, fs, frame):
    import polars as pl

    _, bucket = lake
    ours = pl.from_pandas(frame)
    with fs.open("/lake/polars/rows.parquet", "wb") as file:
        ours.write_parquet(file)
    with fs.open("/lake/polars/rows.csv", "wb") as file:
        ours.write_csv(file)
    assert pl.read_parquet(io.BytesIO(bucket.get("polars/rows.parquet"))).equals(ours)
    with fs.open("/lake/polars/rows.parquet") as file:
        assert pl.read_parquet(file).equals(ours)
    with fs.open("/lake/polars/rows.csv") as file:
        assert pl.read_csv(file).equals(ours)
    lazy = pl.scan_pyarrow_dataset(ds.dataset("/lake/polars/rows.parquet", filesystem=fs))
    assert lazy.filter(pl.col("year") == 2024).select(pl.len()).collect().item() == ROWS // 4


@needs("zarr")
def test_zarr_stores_arrays_and_changes_some_chunks(lake, url):
    import zarr

    _, bucket = lake
    array = np.random.default_rng(3).random((300, 400))
    group = zarr.open_group(f"{url}/zarr/group", mode="w")
    stored = group.create_array("a", shape=array.shape, chunks=(100, 100), dtype=array.dtype)
    stored[:] = array
    assert len(bucket.keys("zarr/group/a/c/")) == 12
    stored[50:150, :10] = array[50:150, :10] = 7.0
    again = zarr.open_group(f"{url}/zarr/group", mode="r")["a"]
    np.testing.assert_array_equal(again[:], array)
    assert sorted(zarr.open_group(f"{url}/zarr/group", mode="r").array_keys()) == ["a"]


@needs("dask")
@pytest.mark.filterwarnings("ignore::pandas.errors.Pandas4Warning")  # dask's own
def test_dask_writes_partitions_from_threads_and_processes(lake, url, frame):
    import dask
    import dask.dataframe as dd

    _, bucket = lake
    parts = dd.from_pandas(frame, npartitions=4)
    for scheduler in ("threads", "processes"):
        with dask.config.set(scheduler=scheduler):
            parts.to_parquet(f"{url}/dask/{scheduler}", write_index=False)
            assert len([key for key in bucket.keys(f"dask/{scheduler}/") if key.endswith(".parquet")]) == 4
            back = dd.read_parquet(f"{url}/dask/{scheduler}").compute()
            pd.testing.assert_frame_equal(in_order(back), in_order(frame), check_dtype=False)
    parts.to_csv(f"{url}/dask/csv/part-*.csv", index=False)
    assert len(files(bucket, "dask/csv/")) == 4
    assert len(dd.read_csv(f"{url}/dask/csv/part-*.csv")) == ROWS


@needs("datasets")
def test_hugging_face_datasets_are_saved_and_loaded(lake, url, frame, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    _, bucket = lake
    datasets.disable_progress_bars()
    ours = datasets.Dataset.from_pandas(frame)
    ours.save_to_disk(f"{url}/hf/set", num_shards=3)
    assert len([key for key in bucket.keys("hf/set/") if key.endswith(".arrow")]) == 3
    back = datasets.load_from_disk(f"{url}/hf/set")
    assert back.to_pandas().equals(frame)
    both = datasets.DatasetDict({"train": ours, "test": ours.select(range(10))})
    both.save_to_disk(f"{url}/hf/dict")
    assert datasets.load_from_disk(f"{url}/hf/dict")["test"].num_rows == 10


def test_numpy_saves_into_an_open_file_and_a_checkpoint_is_renamed_into_place(lake, fs):
    """The manner of checkpoint writers: everything into a temporary directory, then one rename; the last one is always whole."""
    for step in range(3):
        arrays = {f"layer{n}": np.random.default_rng(step * 10 + n).random((200, 300)) for n in range(4)}
        fs.makedirs("/lake/checkpoint.tmp")
        for name, array in arrays.items():
            with fs.open(f"/lake/checkpoint.tmp/{name}.npy", "wb") as file:
                np.save(file, array)
        if fs.exists("/lake/checkpoint"):
            fs.rm("/lake/checkpoint", recursive=True)
        fs.mv("/lake/checkpoint.tmp", "/lake/checkpoint", recursive=True)
        for name, array in arrays.items():
            with fs.open(f"/lake/checkpoint/{name}.npy") as file:
                np.testing.assert_array_equal(np.load(file), array)
    assert not fs.exists("/lake/checkpoint.tmp")


@needs("torch")
def test_torch_saves_a_checkpoint_and_renames_it_into_place(lake, fs):
    import torch

    state = torch.nn.Linear(100, 100).state_dict()
    for _ in range(2):
        with fs.open("/lake/torch/model.pt.tmp", "wb") as file:
            torch.save(state, file)
        fs.mv("/lake/torch/model.pt.tmp", "/lake/torch/model.pt")
    with fs.open("/lake/torch/model.pt") as file:
        back = torch.load(file)
    assert all(torch.equal(back[name], state[name]) for name in state)
