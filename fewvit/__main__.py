"""The command line, as `python -m fewvit`."""

from __future__ import annotations

from fewvit_cli.main import main

if __name__ == "__main__":
    main()
