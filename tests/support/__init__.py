"""What several test modules use: a federation in this process, small datasets, an independent reference."""

from pathlib import Path

PROJECT = Path(__file__).parents[2]
