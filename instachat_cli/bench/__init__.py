"""Benchmarks: InstaChat against a ceiling or a baseline, both measured in one run on one machine.

A rate alone says more about the machine than about the program, so a benchmark reports a ratio: the two sides
take turns, and the median of the pairs counts. Each baseline is written to be as fast as its method allows.

- `suite` names the benchmarks and runs them.
- `cases` has a module for each benchmark.
- `harness` has what the cases share: paired runs, engines and data, child processes, baselines, the machine.
- `reports` renders the results as Markdown.
"""
