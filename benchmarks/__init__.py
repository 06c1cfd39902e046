"""One script per claim of speed, each side by side with its peer in one run: `python -m benchmarks.NAME [--quick]`."""
