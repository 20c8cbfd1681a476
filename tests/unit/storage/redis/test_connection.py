from backend.storage.redis.connection import NodeAddress, node_url


def test_any_host_of_a_cluster_may_be_an_ipv6_address() -> None:
    url = "redis+cluster://u:p@h1:1,[fe80::2]:2"
    assert node_url(url, NodeAddress("fe80::2", 2)) == "redis://u:p@[fe80::2]:2"
    assert node_url(url, NodeAddress("h1", 1)) == "redis://u:p@h1:1"
