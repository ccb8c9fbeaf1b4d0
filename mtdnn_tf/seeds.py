"""Seeds of the parts of a run, each a function of the run's seed and the part's name alone."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: str) -> int:
    """Return a seed in [0, 2**31) for the part with these names.

    The number depends on nothing else: adding or removing another part leaves it as it is.
    """
    digest = hashlib.sha256("/".join((str(seed), *names)).encode("utf-8")).digest()
    return int.from_bytes(digest[:4], "big") >> 1
