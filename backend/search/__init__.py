"""Searches messages, publishes changes to the search index, and rebuilds the index."""
