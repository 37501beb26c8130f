"""The paper's tables as data, and the experiments, sweeps and reports that reproduce them with `flwr run`."""
