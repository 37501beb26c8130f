"""FedBABU (Section 5.2, Algorithm 1): body aggregation and body update.

The only difference from FedAvg: BODY instead of FULL, twice. The head keeps its random initialization on
every client and on the server, so it need not be sent back.
"""

from fedbabu.algorithms.base import Algorithm, Part, Phase

FEDBABU = Algorithm("fedbabu", trains=(Phase(Part.BODY),), shares=Part.BODY)
