"""The form in which user sequences travel through the stream: flat arrays and offsets."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data_pipelines.stream.visits import Visits


@dataclass(frozen=True)
class Sequences:
    """User sequences laid end to end.

    columns: name -> (num_actions,) array, all sequences concatenated, in time order inside each;
    offsets: int64 (num_sequences + 1,), sequence i holds actions offsets[i]..offsets[i+1]-1;
    user_hash: int64 (num_sequences,).
    """

    columns: dict[str, np.ndarray]
    offsets: np.ndarray
    user_hash: np.ndarray

    def __len__(self) -> int:
        return len(self.user_hash)

    @property
    def num_actions(self) -> int:
        return int(self.offsets[-1])

    @property
    def lengths(self) -> np.ndarray:
        """Number of actions of each sequence: int64 (num_sequences,)."""
        return np.diff(self.offsets)

    @cached_property
    def visits(self) -> Visits:
        """Which places each person visits how often; counted once, as richness, anchors and the usual area all ask."""
        return Visits.of(self)

    def sequence_of_action(self) -> np.ndarray:
        """Number of the sequence each action belongs to: int64 (num_actions,)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def keep(self, mask: np.ndarray) -> "Sequences":
        """The sequences where `mask` (bool, (num_sequences,)) is true, in the same order."""
        if mask.all():
            return self
        lengths = self.lengths
        actions = np.repeat(mask, lengths)
        return Sequences(
            columns={name: values[actions] for name, values in self.columns.items()},
            offsets=np.concatenate([[0], np.cumsum(lengths[mask])]).astype(np.int64),
            user_hash=self.user_hash[mask],
        )

    def keep_actions(self, mask: np.ndarray) -> "Sequences":
        """All sequences, with the actions where `mask` (bool, (num_actions,)) is true; they may become empty."""
        if mask.all():
            return self
        before = np.concatenate([[0], np.cumsum(mask)]).astype(np.int64)
        columns = {name: values[mask] for name, values in self.columns.items()}
        return Sequences(columns, before[self.offsets], self.user_hash)
