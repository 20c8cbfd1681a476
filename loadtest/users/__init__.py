"""The simulated users, and how Locust's processes coordinate."""
