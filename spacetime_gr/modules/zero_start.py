"""Layers that add nothing at the start, and draw no random numbers, so that the other weights are as without them."""

from torch import nn


class ZeroEmbedding(nn.Embedding):
    """A table of zeros, to be learnt."""

    def reset_parameters(self) -> None:
        """All zero."""
        nn.init.zeros_(self.weight)


class ZeroLinear(nn.Linear):
    """A map to zero, to be learnt."""

    def reset_parameters(self) -> None:
        """All zero."""
        nn.init.zeros_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
