"""Memory under ZeRO: what is shared out, what is not, and which moment is the fullest."""

from pathlib import Path

import pytest

from spacetime_gr.planning.memory import Allowance
from spacetime_gr.planning.sharing import _touched
from tests.spacetime_gr.planning.plans import at_stage, make_run

FORWARD, STEP = "forward", "optimizer step"


def test_states_are_shared_as_the_paper_says() -> None:
    """Rajbhandari et al. 2020: 2 bytes of weights, 4 + 8 of copy and moments a parameter; by stage over 8 devices."""
    run = make_run(8)
    total = run.inventory.total
    for stage, weights, states in ((0, 2, 12), (1, 2, 12 / 8), (2, 2, 12 / 8), (3, 2 / 8, 12 / 8)):
        parts = run.memory(at_stage(run, stage)).phases[STEP]
        assert parts["weights"] / total == pytest.approx(weights, rel=1e-4)
        assert (parts["master weights"] + parts["optimizer states"]) / total == pytest.approx(states, rel=1e-4)


def test_fp32_without_zero_keeps_no_copy() -> None:
    run = make_run(1, precision="fp32")
    parts = run.memory(at_stage(run, 0)).phases[STEP]
    assert parts["master weights"] == 0
    assert parts["optimizer states"] == 8 * run.inventory.total
    assert run.memory(at_stage(run, 1)).phases[STEP]["master weights"] == 4 * run.inventory.total


def test_an_average_of_the_weights_is_a_third_tensor_of_the_optimiser() -> None:
    for changes in ({}, {"offload": "optimizer"}):
        plain, averaged = (make_run(8, train=train) for train in ({}, {"average_power": 3}))
        with_it, without = (run.memory(at_stage(run, 2, **changes)) for run in (averaged, plain))
        more = with_it.phases[STEP]["optimizer states"] - without.phases[STEP]["optimizer states"]
        assert more + with_it.host - without.host == pytest.approx(4 * plain.inventory.total / 8, rel=1e-4)


def test_a_large_table_is_not_shared_out_by_stage_2() -> None:
    """Three parameters over four partitions of 25: the second and third partition have a part of the large one."""
    assert _touched((5, 90, 5), 25, 4) == 95
    assert _touched((25, 25, 25, 25), 25, 4) == 25
    assert _touched((10,), 3, 4) == 10
    run = make_run(64)
    held = run.memory(at_stage(run, 2)).phases["reduction"]["gradients"]
    assert held > 2 * run.inventory.table


def test_stage_3_keeps_weights_that_are_wanted_soon() -> None:
    run = make_run(8)
    whole, total = run.inventory.total, 2 * run.inventory.total
    kept = run.memory(at_stage(run, 3)).phases[FORWARD]["weights"]
    freed = run.memory(at_stage(run, 3, reuse_distance=0, prefetch_bucket=0)).phases[FORWARD]["weights"]
    assert kept == pytest.approx(total + total / 8, rel=1e-4)  # everything, and the own part
    assert 2 * run.inventory.table + total / 8 < freed < kept
    assert whole < 5e8  # within half the reuse distance


def test_offload_moves_states_to_the_host() -> None:
    run = make_run(8)
    own = run.inventory.total / 8
    here, moved = (run.memory(at_stage(run, 2, offload=offload)) for offload in ("none", "optimizer"))
    assert here.host == 0
    assert moved.host / own == pytest.approx(4 * 4 + 2, rel=1e-4)
    assert moved.phases[STEP]["optimizer states"] == moved.phases[STEP]["master weights"] == 0
    everything = run.memory(at_stage(run, 3, offload="all"))
    assert everything.host / own == pytest.approx(4 * 4 + 2 + 2, rel=1e-4)
    assert everything.phases[STEP]["weights"] == 0


def test_parts_add_up_and_the_fullest_phase_counts() -> None:
    run = make_run(8)
    for stage in range(4):
        memory = run.memory(at_stage(run, stage))
        assert memory.total == sum(memory.parts.values()) == max(sum(p.values()) for p in memory.phases.values())
        more = run.memory(at_stage(run, stage), allowance=Allowance(fixed=1e9, share=0.1))
        assert more.total == pytest.approx(1.1 * memory.total + 1e9)


def test_smaller_micro_batches_need_less() -> None:
    whole = make_run(8, lanes=16)
    parts = make_run(8, lanes=16, train={"gradient_accumulation": 2})
    saved = make_run(8, lanes=16, train={"gradient_checkpointing": True})
    needs = [run.memory(run.zero()).phases[FORWARD] for run in (whole, parts, saved)]
    assert needs[1]["activations"] == pytest.approx(needs[0]["activations"] / 2, rel=0.01)
    assert needs[2]["activations"] < 0.8 * needs[0]["activations"]
    assert needs[0]["gradients"] == 0
    assert needs[1]["gradients"] > 0  # those of the micro-batches before


def test_buckets_are_those_of_the_file() -> None:
    run = make_run(
        8, deepspeed={"config": {"zero_optimization": {"reduce_bucket_size": 1_000_000, "overlap_comm": True}}}
    )
    backward = run.memory(at_stage(run, 2)).phases["backward of the heads"]
    assert backward["communication"] == 2 * 1_000_000 * 2
    assert run.memory(at_stage(run, 3)).phases["backward of the heads"]["communication"] == 1_000_000 * 2


def test_nothing_of_the_model_is_made() -> None:
    """A model of 20 B parameters is planned within the memory of any laptop."""
    run = make_run(64, model={"hidden_size": 4096, "num_hidden_layers": 60, "num_attention_heads": 32})
    assert run.parameters.total > 1e10
    assert not Path("unused").exists()
