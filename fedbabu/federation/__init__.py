"""Between the server and the nodes: messages and their checks, discovery of clients, assignment to nodes, resending.

How clients are sampled and averaged is in strategy.py, what a client computes in training/.
"""
