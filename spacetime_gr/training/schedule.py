"""Learning rate as a pure function of the step and of the share of the run that is done: nothing to checkpoint."""

import math

from spacetime_gr.training.config import TrainSection


def progress(train: TrainSection, step: int, tokens: float, seconds: float) -> float:
    """Share of the run that is done, in [0, 1]: the largest over the limits that are set.

    Args:
        step: finished optimiser steps.
        tokens: tokens seen in them, padding not counted.
        seconds: training time of them.
    """
    shares = [0.0]
    if train.max_steps is not None:
        shares.append(step / train.max_steps)
    if train.max_tokens is not None:
        shares.append(tokens / train.max_tokens)
    if train.max_minutes is not None:
        shares.append(seconds / 60 / train.max_minutes)
    return min(1.0, max(shares))


def learning_rate(train: TrainSection, step: int, done: float) -> float:
    """Rate of the next update.

    `wsd` (warm-up, stable, decay; Hu et al. 2024, arXiv 2404.06395) is flat until the last `decay_share` of the run and
    then falls linearly; `cosine` falls from the end of warm-up. Both end at `min_lr_ratio * lr`. Warm-up is linear
    and its first update already has a rate above 0.

    Args:
        step: finished optimiser steps.
        done: share of the run that is done, from `progress`.
    """
    if step < train.warmup_steps:
        return train.lr * (step + 1) / train.warmup_steps
    if train.schedule == "constant":
        falling = 1.0
    elif train.schedule == "cosine":
        falling = 0.5 * (1 + math.cos(math.pi * done))
    else:
        falling = 1.0 if train.decay_share == 0 else min(1.0, (1 - done) / train.decay_share)
    return train.lr * (1 - (1 - train.min_lr_ratio) * (1 - falling))
