"""Exports everything as JSON lines and imports such lines without ever reusing a number."""
