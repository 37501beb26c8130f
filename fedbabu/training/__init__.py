"""What is computed in plain PyTorch: a client's training and evaluation, training on the server, extra measurements.

Nothing here knows of Flower's messages or of files.
"""
