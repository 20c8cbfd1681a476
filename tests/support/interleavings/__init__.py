"""Runs the program's protocols in every order of the single commands of a few processes, on real engines."""
