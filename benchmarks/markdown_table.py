"""Print results of `spacetime-gr evaluate --json` as a Markdown table.

python benchmarks/markdown_table.py FILE [FILE ...]

Counters that several files share (same protocol and knowledge) are printed once.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

METRICS = ("hr@1", "hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "mrr")


def row(name: str, metrics: Mapping, slices: Mapping) -> str:
    """One line of the table; a dash where a value is missing."""
    values = [metrics.get(key) for key in METRICS] + [
        slices.get(key, {}).get("hr@10") for key in ("return", "discovery")
    ]
    return "| " + " | ".join([name, *("-" if value is None else f"{value:.4f}"[1:] for value in values)]) + " |"


def main() -> None:
    """Read the files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    results = [json.loads(file.read_text()) for file in parser.parse_args().files]
    heads = [*(key.upper() for key in METRICS), "@10 returns", "@10 discoveries"]
    print("| system | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 1) + "|")
    for result in results:
        if "metrics" in result:
            print(row(f"**Spacetime-GR, {result['setting']}**", result["metrics"], result["slices"]))
    printed = set()
    for result in results:
        for name, metrics in result["baselines"].items():
            key = (name, result["protocol"], result["knowledge"])
            if key not in printed:
                printed.add(key)
                print(row(name, metrics, result["baseline_slices"][name]))
    for result in results[:1]:
        if "ceiling" in result:
            print(row("best possible", result["ceiling"], result["ceiling"].get("slices", {})))


if __name__ == "__main__":
    main()
