"""The client: the Python SDK that every door goes through."""

from monofs.client.file import MonofsFile
from monofs.client.filesystem import FileSystem, connect
from monofs.client.info import FileInfo, FileKind
from monofs.client.transfer import TransferProgress
from monofs.client.writer import Writer

__all__ = [
    "FileInfo",
    "FileKind",
    "FileSystem",
    "MonofsFile",
    "TransferProgress",
    "Writer",
    "connect",
]
