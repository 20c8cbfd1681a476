"""What tests share: real engines, servers, writers, ledgers and the scheduling of three processes."""
