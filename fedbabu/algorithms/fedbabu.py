"""FedBABU (Section 5.2, Algorithm 1): clients train the body alone, and the server averages the bodies.

It differs from FedAvg in one word, BODY instead of FULL, twice. The head has learning rate zero: it keeps its random
initialization on every client and on the server, so clients need not send it back. Fine-tuning trains everything.
"""

from fedbabu.algorithms.base import Algorithm, Part, Phase

FEDBABU = Algorithm("fedbabu", title="FedBABU", trains=(Phase(Part.BODY),), shares=Part.BODY)
