"""The command line: one module per noun, one printer, one place that maps errors to exit codes.

Most of the time of `instachat --help` goes into importing Typer, so modules that declare commands import
nothing heavy at their top: the core, Rich and the drivers are imported when a command runs.
"""
