"""Random cases of every op family, each as our call, PyTorch's call and its operands.

What it is not: the comparison; that is test_fuzz_parity.py. A family takes a NumPy generator and returns a Case.
"""

from __future__ import annotations

import fuzz_chains
import fuzz_nets
import fuzz_tensors
import fuzz_volumes
from fuzz_base import FAMILIES

PARTS = (fuzz_chains, fuzz_nets, fuzz_tensors, fuzz_volumes)
assert all(fn.__module__ in {m.__name__ for m in PARTS} for fn in FAMILIES.values())
