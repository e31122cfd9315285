"""How well a place can be told where the person has never been: what counts can do, and what the model does.

    python benchmarks/new_places.py --data FOLDER [--run RUN] [--requests 900]

On the discoveries among the protocol's targets, with every visited place struck from the list: conditional logits on
growing sets of the cascade's features (`pip install -e ".[cascade]"`), fitted on discoveries of the last 45 % of the
training part (nothing of the targets), the model of a run, and both together (the sum of halves of their logarithms).
Before that, what an oracle over parts of the map could reach. Counts are as of each request; timed. Meant for a
validation folder (`benchmarks/validation_split.py`): settings may be chosen by it.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script

from data_pipelines.prepared import PreparedFolder  # noqa: E402
from spacetime_gr.evaluation.cascade.embedding import PlaceEmbedding  # noqa: E402
from spacetime_gr.evaluation.cascade.features import PairFeatures  # noqa: E402
from spacetime_gr.evaluation.cascade.known import KnownEvents  # noqa: E402
from spacetime_gr.evaluation.cascade.requests import Requests  # noqa: E402
from spacetime_gr.evaluation.catalogue import Catalogue  # noqa: E402
from spacetime_gr.evaluation.events import EventLog  # noqa: E402
from spacetime_gr.evaluation.inner_split import inner_instances, time_at, training_log  # noqa: E402
from spacetime_gr.evaluation.instances import Instances, build_instances  # noqa: E402
from spacetime_gr.evaluation.model_files import trained_actions  # noqa: E402
from spacetime_gr.evaluation.model_scorer import load_scorer  # noqa: E402
from spacetime_gr.evaluation.protocols import BY_NAME, choose, time_split  # noqa: E402

FIT_FROM, AT_ONCE, RIDGE = 0.55, 50, 1e-3
STRUCK = -1e9
# Features by name: of the cascade's, with the transformation that a logit can use.
FEATURES: dict[str, tuple[str, Any]] = {
    "visitors": ("people", None),
    "visits": ("popularity", None),
    "trend": ("popularity_month", None),
    "visits per visitor": ("visits_per_person", lambda x: np.minimum(x, 20.0)),
    "distance": ("km_from_last", lambda x: np.log(np.expm1(x) + 0.3)),
    "distance, near": ("km_from_last", lambda x: np.log(np.expm1(x) + 0.05)),
    "distance, far": ("km_from_last", lambda x: np.log(np.expm1(x) + 3.0)),
    "category at this hour": ("category_hour", lambda x: np.log(x + 1e-3)),
    "own category at this hour": ("own_category_hour", lambda x: np.log(x + 1e-2)),
    "own category": ("own_category_share", lambda x: np.log(x + 1e-2)),
    "place at this hour": ("place_hour", lambda x: np.log(x + 0.05)),
    "steps from the last place": ("steps_from_last", None),
    "steps between categories": ("category_step_share", lambda x: np.log(x + 1e-3)),
    "factors: user by place": ("embedding_score", None),
    "factors: last place by place": ("embedding_similarity_to_last", None),
}
BASE = ["visitors", "distance", "category at this hour"]
SETS = {
    "visitors": ["visitors"],
    "visitors, distance": ["visitors", "distance"],
    "+ category at this hour": BASE,
    **{f"the three and {name}": [*BASE, name] for name in FEATURES if name not in BASE},
    "all": list(FEATURES),
}


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--run", type=Path, help="a run, to see what its model does")
    parser.add_argument("--protocol", default="public", help="as for `spacetime-gr evaluate`")
    parser.add_argument("--requests", type=int, default=900, help="discoveries of training to fit on")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    folder = PreparedFolder(arguments.data)
    catalogue = Catalogue.from_folder(folder)
    targets = BY_NAME[choose(arguments.protocol, folder.protocol)](EventLog.from_folder(folder))
    log = training_log(targets)
    everything = build_instances(targets, "stream")
    fit = inner_instances(log, (time_at(log, FIT_FROM), time_at(log, 1.0)), time_split)
    fit = discoveries(fit).sample(arguments.requests, np.random.default_rng(arguments.seed))
    test = discoveries(everything)
    print(oracles(everything, test, catalogue), "\n")

    earlier = log.select(log.timestamp < time_at(log, FIT_FROM))
    learn, struck_learn = features(fit, catalogue, earlier, arguments.seed)
    check, struck = features(test, catalogue, log, arguments.seed)
    print(f"{len(fit):,} requests to fit on, {len(test):,} discoveries, {log.num_pois:,} places\n")
    print("| | nats | HR@1 | HR@10 | HR@50 |\n|---|---|---|---|---|")
    scores = {}
    for name, wanted in SETS.items():
        weights = fit_logit(pick(learn, wanted), fit.target_poi, struck_learn)
        scores[name] = normalised(pick(check, wanted) @ weights, struck)
        print(row(name, scores[name], test.target_poi))
    if arguments.run:
        options: dict[str, Any] = {"context_actions": trained_actions(arguments.run), "batch_size": 8, "blind": False}
        scorer = load_scorer(arguments.run, folder, **options)
        model = normalised(torch.from_numpy(scorer(test)[0]).float(), struck)
        print(row("**the model**", model, test.target_poi))
        print(row("the model and all features", normalised((model + scores["all"]) / 2, struck), test.target_poi))


def discoveries(instances: Instances) -> Instances:
    return instances.take(np.flatnonzero(instances.is_discovery()))


def oracles(everything: Instances, test: Instances, catalogue: Catalogue) -> str:
    """What is known of the targets from where the person has been: the most that a part of the map can give."""
    requests = Requests(test, KnownEvents(test, catalogue), True)
    target, rows = test.target_poi, np.arange(len(test))
    category = requests.known.category
    known = requests.own_categories()[rows, category[target]] > 0
    km = requests.km_from_last[rows, target]
    nearer = (requests.km_from_last < km[:, None]).sum(axis=1)
    lines = [
        f"Returns: {1 - len(test) / len(everything):.4f} of {len(everything):,} targets, all that own places can give.",
        f"Of the discoveries {known.mean():.3f} are of a category that the person knows; the target is within",
        ", ".join(f"{limit} km of the last place for {(km <= limit).mean():.3f}" for limit in (0.5, 1, 5)),
        f"and among the nearest 10 for {(nearer < 10).mean():.3f}, the nearest 100 for {(nearer < 100).mean():.3f}.",
    ]
    return "\n".join(lines)


def features(
    instances: Instances, catalogue: Catalogue, fitted_on: EventLog, seed: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Features of every place, each (n, num_pois) float32 by name, and which places the person has been to."""
    known = KnownEvents(instances, catalogue)
    factors = PlaceEmbedding.fit(fitted_on.user, fitted_on.poi_row, fitted_on.num_users, fitted_on.num_pois, seed)
    names = tuple(dict.fromkeys(source for source, _ in FEATURES.values()))
    parts, visited = [], []
    for start in range(0, len(instances), AT_ONCE):
        requests = Requests(instances.take(slice(start, start + AT_ONCE)), known, True)
        size = (len(requests), requests.num_pois)
        row, poi = (values.ravel() for values in np.indices(size))
        parts.append(PairFeatures(requests, row, poi, factors).matrix(names).reshape(*size, -1))
        visited.append(requests.own_visits > 0)
    raw = np.nan_to_num(np.concatenate(parts))
    found = {}
    for name, (source, change) in FEATURES.items():
        values = raw[..., names.index(source)]
        found[name] = torch.from_numpy(values if change is None else change(values)).float()
    return found, torch.from_numpy(np.concatenate(visited))


