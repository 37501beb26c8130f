"""What is computed with PyTorch: local SGD, evaluation, training on the server and extra measurements."""
