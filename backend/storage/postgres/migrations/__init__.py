"""The migrations of the SQL schema, run by Alembic."""
