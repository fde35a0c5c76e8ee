"""pandas, pyarrow and duckdb read a lake through monofs, as their users write it, cold and then without the store."""

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

ROWS = 40_000
MIB = 1 << 20


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """Parquet files by year, and a CSV; returns (node, directory)."""
    directory = tmp_path_factory.mktemp("lake")
    random = np.random.default_rng(1)
    for year in (2023, 2024, 2025):
        part = directory / f"year={year}"
        part.mkdir()
        table = pa.table(
            {
                "id": np.arange(ROWS, dtype=np.int64) + year * ROWS,
                "value": random.random(ROWS),
                "noise": pa.array([random.bytes(100) for _ in range(ROWS)], pa.binary()),
            }
        )
        pq.write_table(table, part / "part-0.parquet", row_group_size=ROWS // 4, compression="none")
    frame = pd.DataFrame({"name": [f"row {n}" for n in range(50_000)], "n": range(50_000)})
    frame.to_csv(directory / "rows.csv", index=False)
    with ServedNode(str(tmp_path_factory.mktemp("libraries") / "home")) as node:
        with node.connect() as fs:
            fs.mount_add("/lake", f"file://{directory}")
        yield node, directory
        MonofsFileSystem.clear_instance_cache()


@pytest.fixture
def url(lake):
    return f"monofs://{lake[0].doors['rpc']}/lake"


def store_bytes(node):
    """Bytes and requests the store has given so far."""
    with node.connect() as fs:
        counters = next(iter(fs.worker_status().values())).counters
    return (
        sum(value for name, value in counters.items() if name.startswith("monofs_store_read_bytes")),
        sum(
            value for name, value in counters.items() if name.startswith("monofs_store_requests") and "kind=get" in name
        ),
    )


def test_pandas_reads_parquet_and_csv_and_the_second_time_not_from_the_store(lake, url):
    node, directory = lake
    frame = pd.read_parquet(f"{url}/year=2023/part-0.parquet")
    pd.testing.assert_frame_equal(frame, pd.read_parquet(directory / "year=2023" / "part-0.parquet"))
    csv = pd.read_csv(f"{url}/rows.csv")
    pd.testing.assert_frame_equal(csv, pd.read_csv(directory / "rows.csv"))
    before = store_bytes(node)
    pd.testing.assert_frame_equal(pd.read_parquet(f"{url}/year=2023/part-0.parquet"), frame)
    pd.testing.assert_frame_equal(pd.read_csv(f"{url}/rows.csv"), csv)
    assert store_bytes(node) == before


def test_a_column_of_a_parquet_file_fetches_what_the_column_needs(lake, url):
    node, directory = lake
    random = np.random.default_rng(2)
    rows = 150_000

    def noise():
        return pa.array([random.bytes(64) for _ in range(rows)], pa.binary())

    wide = pa.table({"before": noise(), "value": random.random(rows), "after": noise()})
    (directory / "_other").mkdir()
    path = directory / "_other" / "wide.parquet"
    pq.write_table(wide, path, row_group_size=rows, compression="none", use_dictionary=False)
    before = store_bytes(node)[0]
    got = pd.read_parquet(f"{url}/_other/wide.parquet", columns=["value"])
    assert got["value"].sum() == pytest.approx(wide["value"].to_numpy().sum())
    fetched = store_bytes(node)[0] - before
    assert path.stat().st_size > 20_000_000
    assert rows * 8 < fetched <= rows * 8 + 4 * MIB, "the column's pages, their edges, and the footer's"


def test_pyarrow_reads_datasets_with_filters_and_parquet_files(lake, url):
    _, directory = lake
    fs, path = fsspec.url_to_fs(url)
    hive = {"format": "parquet", "partitioning": "hive", "exclude_invalid_files": True}
    local = ds.dataset(str(directory), **hive)
    ours = ds.dataset(path, filesystem=fs, **hive)
    assert len(ours.files) == 3
    where = (ds.field("year") == 2025) & (ds.field("value") > 0.5)
    columns = ["id", "value", "year"]
    assert ours.to_table(columns=columns, filter=where).sort_by("id") == local.to_table(
        columns=columns, filter=where
    ).sort_by("id")
    assert ours.count_rows() == 3 * ROWS
    wrapped = pafs.PyFileSystem(pafs.FSSpecHandler(fs))
    one = f"{path}/year=2025/part-0.parquet"
    assert pq.read_table(one, filesystem=wrapped, partitioning=None) == pq.read_table(
        directory / "year=2025" / "part-0.parquet", partitioning=None
    )
    infos = wrapped.get_file_info(pafs.FileSelector(path, recursive=True))
    assert sum(info.is_file for info in infos) >= 4
    with fs.open(one) as file:
        assert pq.ParquetFile(file).read_row_group(2).num_rows == ROWS // 4
    with pytest.raises(FileNotFoundError):
        pq.read_table(f"{path}/none.parquet", filesystem=wrapped)


def test_duckdb_queries_globs_of_a_registered_filesystem(lake, url):
    _, directory = lake
    fs, _ = fsspec.url_to_fs(url)
    with duckdb.connect() as db:
        db.register_filesystem(fs)
        query = "select count(*), sum(id), sum(value), min(year), max(year) from read_parquet('{}/year=*/*.parquet', hive_partitioning=true)"
        ours = db.execute(query.format(url)).fetchone()
        assert ours == pytest.approx(db.execute(query.format(directory)).fetchone())
        assert db.execute(f"select max(n) from read_csv('{url}/rows.csv')").fetchone() == (49_999,)
        with pytest.raises(duckdb.Error):
            db.execute(f"select * from read_parquet('{url}/none.parquet')")
