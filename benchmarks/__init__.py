"""Speed against peers in the same run, on the same weights and texts: `python -m benchmarks`."""
