"""What the benchmarks share: engines and data, paired runs, child processes, baselines, machine facts."""
