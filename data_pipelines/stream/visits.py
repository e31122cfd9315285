"""Which places each person visits how often: what richness, anchors and the usual area are read from."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data_pipelines.stream.sequences import Sequences


@dataclass(frozen=True)
class Visits:
    """The distinct (sequence, known place) pairs, in rising order.

    sequence, first, count: int64 (num_pairs,): the pair's sequence, its first action, and its number of actions;
    actions: int64, the actions at known places (poi_row >= 0); pair: int64, the pair of each of these actions.
    """

    sequence: np.ndarray
    first: np.ndarray
    count: np.ndarray
    actions: np.ndarray
    pair: np.ndarray

    @classmethod
    def of(cls, sequences: "Sequences") -> "Visits":
        """Counts the visits of all sequences."""
        poi_row = sequences.columns["poi_row"]
        actions = np.flatnonzero(poi_row >= 0)
        keys = sequences.sequence_of_action()[actions] << 32 | poi_row[actions].astype(np.int64)
        distinct, first, pair, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        return cls(distinct >> 32, actions[first], count, actions, pair)

    def ranks(self, num_sequences: int) -> np.ndarray:
        """Rank of each pair in its sequence by falling number of visits, ties by first visit: int64 (num_pairs,)."""
        order = np.lexsort((self.first, -self.count, self.sequence))
        starts = np.searchsorted(self.sequence, np.arange(num_sequences))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(len(order)) - starts[self.sequence[order]]
        return ranks
