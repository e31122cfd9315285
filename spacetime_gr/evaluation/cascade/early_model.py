"""What a generative model says of requests that it was not trained on, for a ranker to learn from.

A ranker that learnt from a model's scores of the model's own training events would trust them too much. So it is fitted
with an early model, trained on the first part of the training events, asked about the rest of them; later it is given
the scores of the model that was trained on all. (Stacked generalisation, Wolpert 1992, with a split by time.)
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.compute as pc

from spacetime_gr.evaluation.cascade.calibration import log_sum
from spacetime_gr.evaluation.harness import fingerprint
from spacetime_gr.evaluation.instances import Instances
from spacetime_gr.evaluation.model_files import model_files, trained_actions

if TYPE_CHECKING:
    from data_pipelines.prepared import PreparedFolder


class EarlyModel:
    """A model trained on `early`, asked about instances of `folder`; call it with `Instances`, get (n, num_pois)
    float64 log-probabilities in the order of `folder`'s places.

    until: Unix seconds from which on it has seen nothing. fingerprint: of its configuration and weights.

    Args:
        run: run directory or exported folder of the early model.
        early: the prepared folder that it was trained on, cut by time.
        folder: the prepared folder with all of the training events.

    Raises:
        ValueError: there is no model, or its places and their visitors are not those of `early`; `early` was not cut by
            time, has its places from another folder, names its users otherwise than `folder`, or lacks some of its
            places; no such device.
    """

    def __init__(
        self, run: Path, early: PreparedFolder, folder: PreparedFolder, *, blind: bool, device: str | None = None
    ) -> None:
        from spacetime_gr.evaluation.model_scorer import load_scorer

        if early.manifest.get("like") is not None:
            raise ValueError(
                f"--early-data {early.path} was prepared --like another folder, whose counts of visitors may be of "
                "later events; prepare it by itself, with a POI table of all places and --catalogue all"
            )
        train_end = early.manifest["split"]["train_end"]
        if train_end is None:
            raise ValueError(
                f"--early-data {early.path} is not cut by time ({early.manifest['split']['rule']}); prepare the "
                "training events with --split time and a smaller --train-fraction"
            )
        self.until = int(train_end)
        keys = [one.manifest["user_key_fingerprint"] for one in (early, folder)]
        if keys[0] != keys[1]:
            raise ValueError(
                f"{early.path} and {folder.path} were prepared with different SPACETIME_GR_USER_KEY, so one person has "
                "two hashes; prepare both with the same key"
            )
        places = early.pois()
        at = pc.index_in(folder.pois()["poi_id"], places["poi_id"])
        if at.null_count:
            raise ValueError(
                f"--early-data {early.path} lacks {at.null_count:,} of the {len(at):,} places of {folder.path}; "
                "prepare it with a POI table of all of them and --catalogue all"
            )
        # poi_row of the early folder for each of `folder`; the last entry serves -1, a place that is not listed.
        self._early_row = np.append(at.to_numpy(), -1)
        self._num_pois = places.num_rows
        self.fingerprint = fingerprint(model_files(run))
        self._scorer = load_scorer(
            run, early, context_actions=trained_actions(run), batch_size=8, blind=blind, device=device
        )
        counted = self._scorer.tokenizer.index.visitors(np.arange(self._num_pois))
        if not np.array_equal(counted, places["train_visitors"].to_numpy()):
            raise ValueError(
                f"the model in {run} counts other visitors than {early.path} has: it was not trained on this folder; "
                "give the folder that its data.path names"
            )

    def __call__(self, instances: Instances) -> np.ndarray:
        """(n, num_pois) float64.

        Raises:
            ValueError: an instance lies in what the model was trained on.
        """
        if len(instances) and int(instances.target_time.min()) < self.until:
            raise ValueError(f"a request lies before {self.until}, up to which the early model was trained")
        log = replace(instances.log, poi_row=self._early_row[instances.log.poi_row], num_pois=self._num_pois)
        scores = self._scorer(replace(instances, log=log))[0][:, self._early_row[:-1]]
        # Places that only the early folder lists held some of the probability.
        return scores - log_sum(scores) if self._num_pois > scores.shape[1] else scores
