"""Measures designs of the search index on a real Elasticsearch, and PostgreSQL's scan beside them.

    .venv/bin/python -m tools.measure_index [--messages 200000] [--designs NAME …] [--out FILE]

Each design indexes the same messages, varied lines of real conversations in chats of all sizes, among them
one of 5,000 and one of 100,000 messages. For each design the tool prints how fast prebuilt bulks are
indexed, the size of the index before and after a merge, and the time of a first page of 50 messages for rare
and frequent keywords of 1, 2, 3, 5 and 20 letters. The time includes reading and verifying the rows in
PostgreSQL. Every page is compared with PostgreSQL's scan; a difference ends the run.

Other work on the machine affects the times. Compare figures of one run, or the processor time of the engine.
"""

import argparse
from pathlib import Path

from backend.storage.postgres.database import Database
from backend.storage.postgres.schema_upgrade import upgrade
from tests.support.elasticsearch.node import ElasticsearchServer
from tests.support.elasticsearch.provision import installation
from tests.support.engines import PostgresServer, wheel_postgres
from tools.measure_index.designs import DESIGNS
from tools.measure_index.measurement import Measurement, fill_postgres


def main() -> None:
    """Measure the designs one after another, on private engines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--messages", type=int, default=200_000)
    parser.add_argument("--designs", nargs="*", choices=[design.name for design in DESIGNS])
    parser.add_argument("--heap", default="1g")
    parser.add_argument("--out", type=Path, help="also append the lines to this file")
    options = parser.parse_args()
    measurement = Measurement(options.messages, options.out)
    postgres = PostgresServer(wheel_postgres())
    server = ElasticsearchServer(installation(), heap=options.heap, fast_start=False)
    try:
        postgres.start()
        database = Database(postgres.url())
        upgrade(database)
        fill_postgres(database, measurement.chats)
        measurement.scan(database)
        server.start()
        measurement.warm_up(server, database)
        designs = {design.name: design for design in DESIGNS}
        for name in options.designs or designs:
            measurement.design(server, database, designs[name])
        database.close()
    finally:
        server.remove()
        postgres.remove()


if __name__ == "__main__":
    main()
