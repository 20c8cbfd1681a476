"""Processes and proxies that the fault tests run."""
