"""Every way to share out a step gives the weights of one process that sees the whole batch.

ZeRO stage, accumulation, ranks, chunks of the loss, tied embeddings, gradient checkpointing: each pair of their
settings occurs in some case. Ranks and micro-batches without supervised tokens, and with very few, are among the steps.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import pytest

from tests.spacetime_gr.training.parity_worker import Case, cases_of

Found = Callable[[int], dict[str, Any]]


def test_every_pair_of_settings_occurs() -> None:
    levels = {"world": (1, 2, 4), "stage": (0, 1, 2, 3), "accumulation": (1, 2), "chunk": (16, 2048)}
    levels |= {"tied": (False, True), "checkpointing": (False, True)}
    rows = [{"world": world, **vars(case)} for world in (1, 2, 4) for case in cases_of(world)]
    for one, other in combinations(levels, 2):
        pairs = {(row[one], row[other]) for row in rows}
        assert len(pairs) == len(levels[one]) * len(levels[other]), (one, other)


@pytest.mark.distributed
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_updated_weights_equal_one_process(world_size: int, ranks_found: Found) -> None:
    results = ranks_found(world_size)["parity"]
    assert [Case(**result["case"]) for result in results] == cases_of(world_size)
    for result in results:
        case, expected = result["case"], result["expected"]
        assert max(expected["norms"]) > 0.5, "the steps must be clipped, or clipping is not compared"
        if world_size > 1:
            half, (_, barren, uneven) = world_size // 2, result["counts"]
            assert barren[half:] == [0] * half, case
            assert uneven[0] > 5 * uneven[-1] > 0, case
        assert result["names"], case
        assert result["times"] == [result["times"][0]] * world_size, case
        assert result["times"][0] > 0, case
        assert result["norms"] == pytest.approx(expected["norms"], rel=1e-5), case
        assert result["losses"] == pytest.approx(expected["losses"], rel=1e-6), case
        assert result["worst"] < 5e-6, case


@pytest.mark.distributed
def test_a_bad_step_changes_nothing_on_any_rank(ranks_found: Found) -> None:
    """The loss of one of two ranks is nan, or multiplied by 10^4: weights and moments are those without such steps."""
    results = ranks_found(2)["guard"]
    assert [(result["stage"], result["precision"]) for result in results] == [
        *((stage, "fp32") for stage in range(4)),
        (2, "bf16"),
    ]
    for result in results:
        assert result["moved"], result
        assert result["weights"], result
        assert result["moments"] == [True, True], result
        assert result["skipped"] == [[3, 3], [0, 0]], result
        assert [line["step"] for line in result["lines"]] == [1, 4, 6]
        for line in result["lines"]:
            assert [(row["lane"], row["row"], row["rank"]) for row in line["rows"]] == [
                (lane, line["step"] - 1, lane // 4) for lane in range(8)
            ]
            # The rank with the bad loss is the place to look first.
            assert line["inspect"].endswith(f"--lane 4 --row {line['step'] - 1}")
