"""Compares every number that the server answered with what the server stores."""
