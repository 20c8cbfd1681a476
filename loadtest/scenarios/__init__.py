"""The scenarios: one module each, which Locust loads."""
