"""The running average of the weights against its closed form, and where steps are left out."""

import pytest
import torch
from torch import nn

from spacetime_gr.training.averaging import AVERAGE, AveragingAdamW
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.engine import deepspeed_settings

STEPS = 40


def optimizer_of(power: float) -> tuple[nn.Parameter, AveragingAdamW]:
    weights = nn.Parameter(torch.linspace(-1, 1, 103))
    return weights, AveragingAdamW([weights], lr=0.05, fused=True, power=power)


@pytest.mark.parametrize("power", [0, 1, 3.5])
def test_step_t_weighs_the_integral_of_its_power(power: float) -> None:
    torch.manual_seed(0)
    weights, optimizer = optimizer_of(power)
    seen = []
    for _ in range(STEPS):
        weights.grad = torch.randn(103)
        optimizer.step()
        seen.append(weights.detach().double().clone())
    edges = torch.arange(STEPS + 1, dtype=torch.float64) ** (power + 1)
    expected = (edges.diff() / edges[-1]) @ torch.stack(seen)
    assert torch.allclose(optimizer.state[weights][AVERAGE].double(), expected, rtol=0, atol=1e-6)


def test_weights_are_those_of_plain_adamw() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(STEPS, 103)
    weights, optimizer = optimizer_of(1)
    plain = nn.Parameter(weights.detach().clone())
    reference = torch.optim.AdamW([plain], lr=0.05, fused=True)
    for gradient in gradients:
        weights.grad, plain.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        reference.step()
    assert torch.equal(weights, plain)


@pytest.mark.parametrize("bad", [0, 1, 7])
def test_a_step_that_is_left_out_changes_nothing(bad: int) -> None:
    torch.manual_seed(0)
    gradients = torch.randn(10, 103)
    ends = []
    for left_out in (bad, None):
        weights, optimizer = optimizer_of(3)
        for step, gradient in enumerate(gradients):
            if left_out is None and step == bad:
                continue
            optimizer.found_inf = torch.tensor(float(step == left_out))
            weights.grad = gradient.clone()
            optimizer.step()
        ends.append(optimizer.state[weights][AVERAGE])
    assert torch.equal(*ends)


def test_half_precision_without_zero_has_nothing_to_average() -> None:
    config = PretrainConfig.model_validate(
        {
            "run": {"dir": "unused"},
            "data": {"path": "unused"},
            "train": {"max_steps": 1, "average_power": 3},
            "deepspeed": {"zero_stage": 0},
        }
    )
    deepspeed_settings(config, 1, "fp32")
    with pytest.raises(ValueError, match=r"train\.average_power needs weights in fp32"):
        deepspeed_settings(config, 1, "bf16")
