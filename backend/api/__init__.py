"""The HTTP edge: what comes in is checked and handed to the core, what comes out has the contract's form.

    server      the server's processes: `instachat serve`
    edge        the outermost layer: request ids, headers, logs, limits on what is read
    fast        the one hot route, POST …/messages, in as few steps as can be
    gather      group commit: requests that wait at the same moment are accepted in one call
    app         everything put together; OpenAPI
    applications, chats, messages, health   the routes, a noun a file
    pages       `/`, whether everything is well, and `/docs`; their files are in assets/
    watch       the engines, asked once a second for however many look
    figures     what the figures mean to a person
    metrics     `/metrics`, for Prometheus
    measures    what a process counts of its own work
    shapes      what bodies look like, for validation and for OpenAPI
    problems    errors as RFC 9457 problems

The core is synchronous and runs in threads; only what is here is asynchronous.
"""
