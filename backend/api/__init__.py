"""The HTTP edge: what comes in is checked and handed to the core, what comes out has the contract's form.

    server      what a process of `instachat serve` does; processes: how they are kept up; address: where
    connection  a client's connection, and what it can make the server hold and wait for
    edge        the outermost layer of the application: request ids, headers, logs
    reading     bodies: of the right type, of bounded size, in bounded time
    fast        the one hot route, POST …/messages, in as few steps as can be
    gather      group commit: requests that wait at the same moment are accepted in one call
    app         everything put together; OpenAPI
    applications, chats, messages, health   the routes, a noun a file
    pages       `/`, whether everything is well, and `/docs`; their files are in assets/
    watch       the engines, asked once a second for however many look
    figures     what the figures mean to a person
    metrics     `/metrics`, for Prometheus
    measures    what a process counts of its own work; logs: the lines it writes
    service     what every route works with; waiting, limit: for what is stored, and on creations
    shapes      what bodies look like, for validation and for OpenAPI
    problems    errors as RFC 9457 problems

The core is synchronous and runs in threads, but for the call that accepts (`log.asynchronous`).
"""
