"""How far a run is."""

from dataclasses import dataclass


@dataclass
class Progress:
    """How far the run is. `tokens` counts all ranks without padding; `seconds` is rank 0's time inside
    the steps before the present one, all sessions: the same number on every rank."""

    step: int = 0
    tokens: float = 0
    seconds: float = 0.0
