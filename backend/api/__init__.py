"""The HTTP API, above the core: it checks requests, calls the core, and writes the contract's responses.

    serve            `instachat serve`: the server's processes and what each of them runs
    app              the application: routes, error handlers and OpenAPI, put together
    routes/          the routes, a noun a file; probes, the status page, the API documentation
    problems         every error response and the core error it stands for: start here for "why a 503?"
    server/          processes, connections, the fast path, group commit, group read, logs
    health/          the engines' health and the metrics, and how the status page and `/metrics` show them
    service          what the routes call: the core in threads, group commit, waiting; lifespan opens it
    stored_waiter    `?wait=stored`, for all requests of a process together
    creation_limit   how many applications an address may create
    schemas, parameters   what requests and responses consist of, and its validation
    request_body, batch_body            how bodies are read, within limits of size, memory and time
    openapi          what the OpenAPI document says beside the routes
    middleware, headers, html           what surrounds a request and a response
    assets/          the files of the two pages

The core is synchronous and runs in threads. The event loop itself awaits the calls that accept and that read
live counts (`backend.storage.redis.async_client`), and executes grouped reads
(`backend.storage.postgres.async_connection`).
"""
