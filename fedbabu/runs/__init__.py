"""What is on disk of a run: its folder, records, checkpoints, clients' states, and when two runs have one setting."""
