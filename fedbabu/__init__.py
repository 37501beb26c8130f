"""FedBABU (Oh, Kim and Yun, ICLR 2022) on Flower: federated averaging with body aggregation and body update."""
