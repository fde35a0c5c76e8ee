"""``python -m monofs`` is the `monofs` command."""

from monofs.cli.main import main

if __name__ == "__main__":
    main(prog_name="monofs")
