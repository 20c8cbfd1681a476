"""The stores: every Redis command, SQL statement and Elasticsearch request is sent from here."""
