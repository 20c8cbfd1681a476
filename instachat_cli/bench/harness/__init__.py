"""What the benchmarks share: engines, paired runs, rivals, and the facts of the machine."""