def pick(found: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    """Features side by side in units that the ridge can treat alike, shape (n, num_pois, len(names))."""
    return torch.stack([found[name] for name in names], dim=-1)


def fit_logit(matrix: torch.Tensor, target: NDArray[np.int64], struck: torch.Tensor) -> torch.Tensor:
    """Weights (features,) of a conditional logit over the places that are not struck, with a little ridge."""
    spread = matrix.std((0, 1))
    weights = torch.zeros(matrix.shape[-1], requires_grad=True)
    goal = torch.from_numpy(target)
    optimizer = torch.optim.LBFGS([weights], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = (matrix @ (weights / spread)).masked_fill(struck, STRUCK)
        total = functional.cross_entropy(scores, goal) + RIDGE * weights.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    return (weights / spread).detach()


def normalised(scores: torch.Tensor, struck: torch.Tensor) -> torch.Tensor:
    """Log-probabilities over the places that are not struck."""
    return scores.masked_fill(struck, STRUCK).log_softmax(dim=-1)


def row(name: str, log_probs: torch.Tensor, target: NDArray[np.int64]) -> str:
    """A row of the table; ties at their expected rank."""
    own = log_probs.gather(1, torch.from_numpy(target)[:, None])
    rank = (log_probs > own).sum(1) + ((log_probs == own).sum(1) + 1) / 2
    hits = (f"{(rank <= k).float().mean():.4f}" for k in (1, 10, 50))
    return f"| {name} | {-own.mean():.3f} | {' | '.join(hits)} |"


if __name__ == "__main__":
    main()
