"""The command line: every command is a thin window on the client SDK, with Unix flags, `--json` and exit codes by table."""
