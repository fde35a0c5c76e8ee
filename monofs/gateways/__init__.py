"""Windows for programs that speak other protocols than ours: they see the client and status records only."""
