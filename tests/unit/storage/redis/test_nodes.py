"""Which nodes an answer to CLUSTER NODES names."""

from redis._parsers.helpers import parse_cluster_nodes

from backend.storage.redis.nodes import Member, parse_members


def members(*lines: str) -> list[Member]:
    return parse_members(parse_cluster_nodes("\n".join(lines)), "10.0.0.9")


def test_primaries_come_first_and_replicas_name_theirs() -> None:
    """Also a primary that is down, and a node with a host name; not one that was never reached."""
    assert members(
        "a 10.0.0.1:7001@17001,r1.example slave b 0 1 2 connected",
        "b 10.0.0.2:7002@17002 master,fail - 0 1 2 disconnected 0-8191 9000",
        "c [::1]:7003@17003 myself,master - 0 1 3 connected 8192-8999 [9001->-b]",
        "d :0@0 master,noaddr - 0 1 3 disconnected",
        "e 10.0.0.5:7005@17005 handshake - 0 0 0 connected",
    ) == [
        Member("10.0.0.2:7002", "", [range(8192), range(9000, 9001)], ("10.0.0.2",), 7002),
        Member("[::1]:7003", "", [range(8192, 9000)], ("[::1]",), 7003),
        Member("10.0.0.1:7001", "10.0.0.2:7002", [], ("10.0.0.1", "r1.example"), 7001),
    ]


def test_a_node_that_no_other_has_met_has_the_host_that_was_asked() -> None:
    assert members("a :7001@17001 myself,master - 0 0 1 connected 0-16383") == [
        Member("10.0.0.9:7001", "", [range(16384)], ("10.0.0.9",), 7001)
    ]
