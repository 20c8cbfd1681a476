"""The reports that the benchmarks write."""
