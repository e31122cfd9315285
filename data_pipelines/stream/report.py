"""What cleaning drops, what the rules decide and which modes there are, over a whole split."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.stream.modes import segment_modes, single_mode_offsets
from data_pipelines.stream.rows import RowMaker
from data_pipelines.stream.sequences import Sequences

_RULE = "actions_rule_"
_DROPPED = "actions_"
_NO_REASON = ("read", "functional", "supervised", "in_rows")


@dataclass(frozen=True)
class Example:
    """A run of one mode: its columns, name -> (num_actions,), and the number of actions of the whole sequence."""

    columns: dict[str, np.ndarray]
    sequence_length: int


@dataclass(frozen=True)
class Survey:
    """Counts over one epoch of a split.

    counts: as `TokenStream.stats` names them; mode_actions, mode_runs: actions and single-mode runs of each mode, in
    the order of the manifest's `modes`; examples: some runs of each; repeated_users: rows whose user has another row.
    """

    counts: Counter[str]
    mode_actions: np.ndarray
    mode_runs: np.ndarray
    examples: list[list[Example]]
    repeated_users: int


def survey(
    makers: Sequence[RowMaker], num_examples: int = 2, progress: Callable[[int, int], None] = lambda done, total: None
) -> Survey:
    """Reads every unit once, in epoch 0; `progress` is told how many of how many are done.

    Raises ValueError for shards that cannot be read.
    """
    num_modes = len(makers[0].units.folder.modes)
    counts: Counter[str] = Counter()
    actions, runs = np.zeros(num_modes, dtype=np.int64), np.zeros(num_modes, dtype=np.int64)
    examples: list[list[Example]] = [[] for _ in range(num_modes)]
    users = []
    num_units = sum(len(maker.units) for maker in makers)
    for maker in makers:
        for unit in range(len(maker.units)):
            sequences, found = maker.read(0, unit)
            counts.update(found)
            counts.update(maker.behaviour.interest(sequences)[1])
            users.append(sequences.user_hash)
            progress(len(users), num_units)
            mode = segment_modes(sequences, maker.tokenizer.index, maker.cleaning.trip_km)
            offsets = single_mode_offsets(mode, sequences.offsets)
            run_mode = mode[offsets[:-1]] if len(mode) else mode
            actions += np.bincount(mode, minlength=num_modes)
            runs += np.bincount(run_mode, minlength=num_modes)
            for number in range(num_modes):
                wanted = num_examples - len(examples[number])
                # Longest first: a run of one action shows nothing.
                of_mode = np.flatnonzero(run_mode == number)
                longest = of_mode[np.argsort(-np.diff(offsets)[of_mode], kind="stable")][:wanted]
                examples[number] += [
                    _example(sequences, mode, int(offsets[run]), int(offsets[run + 1])) for run in longest
                ]
    hashes = np.concatenate(users)
    return Survey(counts, actions, runs, examples, len(hashes) - len(np.unique(hashes)))


def dropped(counts: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Sequences and actions that cleaning dropped, by reason, most actions first."""
    reasons = {
        key.removeprefix(_DROPPED): value
        for key, value in counts.items()
        if key.startswith(_DROPPED) and not key.startswith(_RULE) and key.removeprefix(_DROPPED) not in _NO_REASON
    }
    ordered = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    return {reason: (counts.get(f"sequences_{reason}", 0), reasons[reason]) for reason in ordered}


def decided(counts: Mapping[str, int]) -> dict[str, int]:
    """Actions that each rule of behaviour decided, in the order of the rules; the default or the classifier last."""
    return {key.removeprefix(_RULE): value for key, value in counts.items() if key.startswith(_RULE)}


def summary(counts: Mapping[str, int]) -> str:
    """One line: what was read, the shares that were dropped or are functional, and how full the rows are."""
    read = max(1, counts.get("actions_read", 0))
    text = f"stream: {counts.get('sequences_read', 0):,} sequences, {counts.get('actions_read', 0):,} actions read"
    losses = [f"{reason} {actions / read:.1%}" for reason, (_, actions) in dropped(counts).items() if actions]
    text += f"; dropped of the actions: {', '.join(losses)}" if losses else "; nothing dropped"
    if counts.get("actions_functional"):
        text += f"; functional {counts['actions_functional'] / read:.1%}"
    if counts.get("places_in_rows"):
        text += f"; rows {counts['actions_in_rows'] / counts['places_in_rows']:.0%} full"
    return text


def _example(sequences: Sequences, mode: np.ndarray, start: int, stop: int) -> Example:
    sequence = int(np.searchsorted(sequences.offsets, start, side="right")) - 1
    columns = {name: values[start:stop] for name, values in sequences.columns.items()}
    return Example({**columns, "mode": mode[start:stop]}, int(sequences.lengths[sequence]))
