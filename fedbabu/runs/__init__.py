"""What is on disk of a run, and what is printed about it. Nothing here trains, sends messages or knows the paper."""
