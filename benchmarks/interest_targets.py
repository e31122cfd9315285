"""An ablation's hits apart by what a person goes for: home and work, other known places, new ones.

    python benchmarks/interest_targets.py --data FOLDER --out OUT [--protocol public] [--variants full behaviour_rules]

OUT is that of `ablation.py`. A target is home or work if it is one of the two places that the user visited most in the
training part, with at least three visits: what `configs/ablation/behaviour_rules.yaml` takes out of the loss. Mean and
standard deviation over the seeds, as Markdown.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script

from benchmarks.ablation import spread  # noqa: E402
from data_pipelines.prepared import PreparedFolder  # noqa: E402
from spacetime_gr.evaluation.events import EventLog  # noqa: E402
from spacetime_gr.evaluation.inner_split import training_log  # noqa: E402
from spacetime_gr.evaluation.protocols import BY_NAME, choose  # noqa: E402

NUM_ANCHORS, MIN_VISITS = 2, 3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared folder of the ablation")
    parser.add_argument("--out", type=Path, required=True, help="folder of the ablation's runs")
    parser.add_argument("--protocol", default="public", help="as for the ablation")
    parser.add_argument("--variants", nargs="*", help="default: all that are there, by name")
    arguments = parser.parse_args()
    folder = PreparedFolder(arguments.data)
    log = training_log(BY_NAME[choose(arguments.protocol, folder.protocol)](EventLog.from_folder(folder)))
    pairs = anchors(log.user, log.poi_row, log.num_pois)
    names = arguments.variants or sorted(path.name for path in arguments.out.iterdir() if path.is_dir())
    print("| variant | seeds | home or work: HR@1 | HR@10 | other known places: HR@1 | HR@10 | new: HR@10 |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        files = sorted(arguments.out.glob(f"{name}/seed-*/eval.parquet"))
        figures = [hits(pq.read_table(file), log, pairs) for file in files]
        print(f"| {name} | {len(files)} | {' | '.join(spread(values) for values in zip(*figures, strict=True))} |")


def anchors(user: NDArray[np.int64], poi: NDArray[np.int64], num_pois: int) -> NDArray[np.int64]:
    """user * num_pois + poi of each user's most visited places, rising; ties by the lower poi."""
    pair, visits = np.unique(user * np.int64(num_pois) + poi, return_counts=True)
    owner = pair // num_pois
    order = np.lexsort((pair, -visits, owner))
    pair, visits, owner = pair[order], visits[order], owner[order]
    rank = np.arange(len(pair)) - np.searchsorted(owner, owner)
    return np.sort(pair[(rank < NUM_ANCHORS) & (visits >= MIN_VISITS)])


def hits(records: "pq.Table", log: EventLog, pairs: NDArray[np.int64]) -> list[float]:
    """The figures of one evaluation's records, in the order of the table's columns."""
    order = np.argsort(log.user_hash)
    hashes = records["user_hash"].to_numpy()
    user = order[np.searchsorted(log.user_hash, hashes, sorter=order)]
    anchor = np.isin(user * np.int64(log.num_pois) + records["poi_row"].to_numpy(), pairs)
    new = records["is_discovery"].to_numpy()
    rank = records["model/rank"].to_numpy()
    other = ~anchor & ~new
    wanted = ((anchor, 1), (anchor, 10), (other, 1), (other, 10), (new, 10))
    return [float((rank[rows] <= k).mean()) for rows, k in wanted]


if __name__ == "__main__":
    main()
