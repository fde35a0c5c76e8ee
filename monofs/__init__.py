"""monofs: one namespace and one cache over all your storage."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from monofs.client import FileInfo, FileSystem, MonofsFile, connect

__version__ = "0.1.0"
__all__ = ["FileInfo", "FileSystem", "MonofsFile", "__version__", "connect"]


def __getattr__(name: str) -> Any:
    """The client is imported when it is first asked for: a server or `monofs --help` need not pay for it."""
    if name in __all__:
        import monofs.client

        return getattr(monofs.client, name)
    raise AttributeError(f"module 'monofs' has no attribute {name!r}")
