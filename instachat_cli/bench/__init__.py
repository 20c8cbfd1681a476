"""Benchmarks: what InstaChat does, against the ceiling or the rival of each, in one run on one machine.

A rate by itself says more about the machine than about the program, so each benchmark is a ratio: both
sides take turns, and what counts is the median of the pairs. Each rival is written to be as quick as its
method allows. One file a benchmark, all named in `catalogue`:

    drain_jobs   storing, against one job and one INSERT a message
    drain_copy   storing, against plain COPY of the same rows
    accept       accepting, against pipelined XADDs
    startup      `instachat --help`, against importing what it is made of
    publish      publishing, against bulks made before; storing and publishing, against two calls a message
    reindex      reindexing, against bulks made before
    million      the memory of a reindex of a million; searching in it, against a wildcard and the scan
    searchable   from accepted to searchable under load, against the refresh interval

and what they share: `duel` (measuring), `ground` (engines and data), `elastic` (of the last four), `facts`
(the machine), `report`.
"""
