"""The search index in Elasticsearch: the client, the mapping, and the requests."""
