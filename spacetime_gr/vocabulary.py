"""The token id space: specials | context (u) | block | inner | action, one contiguous range each."""

from dataclasses import dataclass

SPECIAL_TOKENS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNK, BOS, EOS = range(len(SPECIAL_TOKENS))

MODES = ("local", "pre_trip", "in_trip")
HOURS_PER_WEEK = 168
HOURS = HOURS_PER_WEEK + 1  # the last one stands for 'time not known' (the blind setting)
NUM_CONTEXTS = len(MODES) * HOURS
TOKENS_PER_ACTION = 4
DEFAULT_CONTEXT_ACTIONS = 128  # known actions that are read where a model does not say how many it was trained on
# Position of a place in its block as the model reads it, a Morton code: 32 x 32 cells, whose first bits are 8 x 8.
FINE_CELL_BITS, CELL_BITS = 10, 6


@dataclass(frozen=True)
class Vocabulary:
    """Sizes and first ids of the ranges; a context id is `mode * HOURS + hour_of_week`."""

    num_blocks: int
    num_inner: int
    num_actions: int

    @property
    def context_start(self) -> int:
        """First id of the context range."""
        return len(SPECIAL_TOKENS)

    @property
    def block_start(self) -> int:
        """First id of the block range."""
        return self.context_start + NUM_CONTEXTS

    @property
    def inner_start(self) -> int:
        """First id of the inner range."""
        return self.block_start + self.num_blocks

    @property
    def action_start(self) -> int:
        """First id of the action range."""
        return self.inner_start + self.num_inner

    @property
    def size(self) -> int:
        """Number of ids in all."""
        return self.action_start + self.num_actions
