"""A GETNext split whose validation file stands in the place of its test file: to choose settings without the test part.

    python benchmarks/validation_split.py DATA/nyc_foursquare/splits/getnext OUT
    spacetime-gr prepare --source OUT --format getnext --out FOLDER --max-pois-per-block 32

The format wants a validation file too: it gets the first of the rows, which then are history.
"""

import argparse
import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path

HISTORY_SHARE = 0.02


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, copy, cut."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", type=Path, help="folder of the split")
    parser.add_argument("out", type=Path, help="new folder")
    parsed = parser.parse_args(arguments)
    train, validation = (_only(parsed.split, f"*_{part}*.csv.gz") for part in ("train", "val"))
    with gzip.open(validation, "rt", encoding="utf-8") as file:
        head, *rows = file
    column = head.rstrip("\n").split(",").index("UTC_time")
    rows.sort(key=lambda row: row.split(",")[column])  # stable; texts of one form sort as the times do
    parsed.out.mkdir(parents=True)
    shutil.copy(train, parsed.out)
    cut = int(HISTORY_SHARE * len(rows))
    for part, kept in (("val", rows[:cut]), ("test", rows[cut:])):
        (parsed.out / f"NYC_{part}.csv").write_text("".join([head, *kept]), encoding="utf-8")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{folder} holds {len(found)} files like {pattern}, expected one")
    return found[0]


if __name__ == "__main__":
    main()
