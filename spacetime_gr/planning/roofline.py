"""Time of an optimiser step: compute, memory traffic of the optimiser and tables, and communication of ZeRO.

All of it is an estimate from stated assumptions (`Assumptions`, `docs/plan.md`), to compare settings before there is a
cluster. Latency of messages, stragglers, waiting for data and checkpoints are left out.
"""

from dataclasses import dataclass

from spacetime_gr.planning.devices import Device
from spacetime_gr.planning.run import Run
from spacetime_gr.planning.sharing import Zero
from spacetime_gr.training.flops import executed_flops, model_flops, total_work


@dataclass(frozen=True)
class Assumptions:
    """Shares of peaks that are reached.

    Args:
        efficiency: of a device's peak FLOP/s by the executed products, with what stands between them (norms, masks,
            launches): 0.5 is what well-run dense decoders reach on A100 and H100.
        memory: of the memory's bandwidth.
        network: of the links' bandwidth by collectives.
        overlap: of the time of backward (and, for ZeRO-3's weights, of forward), behind which communication is hidden
            where `overlap_comm` is set.
        host_bandwidth: bytes/s at which one device's share of the host's cores updates offloaded states.
    """

    efficiency: float = 0.5
    memory: float = 0.7
    network: float = 0.8
    overlap: float = 0.7
    host_bandwidth: float = 10e9


@dataclass(frozen=True)
class Cluster:
    """Devices, and how many stand in a node."""

    device: Device
    num_devices: int
    per_node: int

    @property
    def num_nodes(self) -> int:
        return -(-self.num_devices // self.per_node)

    @property
    def bandwidth(self) -> float:
        """Bytes/s in one direction at which a device takes part in a ring over all.

        Within a node, the device's link. Between nodes, rings cross on all adapters at once, so a device's share of a
        ring is bound by all of its node's adapters, or by its link where that is slower.
        """
        device, beside = self.device, min(self.per_node, self.num_devices)
        return device.link if self.num_nodes == 1 else min(device.link, beside * device.network)


@dataclass(frozen=True)
class StepTime:
    """Seconds of an optimiser step by what they are spent on, and the two utilisations.

    `communication` is what is not hidden behind compute, `transferred` bytes that a device sends in all. `mfu` counts
    the work that the model needs, `hfu` all that is executed, against the device's peak.
    """

    compute: float
    memory: float
    communication: float
    offload: float
    transferred: float
    mfu: float
    hfu: float

    @property
    def total(self) -> float:
        return self.compute + self.memory + self.communication + self.offload


def step_time(run: Run, zero: Zero, cluster: Cluster, assumed: Assumptions) -> StepTime:
    """Time of one optimiser step.

    Raises:
        ValueError: the device has no bf16 and the run asks for it.
    """
    device, devices = cluster.device, cluster.num_devices
    peak = device.peak(run.precision)
    if peak is None:
        raise ValueError(f"{' '.join(device.words)} has no {run.precision}; set train.precision=fp32")
    needed = total_work(model_flops(run.sizes, run.batch_counts())).total / devices
    executed = total_work(executed_flops(run.sizes, run.batch_counts(), run.row_shape()))
    forward = executed.forward / devices / (peak * assumed.efficiency)
    backward = (executed.backward + executed.repeated) / devices / (peak * assumed.efficiency)

    memory = _traffic(run, zero, devices) / (device.bandwidth * assumed.memory)
    communication, transferred = _communication(run, zero, cluster, assumed, forward, backward)
    offload = _offloading(run, zero, cluster, assumed)
    seconds = forward + backward + memory + communication + offload
    return StepTime(
        compute=forward + backward,
        memory=memory,
        communication=communication,
        offload=offload,
        transferred=transferred,
        mfu=needed / seconds / peak,
        hfu=executed.total / devices / seconds / peak,
    )


def _traffic(run: Run, zero: Zero, devices: int) -> float:
    """Bytes that AdamW and the token table's gradients move in a step."""
    width = run.micro_batch().width
    states = run.inventory.total / (devices if zero.stage else 1)
    optimizer = states * _update_bytes(run) if zero.offload == "none" else 0.0
    # The head's gradient is written once; each look-up's is cleared, and added to it: read twice, written once.
    lookups = 1 + run.sizes.use_user_block
    table = run.inventory.table * width * (1 + 4 * lookups) * run.config.train.gradient_accumulation
    return optimizer + table


def _communication(
    run: Run, zero: Zero, cluster: Cluster, assumed: Assumptions, forward: float, backward: float
) -> tuple[float, float]:
    """Seconds that are not hidden, and bytes that a device sends, in a step.

    Ring collectives of V bytes over n devices send V (n - 1) / n for a gather or a scatter-reduction and twice that for
    an all-reduction (Rajbhandari et al. 2020, section 7).
    """
    devices, accumulation = cluster.num_devices, run.config.train.gradient_accumulation
    if devices == 1:
        return 0.0, 0.0
    volume = run.inventory.total * run.micro_batch().width * (devices - 1) / devices
    speed = cluster.bandwidth * assumed.network
    if zero.stage < 3:
        # DeepSpeed 0.19 reduces to all in stages 1 and 2 as well (use_multi_rank_bucket_allreduce).
        times = accumulation if zero.stage == 2 else 1
        gradients, hideable = 2 * volume * times, backward * times / accumulation
        weights = volume if zero.stage else 0.0
        hidden = assumed.overlap * hideable if zero.overlap and zero.stage else 0.0
        return max(0.0, gradients / speed - hidden) + weights / speed, gradients + weights
    # Weights for forward and, unless they are kept till then, for backward; gradients scattered.
    kept = min(1.0, zero.reuse_distance / 2 / run.inventory.total)
    gathers = volume * (2 - kept) * accumulation
    scattered = volume * accumulation
    hidden = assumed.overlap * (forward + backward) if zero.overlap else 0.0
    return max(0.0, (gathers + scattered) / speed - hidden), gathers + scattered


def _offloading(run: Run, zero: Zero, cluster: Cluster, assumed: Assumptions) -> float:
    """Seconds of moving gradients and weights over the host link, and of AdamW on the host; nothing is hidden."""
    if zero.offload == "none":
        return 0.0
    width, share = run.micro_batch().width, run.inventory.total / cluster.num_devices
    accumulation = run.config.train.gradient_accumulation
    moved = share * width * ((accumulation if zero.stage >= 2 else 1) + 1)
    if zero.offload == "all":
        moved += 2 * share * width * accumulation
    return moved / (cluster.device.host * assumed.network) + share * _update_bytes(run) / assumed.host_bandwidth


def _update_bytes(run: Run) -> int:
    """Bytes that AdamW moves for a parameter in a step.

    Reads of the master weight, two moments and the gradient, writes of all but the last, and of the model's weight; for
    an average of the weights, it and the weight are read, and it is written.
    """
    return 4 * (7 + 3 * (run.optimizer_tensors - 2)) + run.micro_batch().width
