"""A tool that compares designs of the search index."""
