"""The command line: one module a noun, one printer, one place that maps errors to exit codes.

Importing Typer is most of what `instachat --help` costs, so the modules that declare commands import
nothing heavy at their top: the core, Rich and the drivers come when a command runs.
"""
