"""A model as a scorer: log-probabilities of every place for a batch of instances."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.model_files import load_exported
from spacetime_gr.evaluation.visitors import StreamVisitors
from spacetime_gr.generation.recommend import split_requests
from spacetime_gr.vocabulary import DEFAULT_CONTEXT_ACTIONS

if TYPE_CHECKING:
    import torch

    from data_pipelines.prepared import PreparedFolder
    from spacetime_gr.modeling_spacetime_gr import SpacetimeGRForCausalLM
    from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer

MAX_SHARED = 32  # requests that share a row; bounds the candidate step
# A place is known by its coordinates to about 10 m: enough to tell that two folders number different places alike.
_SAME_PLACE_DEGREES = 1e-4


class ModelScorer:
    """Scores instances with a model; call it with `Instances`, get (settings, n, num_pois) float64 log-probabilities.

    Args:
        context_actions: the longest row of known actions that the model reads.
        batch_size: rows in one forward pass.
        blind: hide the time of the target.
        explore_odds: settings of the discovery knob, factors on the odds of exploring against returning (1 = as
            learnt); they share the forward passes.
        renew_days: the model's counts of visitors follow the stream, renewed every so many days; None: those of
            training.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        model: SpacetimeGRForCausalLM,
        tokenizer: SpacetimeGRTokenizer,
        *,
        context_actions: int = DEFAULT_CONTEXT_ACTIONS,
        batch_size: int = 8,
        blind: bool = False,
        explore_odds: Sequence[float] = (1.0,),
        renew_days: float | None = None,
    ) -> None:
        longest = model.config.max_position_embeddings // tokenizer.tokens_per_action - 1
        if not 1 <= context_actions <= longest:
            raise ValueError(
                f"--context-actions is {context_actions}, expected 1..{longest}: the model has "
                f"{model.config.max_position_embeddings} positions and an action takes {tokenizer.tokens_per_action}"
            )
        if batch_size < 1:
            raise ValueError(f"--batch-size is {batch_size}, expected at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.context_actions = context_actions
        self.batch_size = batch_size
        self.blind = blind
        self.explore_odds = tuple(explore_odds)
        if renew_days is not None and not renew_days > 0:
            raise ValueError(f"--renew-days is {renew_days}, expected a number above 0")
        self.renew_days = renew_days
        self._visitors: StreamVisitors | None = None

    def __call__(self, instances: Instances) -> np.ndarray:
        """(settings, n, num_pois) float64 log-probabilities.

        Targets of one user that stand near each other share one reading of the history: a row holds at most
        `context_actions` events, and each target sees those before it, at least half of `context_actions` where the
        user has as many.

        Raises:
            ValueError: counts are to follow the stream, but it is not known (`same`).
        """
        if self.renew_days is None:
            return self._scores(instances)
        if instances.knowledge != "stream":
            raise ValueError("--renew-days counts along the stream; it needs --knowledge stream")
        if self._visitors is None or self._visitors.log is not instances.log:
            self._visitors = StreamVisitors(instances, self.renew_days, self.blind)
        index = self.tokenizer.index
        scores = np.empty((len(self.explore_odds), len(instances), instances.log.num_pois))
        for rows, visitors in self._visitors.renewals(instances):
            self.model.renew_visitors(index, visitors)
            scores[:, rows] = self._scores(instances.take(rows))
        self.model.renew_visitors(index, index.visitors(np.arange(index.num_pois)))
        return scores

    def _scores(self, instances: Instances) -> np.ndarray:
        """As `__call__`, with the model as it is."""
        groups = self._groups(instances)
        scores = np.empty((len(self.explore_odds), len(instances), instances.log.num_pois))
        # Every row of a batch is scored for as many targets as its fullest, and that is what costs: rows of one number
        # of targets share a batch, and among these rows of like length.
        order = np.lexsort(([instances.history_lengths[rows[-1]] for rows in groups], [len(rows) for rows in groups]))
        for start in range(0, len(order), self.batch_size):
            batch = [groups[i] for i in order[start : start + self.batch_size]]
            found = self._score(instances, batch)
            for number, rows in enumerate(batch):
                scores[:, rows] = found[:, number, : len(rows)]
        return scores

    def _groups(self, instances: Instances) -> list[np.ndarray]:
        """Instances that share a row, each group in the order of its targets."""
        order = np.argsort(instances.target)
        start, stop = instances.start[order], instances.stop[order]
        joined = (instances.base_end == instances.resume)[order]
        groups: list[np.ndarray] = []
        begin = 0
        while begin < len(order):
            end = begin + 1
            if joined[begin]:
                # A row may begin at the user's first event, or later if that leaves half a context before each target.
                same_user = np.searchsorted(start, start[begin], side="right")
                room = self.context_actions - min(stop[begin] - start[begin], self.context_actions // 2)
                end = max(end, int(np.searchsorted(stop[:same_user], stop[begin] + room, side="right")))
                end = min(end, begin + MAX_SHARED, begin + int(np.argmin(np.append(joined[begin:end], False))))
            groups.append(order[begin:end])
            begin = end
        return groups

    def _score(self, instances: Instances, groups: list[np.ndarray]) -> np.ndarray:
        """Scores of the groups' instances, shape (settings, groups, most instances in one, num_pois)."""
        import torch

        last = instances.take(np.array([rows[-1] for rows in groups]))
        histories = self.encode(last, self.context_actions)
        row_tokens, last_requests, _ = split_requests(histories)
        count = max(len(rows) for rows in groups)
        # Every group has `count` requests; the missing ones repeat its last and are dropped by the caller.
        members = np.stack([np.append(rows, np.full(count - len(rows), rows[-1])) for rows in groups])
        flat = instances.take(members.ravel())
        requests = {name: values[:, -1].reshape(members.shape) for name, values in self.encode(flat, 0).items()}
        length = row_tokens["input_ids"].shape[1]
        behind = (last.stop[:, None] - instances.stop[members]) * self.tokenizer.tokens_per_action
        after = torch.from_numpy(length - behind).to(last_requests["input_ids"].device)
        # Positions go on from the part of the row that a request sees.
        requests["position_ids"] = last_requests["position_ids"] - (length - after)
        with torch.inference_mode():
            scores = self.model.score_requests(
                row_tokens, requests, after, self.tokenizer.index, explore_odds=self.explore_odds
            )
        return scores.double().cpu().numpy()

    def encode(self, instances: Instances, max_actions: int) -> dict[str, torch.Tensor]:
        """Left-padded last `max_actions` of the histories with their requests at the end.

        Histories are cut after they were encoded, as in training: the gap, the place and the inferred mode of the first
        action that is left, and the mode of a request, follow from the actions before.
        """
        log, target = instances.log, instances.target
        columns, offsets = history_columns(instances)
        where = None
        if log.user_latitude is not None and log.user_longitude is not None:
            where = np.stack([log.user_latitude[target], log.user_longitude[target]], axis=1)
        batch = self.tokenizer.encode_requests(
            columns,
            offsets,
            when=log.timestamp[target],
            tz_offset_minutes=log.tz_offset_minutes[target],
            where=where,
            mode=None if log.mode is None else log.mode[target],
            blind=self.blind,
            max_actions=max_actions,
            return_tensors="pt",
        )
        return dict(batch.to(self.model.device))


def history_columns(instances: Instances) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The known histories of instances as the tokenizer takes them: flat columns, and (n + 1,) offsets."""
    log = instances.log
    events, offsets = instances.history()
    names = ("poi_row", "action", "timestamp", "tz_offset_minutes", "user_latitude", "user_longitude", "mode")
    columns = {name: values[events] for name in names if (values := getattr(log, name)) is not None}
    columns["user_hash"] = log.user_hash[log.user[instances.target]]
    return columns, offsets


def load_scorer(
    run: Path,
    folder: PreparedFolder,
    *,
    context_actions: int,
    batch_size: int,
    blind: bool,
    explore_odds: Sequence[float] = (1.0,),
    renew_days: float | None = None,
    device: str | None = None,
) -> ModelScorer:
    """A scorer from a run directory (its `export/`) or from an exported folder.

    Raises:
        ValueError: no such device, no exported model there, or its places are not those of the prepared folder.
    """
    import torch

    torch.set_flush_denormal(True)  # probabilities near 0 would slow a CPU several times
    chosen = _device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    tokenizer, model = load_exported(run)
    _check_places(tokenizer, run, folder)
    model.to(chosen)
    return ModelScorer(
        model,
        tokenizer,
        context_actions=context_actions,
        batch_size=batch_size,
        blind=blind,
        explore_odds=explore_odds,
        renew_days=renew_days,
    )


def _device(name: str) -> torch.device:
    import torch

    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise ValueError(f"--device is {name!r}, which torch cannot use here: {str(error).splitlines()[0]}") from error


def _check_places(tokenizer: SpacetimeGRTokenizer, run: Path, folder: PreparedFolder) -> None:
    pois = folder.pois()
    if tokenizer.index.num_pois == pois.num_rows:
        rows = np.arange(pois.num_rows)
        given = [pois[name].to_numpy() for name in ("latitude", "longitude")]
        ours = tokenizer.index.coordinates(rows)
        if all(np.allclose(a, b, rtol=0, atol=_SAME_PLACE_DEGREES) for a, b in zip(ours, given, strict=True)):
            return
    raise ValueError(
        f"the model in {run} knows {tokenizer.index.num_pois} places, and they are not the {pois.num_rows} of "
        f"{folder.path} in the same order; evaluate on the folder that the model was trained on"
    )
