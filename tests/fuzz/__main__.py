"""`python -m tests.fuzz`: see the package."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # made_indexes and its like, as pytest finds them

from fuzz.running import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
