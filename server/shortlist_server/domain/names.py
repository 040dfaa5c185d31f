"""Building blocks of the other values: identifiers, vectors and JSON."""

from __future__ import annotations

from typing import NewType

import numpy as np
from numpy.typing import NDArray

PassageId = NewType("PassageId", int)
"""Identifies a passage in a collection; from 1, increasing, never reused. A replaced document gets new passage ids."""

DocumentKey = NewType("DocumentKey", int)
"""Identifies one version of a document in a collection; from 1, increasing, never reused."""

SequenceNumber = NewType("SequenceNumber", int)
"""Number of a change in a collection; from 1, increasing. 0 means "nothing yet"."""

Vector = NDArray[np.float32]
"""Shape (dimension,), finite, L2 norm 1."""

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
