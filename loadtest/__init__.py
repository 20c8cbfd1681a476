"""The load tool: Locust scenarios against any base URL. It speaks HTTP only and never imports `backend`."""
