"""Servers, nodes and doubles for tests, ours and yours: real S3 servers, a fault-injecting proxy, real monofs processes."""
