"""The result of a run, and the forms in which people read it."""
