"""A configured run as the plan sees it: sizes of the model, of a micro-batch, and memory under any ZeRO stage."""

from dataclasses import dataclass

import torch

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.planning.activations import MicroBatch
from spacetime_gr.planning.memory import Allowance, MemoryPlan, plan_memory
from spacetime_gr.planning.sharing import Inventory, Zero
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.engine import deepspeed_settings, parameter_groups
from spacetime_gr.training.flops import BatchCounts, ParameterCounts, RowShape, count_parameters

NO_ALLOWANCE = Allowance()


@dataclass(frozen=True)
class Run:
    """What memory and time follow from.

    Args:
        config: the run.
        sizes: of its model.
        inventory, parameters: what the model holds.
        world_size: number of devices.
        precision: fp32 or bf16.
        supervised_share: supervised actions / actions.
        sequence_length: tokens of a packed sequence, on average weighted by tokens.
    """

    config: PretrainConfig
    sizes: SpacetimeGRConfig
    inventory: Inventory
    parameters: ParameterCounts
    world_size: int
    precision: str
    supervised_share: float
    sequence_length: float

    @classmethod
    def of(
        cls,
        config: PretrainConfig,
        sizes: SpacetimeGRConfig,
        world_size: int,
        precision: str,
        supervised_share: float = 1.0,
        sequence_length: float | None = None,
    ) -> "Run":
        """Of a configuration and its model's; no memory is taken.

        Args:
            sizes: with `_attn_implementation` as the run would choose it.
            sequence_length: default one sequence a row.
        """
        from spacetime_gr import SpacetimeGRForCausalLM

        with torch.device("meta"):
            model = SpacetimeGRForCausalLM(sizes)
        inventory = Inventory.of(model, parameter_groups(model, config))
        length = float(config.data.row_length if sequence_length is None else sequence_length)
        counts = count_parameters(model)
        return cls(config, sizes, inventory, counts, world_size, precision, supervised_share, length)

    @property
    def attention(self) -> str:
        return str(self.sizes._attn_implementation)

    @property
    def batch_tokens(self) -> int:
        """Tokens of an optimiser step, over all devices."""
        return self.config.data.num_lanes * self.config.data.row_length

    @property
    def optimizer_tensors(self) -> int:
        """Float32 numbers that the optimiser keeps of each parameter: two moments, and the average of the weights."""
        return 2 if self.config.train.average_power is None else 3

    def micro_batch(self) -> MicroBatch:
        """What one device computes at once."""
        return MicroBatch(
            rows=self.config.rows_per_micro_batch(self.world_size),
            length=self.config.data.row_length,
            supervised_share=self.supervised_share,
            width=2 if self.precision == "bf16" else 4,
            checkpointing=self.config.train.gradient_checkpointing,
            attention=self.attention,
        )

    def batch_counts(self) -> BatchCounts:
        """Of an optimiser step, over all devices."""
        return BatchCounts.expected(float(self.batch_tokens), self.sequence_length, self.supervised_share)

    def row_shape(self) -> RowShape:
        """Of an optimiser step, over all devices."""
        config, rows = self.config, self.config.rows_per_micro_batch(self.world_size)
        lanes, length = config.data.num_lanes, config.data.row_length
        return RowShape(lanes, length, rows, config.train.gradient_checkpointing, self.attention)

    def zero(self) -> Zero:
        """The configured ZeRO stage and offload, with DeepSpeed's buffers."""
        return Zero.from_settings(deepspeed_settings(self.config, self.world_size, self.precision))

    def memory(self, zero: Zero, allowance: Allowance = NO_ALLOWANCE) -> MemoryPlan:
        """Memory of one device."""
        accumulation = self.config.train.gradient_accumulation
        batch = self.micro_batch()
        return plan_memory(
            self.inventory, zero, batch, self.world_size, accumulation, self.optimizer_tensors, allowance
        )
