"""The private engines: a PostgreSQL and a Valkey that one home starts for itself when no URL is set."""
