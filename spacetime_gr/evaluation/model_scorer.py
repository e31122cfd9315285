"""A model as a scorer: log-probabilities of every place for a batch of instances."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spacetime_gr.evaluation.instances import Instances

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder
    from spacetime_gr.modeling_spacetime_gr import SpacetimeGRForCausalLM
    from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer

# A place is known by its coordinates to about 10 m: enough to tell that two folders number different places alike.
_SAME_PLACE_DEGREES = 1e-4


class ModelScorer:
    """Scores instances with a model; call it with `Instances`, get (n, num_pois) float64 log-probabilities.

    Args:
        context_actions: how many of the last known actions the model reads.
        batch_size: histories in one forward pass.
        blind: hide the time of the target.
        explore_odds: factor on the odds of exploring against returning (the discovery knob; 1 = as learnt).
    """

    def __init__(
        self,
        model: SpacetimeGRForCausalLM,
        tokenizer: SpacetimeGRTokenizer,
        *,
        context_actions: int = 128,
        batch_size: int = 64,
        blind: bool = False,
        explore_odds: float = 1.0,
    ) -> None:
        longest = model.config.max_position_embeddings // tokenizer.tokens_per_action - 1
        if not 1 <= context_actions <= longest:
            raise ValueError(
                f"--context-actions is {context_actions}, expected 1..{longest}: the model has "
                f"{model.config.max_position_embeddings} positions and an action takes {tokenizer.tokens_per_action}"
            )
        if batch_size < 1:
            raise ValueError(f"--batch-size is {batch_size}, expected at least 1")
        if explore_odds <= 0:
            raise ValueError(f"--explore-odds is {explore_odds:g}, expected above 0 (1 = as learnt)")
        self.model = model
        self.tokenizer = tokenizer
        self.context_actions = context_actions
        self.batch_size = batch_size
        self.blind = blind
        self.explore_odds = explore_odds

    def __call__(self, instances: Instances) -> np.ndarray:
        """(n, num_pois) float64 log-probabilities."""
        # Histories of like length share a batch, so that little of it is padding.
        order = np.argsort(instances.history_lengths, kind="stable")
        scores = np.empty((len(instances), instances.log.num_pois))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            scores[rows] = self._score(instances.take(rows))
        return scores

    def _score(self, instances: Instances) -> np.ndarray:
        import torch

        log, target = instances.log, instances.target
        events, offsets = instances.history(self.context_actions)
        names = ("poi_row", "action", "timestamp", "tz_offset_minutes", "user_latitude", "user_longitude", "mode")
        columns = {name: values[events] for name in names if (values := getattr(log, name)) is not None}
        columns["user_hash"] = log.user_hash[log.user[target]]
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
            return_tensors="pt",
        ).to(self.model.device)
        with torch.inference_mode():
            scores = self.model.score_pois(batch, self.tokenizer.index, explore_odds=self.explore_odds)
        return scores.double().cpu().numpy()


def load_scorer(
    run: Path,
    folder: PreparedFolder,
    *,
    context_actions: int,
    batch_size: int,
    blind: bool,
    explore_odds: float = 1.0,
    device: str | None = None,
) -> ModelScorer:
    """A scorer from a run directory (its `export/`) or from an exported folder.

    Raises:
        ValueError: no exported model there, or its places are not those of the prepared folder.
    """
    import torch

    from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer

    exported = exported_folder(run)
    tokenizer = SpacetimeGRTokenizer.from_pretrained(exported)
    _check_places(tokenizer, exported, folder)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = SpacetimeGRForCausalLM.from_pretrained(exported).to(device).eval()
    return ModelScorer(
        model, tokenizer, context_actions=context_actions, batch_size=batch_size, blind=blind, explore_odds=explore_odds
    )


def exported_folder(run: Path) -> Path:
    """RUN/export if there is one, else RUN itself if it holds a model.

    Raises:
        ValueError: neither does.
    """
    for candidate in (run / "export", run):
        if (candidate / "config.json").is_file():
            return candidate
    raise ValueError(
        f"no exported model in {run}: expected {run / 'export' / 'config.json'} (a run directory) or "
        f"{run / 'config.json'} (an exported folder); finish the run, or use --baselines-only for the counters alone"
    )


def _check_places(tokenizer: SpacetimeGRTokenizer, exported: Path, folder: PreparedFolder) -> None:
    pois = folder.pois()
    if tokenizer.index.num_pois == pois.num_rows:
        rows = np.arange(pois.num_rows)
        given = [pois[name].to_numpy() for name in ("latitude", "longitude")]
        ours = tokenizer.index.coordinates(rows)
        if all(np.allclose(a, b, rtol=0, atol=_SAME_PLACE_DEGREES) for a, b in zip(ours, given, strict=True)):
            return
    raise ValueError(
        f"the model in {exported} knows {tokenizer.index.num_pois} places, and they are not the {pois.num_rows} of "
        f"{folder.path} in the same order; evaluate on the folder that the model was trained on"
    )
