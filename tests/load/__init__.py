"""Tests of the load tool against a small server that is correct, or has chosen faults."""
