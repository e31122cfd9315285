"""The same seed gives the same run: to the last bit on as many ranks, within rounding on others.

That separate processes agree too, and weights after a kill and a stop, is part of test_resume.py.
"""

from collections.abc import Callable
from typing import Any

import pytest

Found = Callable[[int], dict[str, Any]]


@pytest.mark.distributed
def test_two_runs_are_equal_to_the_last_bit(ranks_found: Found) -> None:
    for result in ranks_found(2)["repeats"]:
        assert result["times"][0] != result["times"][1], "these must be two runs"
        assert result["weights"]
        assert result["metrics"]


@pytest.mark.distributed
def test_any_number_of_ranks_reads_the_same_batches_and_finds_the_same_losses(ranks_found: Found) -> None:
    found = {world_size: ranks_found(world_size)["parity"] for world_size in (1, 2, 4)}
    alone = found[1][0]["hashes"]
    assert len({tuple(batch) for batch in alone}) == len(alone), "the batches must differ, or order is not compared"
    for results in found.values():
        for result in results:
            assert result["hashes"] == alone
            others = [other for other in found[1] if other["case"]["tied"] == result["case"]["tied"]]
            assert result["losses"] == pytest.approx(others[0]["losses"], rel=1e-6)
