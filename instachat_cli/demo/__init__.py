"""The demonstration that `instachat demo` runs on real conversations."""
