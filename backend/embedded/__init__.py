"""The private engines: a PostgreSQL and a Valkey that InstaChat starts where no URL is set."""
