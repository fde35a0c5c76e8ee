"""The fsspec door: ``monofs://`` for pandas, pyarrow, duckdb, dask and everything else that speaks fsspec."""

from monofs.fsspec.filesystem import MonofsFileSystem

__all__ = ["MonofsFileSystem"]
