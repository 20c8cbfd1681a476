"""Load tests with an audit, and benchmarks against baselines."""
