"""The load tool: Locust scenarios for any base URL. It uses HTTP only and never imports `backend`."""
