"""A real Elasticsearch for the tests: installed, started, disturbed, and removed."""
