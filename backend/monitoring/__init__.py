"""Reports the state of an installation (`status`) and checks its dependencies and settings (`doctor`)."""
