"""Every figure, drawn from run folders alone. Which figure an experiment shows is decided in `fedbabu.reproduction`."""
