"""Jobs on a Ray cluster of this machine: `make test-ray`. They are skipped where Ray is not installed."""
