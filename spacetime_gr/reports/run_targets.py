"""What the model answers on held-out targets: lists with probabilities, and the probability of exploring.

Only the blocks that `recommend` would open are looked into, and those where the person has been, so the cost does not
grow with the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.model_scorer import ModelScorer, history_columns
from spacetime_gr.generation.filters import Filters
from spacetime_gr.generation.recommend import (
    CANDIDATE_CHUNK,
    SharedHistory,
    best_places,
    choose_blocks,
    split_requests,
)
from spacetime_gr.index import POIIndex

LIST_LENGTH = 10
NUM_BEAMS = 50  # as recommend opens unless told otherwise
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Answers:
    """The model's answers to n targets.

    rows, probs: the list, POI rows (-1 where it is shorter) and probabilities, best first, (n, 10). rank: of the
    target in the list from 1, 0 where it is not there. target_prob: (n,). explore: (n,) probability that the person
    explores, NaN without the return-explore head. new: (n,) probability of all places together where the person has not
    been. coverage: (n,) share of the blocks' mass that was looked into.
    blocks: (n, num_blocks) probabilities where they were asked for, else (n, 0).
    """

    rows: NDArray[np.int64]
    probs: NDArray[np.float64]
    rank: NDArray[np.int64]
    target_prob: NDArray[np.float64]
    explore: NDArray[np.float64]
    new: NDArray[np.float64]
    coverage: NDArray[np.float64]
    blocks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rank)

    def take(self, order: NDArray[np.integer]) -> Answers:
        """The answers at `order`."""
        return Answers(*(getattr(self, field.name)[order] for field in fields(self)))


def ask_model(
    scorer: ModelScorer,
    instances: Instances,
    explore_odds: float = 1.0,
    keep_blocks: bool = False,
    progress: Progress | None = None,
) -> Answers:
    """Answers to all instances, in their order.

    Args:
        scorer: the model, how much of a history it reads, and whether the time of the request is hidden.
        explore_odds: the discovery knob, as for `recommend`.
        keep_blocks: keep the probabilities of all blocks.
        progress: told how many of how many are done.
    """
    order = np.argsort(instances.history_lengths, kind="stable")  # histories of like length: little padding
    parts = []
    for start in range(0, len(order), scorer.batch_size):
        chosen = order[start : start + scorer.batch_size]
        parts.append(_ask(scorer, instances.take(chosen), explore_odds, keep_blocks))
        if progress is not None:
            progress(start + len(chosen), len(order))
    joined = (np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Answers))
    return Answers(*joined).take(np.argsort(order))


@torch.inference_mode()
def _ask(scorer: ModelScorer, instances: Instances, explore_odds: float, keep_blocks: bool) -> Answers:
    model, index = scorer.model, scorer.tokenizer.index
    columns, offsets = history_columns(instances)
    filters = Filters(index, columns, offsets, instances.target_time, None, None, None, None, False, None)
    prefix = SharedHistory(model, *split_requests(scorer.encode(instances, scorer.context_actions)), explore_odds)
    block_log_probs = prefix.block_log_probs[:, 0, : index.num_blocks]
    blocks, opened, coverage = choose_blocks(
        block_log_probs,
        torch.from_numpy(filters.counts()).to(model.device),
        torch.from_numpy(filters.past_blocks(scorer.context_actions if model.config.return_explore else 0)).to(
            model.device
        ),
        NUM_BEAMS,
        LIST_LENGTH,
    )
    log_probs, rows = best_places(prefix, index, filters, blocks, opened, LIST_LENGTH)
    room = ((0, 0), (0, LIST_LENGTH - rows.shape[1]))  # the lists of a small catalogue are shorter
    found = rows == instances.target_poi[:, None]
    block, inner = index.encode(instances.target_poi, rows=True)
    wanted = torch.from_numpy(block.astype(np.int64)).to(model.device)[:, None, None]
    of_target = prefix.place_log_probs(wanted)[:, 0, 0].double().cpu().numpy()
    explore = np.full(len(instances), np.nan) if prefix.log_explore is None else _probs(prefix.log_explore[:, 0])
    return Answers(
        rows=np.pad(rows, room, constant_values=-1),
        probs=np.pad(np.where(rows >= 0, np.exp(log_probs.astype(np.float64)), 0.0), room),
        rank=np.where(found.any(axis=1), found.argmax(axis=1) + 1, 0),
        target_prob=np.exp(of_target[np.arange(len(instances)), inner]),
        explore=explore,
        new=_probability_of_new(prefix, instances, index),
        coverage=coverage.double().cpu().numpy(),
        blocks=_probs(block_log_probs if keep_blocks else block_log_probs[:, :0]).astype(np.float32),
    )


def _probability_of_new(prefix: SharedHistory, instances: Instances, index: POIIndex) -> NDArray[np.float64]:
    """Probability of the places where the persons have not been, (n,): what the visited ones leave."""
    row, poi = instances.visited()
    block, inner = (values.astype(np.int64) for values in index.encode(poi, rows=True))
    # Each person's blocks beside each other; `at` is where the block of a visited place stands among them.
    pairs, at = np.unique(row * index.num_blocks + block, return_inverse=True)
    owner, start = pairs // index.num_blocks, np.searchsorted(pairs // index.num_blocks, np.arange(len(instances)))
    column = np.arange(len(pairs)) - start[owner]
    blocks = np.zeros((len(instances), max(1, int(column.max(initial=0)) + 1)), np.int64)
    blocks[owner, column] = pairs % index.num_blocks
    known = np.zeros(len(instances))
    chunks = torch.from_numpy(blocks).to(prefix.after.device).split(CANDIDATE_CHUNK, 1)
    for number, chunk in enumerate(chunks):
        probs = _probs(prefix.place_log_probs(chunk.unsqueeze(1))[:, 0])
        place = column[at] - number * CANDIDATE_CHUNK
        here = (place >= 0) & (place < chunk.shape[1])
        np.add.at(known, row[here], probs[row[here], place[here], inner[here]])
    return np.clip(1.0 - known, 0.0, 1.0)


def _probs(log_probs: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(log_probs.double().exp().cpu().numpy())


def kinds_of(answers: Answers, discovery: NDArray[np.bool_]) -> list[str]:
    """What each target is an example of."""
    hit = {0: "missed", 1: "hit at 1"}
    return [
        f"{'discovery' if new else 'return'}, {hit.get(rank, f'hit at {LIST_LENGTH}')}"
        for rank, new in zip(answers.rank.tolist(), discovery.tolist(), strict=True)
    ]


# How many of each kind are shown, in this order; by rank: 0 missed, 2 stands for all lower places of the list.
_WANTED = {
    ("return", 1): 2,
    ("return", 2): 1,
    ("return", 0): 2,
    ("discovery", 1): 1,
    ("discovery", 2): 1,
    ("discovery", 0): 2,
}


def choose_examples(instances: Instances, answers: Answers, discovery: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Positions of some hits, misses and discoveries, of as many persons as there are: the first of each kind by time.

    Args:
        discovery: which targets are discoveries, (n,).
    """
    user = instances.log.user[instances.target]
    group = np.minimum(answers.rank, 2)
    positions: list[int] = []
    for (what, rank), num in _WANTED.items():
        of_kind = np.flatnonzero((group == rank) & (discovery == (what == "discovery")))
        for _ in range(min(num, len(of_kind))):
            left = of_kind[~np.isin(of_kind, positions)]
            # Persons who are not shown yet come first; a stable sort keeps the order of time.
            shown = np.isin(user[left], user[positions])
            positions.append(int(left[np.argsort(shown, kind="stable")[0]]))
    return np.array(positions, np.int64)


def of_users(instances: Instances, hashes: Sequence[int], each: int) -> Instances:
    """The last `each` instances of every given person.

    Raises:
        ValueError: a person has none.
    """
    hash_of = instances.log.user_hash[instances.log.user[instances.target]]
    rows = []
    for one in hashes:
        found = np.flatnonzero(hash_of == one)
        if len(found) == 0:
            some = ", ".join(str(known) for known in np.unique(hash_of)[:3].tolist())
            raise ValueError(
                f"--user {one} has no held-out target under this protocol; expected the user_hash of a person that "
                f"has, such as {some}"
            )
        rows.append(found[-each:])
    return instances.take(np.concatenate(rows))
