"""The commands of `instachat bench`."""
