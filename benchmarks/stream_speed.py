"""Tokens per second of the whole stream (read, clean, tokenise, cut, pack) on one core, and how full the rows are.

taskset -c 0 python benchmarks/stream_speed.py --data PREPARED_FOLDER

Each setting is timed over whole passes after a warm-up; the median of the repeats is printed. Beside it stands a check:
the labels that one finite pass gives must be those of every action of the training part, once.
"""

import argparse
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from data_pipelines import PreparedFolder, TokenStream
from spacetime_gr import SpacetimeGRTokenizer

SETTINGS: dict[str, dict[str, Any]] = {
    "row_length 512": {"row_length": 512},
    "row_length 1024": {"row_length": 1024},
    "row_length 4096": {"row_length": 4096},
    "half single-mode": {"row_length": 1024, "curriculum": {"schedule": "constant", "final_share": 0.5}},
}


def main() -> None:
    """Time every setting and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="prepared folder")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    folder = PreparedFolder(arguments.data)
    tokenizer = SpacetimeGRTokenizer.from_pretrained(folder.tokenizer_path)
    rows = folder.read("train", columns=["poi_row"])["poi_row"].combine_chunks().flatten().to_numpy()
    expected, _ = tokenizer.index.encode(rows[rows >= 0], rows=True)
    print("| setting | M tokens/s | rows filled | labels as expected |\n|---|---|---|---|")
    for name, options in SETTINGS.items():
        stream = TokenStream(folder.path, tokenizer, num_lanes=8, **options)
        steps = max(50, 4 * len(rows) // (8 * options["row_length"]))
        speeds, real, places = [], 0, 0
        for repeat in range(arguments.repeats + 1):
            started, tokens = time.perf_counter(), 0
            for _ in range(steps):
                batch = next(stream)
                tokens += int(np.count_nonzero(batch["input_ids"]))
                places += batch["input_ids"].size
            real += tokens
            if repeat:  # the first pass warms up
                speeds.append(tokens / (time.perf_counter() - started))
        labels = [batch["labels"] for batch in TokenStream(folder.path, tokenizer, num_lanes=8, **options).rows_once()]
        flat = np.concatenate([part.ravel() for part in labels])
        blocks = flat[(flat >= tokenizer.vocabulary.block_start) & (flat < tokenizer.vocabulary.inner_start)]
        same = np.array_equal(np.sort(blocks - tokenizer.vocabulary.block_start), np.sort(expected))
        print(f"| {name} | {median(speeds) / 1e6:.1f} | {real / places:.0%} | {'yes' if same else 'NO'} |")


if __name__ == "__main__":
    main()
