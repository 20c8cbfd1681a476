"""The reports of the benchmarks, as Markdown and plots."""
