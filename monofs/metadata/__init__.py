"""The namespace: an ordered store (memtables over LMDB) and the deterministic state machine that changes it."""
