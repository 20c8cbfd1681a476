"""`instachat` with a server that gives up a slow client after five seconds, instead of ten or thirty.

The server's processes are started by multiprocessing's `spawn`, which imports this module in each of them.
"""

from backend.api import request_body
from backend.api.server import connection
from instachat_cli.main import main

SECONDS = 5.0  # longer than a busy machine takes to schedule a client that does read

for _module, _limit in (
    (connection, "HEADERS_TIMEOUT_SECONDS"),
    (connection, "WRITE_TIMEOUT_SECONDS"),
    (request_body, "BODY_TIMEOUT_SECONDS"),
):
    assert getattr(_module, _limit) >= 10
    setattr(_module, _limit, SECONDS)

if __name__ == "__main__":
    main()
