"""What a power loss leaves of an engine's files, and whether every answer is in it."""
