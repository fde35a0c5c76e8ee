"""The journal: an ordered, durable list of opaque entries, and the face everything above it sees."""
