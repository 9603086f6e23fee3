"""The programs of the peers, which run in their own environment; the benchmark imports only the network."""
