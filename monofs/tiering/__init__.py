"""Tiering: the on-disk page cache of a worker, in tiers of storage directories. `cache` is its face.

Invariant (laws 1, 5, 7): a page that can be read has the bytes of its content, or its CRC will be compared before it is served.
"""
