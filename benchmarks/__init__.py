"""Measurements behind the figures muxtable claims; each is run as `python -m benchmarks.NAME`."""
