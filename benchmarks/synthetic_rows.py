"""Token rows of any vocabulary, without a prepared folder: for measurements of cost, whatever is learnt."""

import numpy as np

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.vocabulary import NUM_CONTEXTS, TOKENS_PER_ACTION


def synthetic_rows(
    config: SpacetimeGRConfig, rows: int, length: int, sequence_length: int, supervised_share: float, seed: int = 0
) -> dict[str, np.ndarray]:
    """A batch as the stream gives it, (rows, length): full rows of sequences of one length, tokens drawn evenly.

    Exactly `supervised_share` of the actions are supervised; tokens and side inputs are int64.
    """
    rng = np.random.default_rng(seed)
    vocabulary, actions = config.vocabulary, length // TOKENS_PER_ACTION
    drawn = [
        vocabulary.context_start + rng.integers(0, NUM_CONTEXTS, (rows, actions)),
        vocabulary.block_start + rng.integers(0, config.num_blocks, (rows, actions)),
        vocabulary.inner_start + rng.integers(0, config.num_inner, (rows, actions)),
        vocabulary.action_start + rng.integers(0, config.num_actions, (rows, actions)),
    ]
    tokens = np.stack(drawn, axis=2).reshape(rows, length)
    supervised = np.zeros(rows * actions, bool)
    supervised[rng.permutation(rows * actions)[: round(rows * actions * supervised_share)]] = True
    labels = np.where(np.repeat(supervised.reshape(rows, actions), TOKENS_PER_ACTION, axis=1), tokens, -100)
    labels[:, ::TOKENS_PER_ACTION] = -100  # u is given, not predicted
    kind = np.arange(length) % TOKENS_PER_ACTION
    at_u, at_inner = kind == 0, kind == 2
    blocks = vocabulary.block_start + rng.integers(0, config.num_blocks, (rows, length))
    times = np.cumsum(rng.integers(600, 90_000, (rows, actions)), axis=1)
    return {
        "input_ids": tokens,
        "labels": labels,
        "position_ids": np.broadcast_to(np.arange(length) % sequence_length, (rows, length)).copy(),
        "user_hash": np.where(at_u, rng.integers(1, 1 << 40, (rows, length)), 0),
        "user_block": np.where(at_u, blocks, 0),
        "gap": np.where(at_u, rng.integers(0, config.num_gap_buckets, (rows, length)), 0),
        "distance": np.where(at_u, rng.integers(0, config.num_distance_buckets, (rows, length)), 0),
        "category": np.where(at_inner, rng.integers(0, config.num_categories + 1, (rows, length)), 0),
        "cell": np.where(at_inner, rng.integers(1, 1025, (rows, length)), 0),
        "local_time": np.repeat(times, TOKENS_PER_ACTION, axis=1),
    }
