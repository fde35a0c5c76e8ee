"""The pure Raft core of the journal: messages, ticks and proposals in, `Ready` out; no I/O, no thread, no clock, no global randomness."""
