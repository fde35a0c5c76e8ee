"""The vocabulary: ids, paths, inodes, blocks, mounts, capabilities, errors and options.

Everything here is a value: no I/O, no clock, no randomness, no reactor. Every other package may import it; it imports nothing of ours.
"""
