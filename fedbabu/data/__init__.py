"""From a dataset's name to a client's tensors; nothing here knows the run configuration or trains a model."""
