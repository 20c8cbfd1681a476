"""The HTTP API's routes: one module for each noun of the API."""
