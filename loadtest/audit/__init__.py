"""Checks every number that the server answered against what the server stores."""
