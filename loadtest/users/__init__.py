"""The simulated users, and the coordination of Locust's processes."""
