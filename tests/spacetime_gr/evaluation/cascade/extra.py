"""What the tests of the cascade share: whether its packages are here, and a small city."""

from importlib.util import find_spec

import numpy as np
import pytest

from spacetime_gr.evaluation.catalogue import Catalogue

MISSING = [name for name in ("implicit", "lightgbm", "sklearn") if find_spec(name) is None]
needs_extra = pytest.mark.skipif(
    bool(MISSING), reason=f"{', '.join(MISSING)} not installed; pip install '.[cascade]' to run"
)


def catalogue_of(num_pois: int, num_categories: int = 3) -> Catalogue:
    """Places on a diagonal, about 110 m apart, with categories in turn; the last one has none."""
    step = np.arange(num_pois) * 0.001
    category = np.arange(num_pois) % num_categories
    category[-1] = -1
    return Catalogue(40 + step, -74 + step, category, [f"c{number}" for number in range(num_categories)])
