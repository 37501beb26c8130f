"""The numbers that the paper prints: its tables as JSON, and which of them a run can be compared with."""

from fedbabu.reproduction.paper.tables import accuracy_by_finetune_epoch, find_cells

__all__ = ["accuracy_by_finetune_epoch", "find_cells"]
