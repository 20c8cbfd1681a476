"""Compares Redis, SQL and the search index key by key, names each difference, and repairs it."""
