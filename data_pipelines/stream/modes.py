"""Mode segmentation: a user's sequence as a whole (multi-mode), or cut into runs of one mode (single-mode)."""

import numpy as np


def single_mode_offsets(mode: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Cuts sequences where the mode changes.

    mode: (num_actions,) any integer dtype; offsets: (num_sequences + 1,) int64. Returns the offsets of the runs:
    int64, rising strictly, and holding every old offset, so no run crosses from one user to the next.
    """
    changes = np.flatnonzero(mode[1:] != mode[:-1]) + 1
    return np.unique(np.concatenate([offsets, changes.astype(np.int64)]))
