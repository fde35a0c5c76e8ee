"""monofs: one namespace and one cache over all your storage."""

__version__ = "0.1.0"
