"""Takes creations in: issues numbers, appends to the log, and drains the log into SQL exactly once."""
