"""Time of a step: volumes of ZeRO, bandwidth of rings, and how utilisations follow."""

import pytest
import torch

from spacetime_gr.planning.devices import DEVICES, device_peak_flops, find_device
from spacetime_gr.planning.roofline import Assumptions, step_time
from tests.spacetime_gr.planning.plans import at_stage, make_cluster, make_run

ASSUMED = Assumptions()


def test_volumes_are_those_of_the_paper() -> None:
    """In parameters' bytes times (n - 1) / n: all-reduction 2, gather 1; stage 3 gathers twice and scatters."""
    run = make_run(8)
    unit = 2 * run.inventory.total * 7 / 8
    for stage, volumes in ((0, 2), (1, 3), (2, 3), (3, 3)):
        zero = at_stage(run, stage, reuse_distance=0)
        assert step_time(run, zero, make_cluster(), ASSUMED).transferred == pytest.approx(volumes * unit)
    kept = at_stage(run, 3, reuse_distance=10**12)  # what is kept from forward is not gathered again
    assert step_time(run, kept, make_cluster(), ASSUMED).transferred == pytest.approx(2 * unit)


def test_accumulation_multiplies_what_each_micro_batch_sends() -> None:
    run = make_run(8, train={"gradient_accumulation": 4})
    unit = 2 * run.inventory.total * 7 / 8
    for stage, volumes in ((1, 3), (2, 4 * 2 + 1), (3, 4 * 3)):
        zero = at_stage(run, stage, reuse_distance=0)
        assert step_time(run, zero, make_cluster(), ASSUMED).transferred == pytest.approx(volumes * unit)


def test_one_device_sends_nothing() -> None:
    run = make_run(1)
    time = step_time(run, at_stage(run, 2), make_cluster(1), ASSUMED)
    assert time.transferred == time.communication == 0


def test_rings_are_bound_by_the_slowest_link() -> None:
    h100 = find_device("h100")
    assert make_cluster(8).bandwidth == h100.link
    assert make_cluster(16).bandwidth == 8 * h100.network
    assert make_cluster(16, per_node=1).bandwidth == h100.network
    assert make_cluster(16).num_nodes == 2


def test_overlap_hides_behind_backward() -> None:
    run = make_run(16)
    shown, hidden = (
        step_time(run, at_stage(run, 2, overlap_comm=overlap), make_cluster(16), ASSUMED) for overlap in (False, True)
    )
    assert hidden.communication < shown.communication
    assert hidden.transferred == shown.transferred
    # The weights' gathering comes after the step, where there is nothing to hide behind.
    gathering = 2 * run.inventory.total * 15 / 16 / (make_cluster(16).bandwidth * ASSUMED.network)
    assert hidden.communication >= gathering * 0.999


def test_utilisation_is_below_what_the_products_reach() -> None:
    run = make_run(8)
    time = step_time(run, at_stage(run, 1), make_cluster(), ASSUMED)
    assert time.total == pytest.approx(time.compute + time.memory + time.communication + time.offload)
    assert 0 < time.mfu < time.hfu < ASSUMED.efficiency
    again = make_run(8, train={"gradient_checkpointing": True})
    slower = step_time(again, at_stage(again, 1), make_cluster(), ASSUMED)
    assert slower.mfu < time.mfu
    assert slower.total > time.total


def test_offload_costs_time() -> None:
    run = make_run(8)
    times = [
        step_time(run, at_stage(run, 3, offload=offload), make_cluster(), ASSUMED).total
        for offload in ("none", "optimizer", "all")
    ]
    assert times == sorted(times)


def test_a_device_without_bf16_is_refused() -> None:
    run = make_run(8)
    with pytest.raises(ValueError, match=r"V100 has no bf16; set train\.precision=fp32"):
        step_time(run, run.zero(), make_cluster(gpu="v100"), ASSUMED)
    single = make_run(8, precision="fp32")
    assert step_time(single, single.zero(), make_cluster(gpu="v100"), ASSUMED).total > 0


@pytest.mark.parametrize(
    ("name", "bf16", "fp32"),
    [
        ("NVIDIA A100-SXM4-40GB", 312e12, 19.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 67e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA H100 NVL", 835e12, 60e12),
        ("NVIDIA H200", 989e12, 67e12),
        ("AMD Instinct MI300X", 1307.4e12, 163.4e12),
        ("Tesla V100-SXM2-32GB", None, 15.7e12),
        ("NVIDIA GeForce GTX 1080", None, None),
    ],
)
def test_peaks_by_the_name_torch_gives(
    name: str, bf16: float | None, fp32: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert device_peak_flops(torch.device("cuda", 0), "bf16") == bf16
    assert device_peak_flops(torch.device("cuda", 0), "fp32") == fp32
    assert device_peak_flops(torch.device("cpu"), "bf16") is None


def test_an_unknown_device_is_named_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="no device 'h1000' is known; expected one of b200, h200"):
        find_device("h1000")
    assert all(device.memory > 1e10 and device.bandwidth > device.link for device in DEVICES.values())
