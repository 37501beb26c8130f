"""Between the server and the nodes: messages and their checks, discovery, assignment and resending."""
