"""Processes and proxies that the tests of faults drive."""
