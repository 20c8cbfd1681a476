"""A real Elasticsearch for the tests: brought onto the machine, started, tormented, removed."""
