"""The log-likelihood over a range with its own backward, against the softmax that autograd differentiates."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.nn import functional

from spacetime_gr import SpacetimeGRConfig
from spacetime_gr.modules.places import PlaceTable
from spacetime_gr.modules.range_likelihood import NEVER, RangeTargets, full_precision, range_log_likelihood

START, STOP = 3, 14


def case(rows: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """Hidden states, table, its shift, factors of further scores, targets, and closed classes (no targets)."""
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 8, dtype=dtype, requires_grad=True)
    weight = torch.randn(20, 8, dtype=dtype, requires_grad=True)
    shift = torch.randn(STOP - START, 8, dtype=dtype, requires_grad=True)
    query = torch.randn(rows, width, dtype=dtype, requires_grad=True)
    key = torch.randn(STOP - START, width, dtype=dtype)
    closed = torch.arange(STOP - START) > 8
    return hidden, weight, shift, query, key, torch.randint(0, 9, (rows,)), closed


def by_softmax(*values: torch.Tensor) -> torch.Tensor:
    """The same, spelt out."""
    hidden, weight, shift, query, key, target, closed = values
    scores = full_precision(hidden @ (weight[START:STOP] + shift).T + query @ key.T).masked_fill(closed, NEVER)
    return functional.log_softmax(scores, dim=-1).gather(1, target.unsqueeze(1)).squeeze(1)


def ours(chunk_size: int, *values: torch.Tensor | None) -> torch.Tensor:
    """The function under test."""
    hidden, weight, shift, query, key, target, closed = values
    targets = RangeTargets(target, query, key, shift, closed, chunk_size)
    return range_log_likelihood(hidden, weight, START, STOP, targets)[0]


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("width", [0, 4])
@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_equals_the_softmax_with_gradients(rows: int, width: int, chunk_size: int) -> None:
    values = case(rows, width)
    upstream = torch.randn(rows, dtype=torch.float64)  # another weight for each row, as the mixture's gate gives
    result, expected = ours(chunk_size, *values), by_softmax(*values)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    found = torch.autograd.grad(result, values[:4], upstream, retain_graph=True)
    for again in (found, torch.autograd.grad(result, values[:4], upstream)):  # backward leaves what it kept as it was
        for one, other in zip(again, torch.autograd.grad(by_softmax(*values), values[:4], upstream), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [2, 5])
def test_rows_after_the_range_pass_their_gradient_on(chunk_size: int) -> None:
    values = case(5, 4)
    hidden, weight, shift, query, key, target, closed = values
    log_probs, rest = range_log_likelihood(
        hidden, weight, START, STOP, RangeTargets(target, query, key, shift, closed, chunk_size)
    )
    torch.testing.assert_close(rest, weight[STOP:])
    found = torch.autograd.grad((hidden @ rest.T).square().sum() + log_probs.sum(), values[:2])
    by_hand = (hidden @ weight[STOP:].T).square().sum() + by_softmax(*values).sum()
    for one, other in zip(found, torch.autograd.grad(by_hand, values[:2]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_scores_far_apart_do_not_overflow() -> None:
    hidden, *rest = case(5, 4, torch.float32)
    hidden = (hidden.detach() * 1e3).requires_grad_()
    result = ours(2, hidden, *rest)
    torch.testing.assert_close(result, by_softmax(hidden, *rest))
    (gradient,) = torch.autograd.grad(result.sum(), hidden)
    assert gradient.isfinite().all()


def test_a_frozen_table_gets_no_gradient() -> None:
    hidden, weight, shift, *rest = case(4, 2)
    ours(2, hidden, weight.detach(), shift, *rest).sum().backward()
    assert hidden.grad is not None
    expected = torch.autograd.grad(by_softmax(hidden, weight, shift, *rest).sum(), shift)[0]
    torch.testing.assert_close(shift.grad, expected)


def test_without_a_shift_the_table_is_as_it_is() -> None:
    hidden, weight, shift, *rest = case(4, 2)
    torch.testing.assert_close(
        ours(2, hidden, weight, None, *rest), by_softmax(hidden, weight, torch.zeros_like(shift), *rest)
    )


def test_autocast_reaches_forward_and_backward() -> None:
    values = case(6, 4, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ours(4, *values)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, by_softmax(*values), rtol=0.05, atol=0.1)
    gradients = torch.autograd.grad(result.sum(), values[:4])
    for one, other in zip(gradients, torch.autograd.grad(by_softmax(*values).sum(), values[:4]), strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("chunk_size", [16, 64])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("margin", [0.0, 7.0, 12.0])  # of the targets' scores: probabilities up to 1 - 5e-5
def test_half_precision_keeps_what_confident_targets_leave(margin: float, dtype: torch.dtype, chunk_size: int) -> None:
    """The gradient of a target near 1 is a small difference: as near to the truth as autograd's in the same type."""
    hidden, weight, shift, _, key, target, closed = (values.detach() for values in case(64, 9, torch.float32))
    query = margin * functional.one_hot(target, 9).float()
    key[:9] = torch.eye(9)
    hidden, weight, shift, query, key = (values.to(dtype) for values in (hidden / 8, weight, shift, query, key))

    def gradients(likelihood: Callable[..., torch.Tensor], kind: torch.dtype) -> list[torch.Tensor]:
        leaves = [values.to(kind, copy=True).requires_grad_() for values in (hidden, weight, shift, query)]
        result = likelihood(*leaves, key.to(kind), target, closed)
        return [gradient.double() for gradient in torch.autograd.grad(result.sum(), leaves)]

    exact = gradients(by_softmax, torch.float64)
    found = gradients(partial(ours, chunk_size), dtype)
    for one, other, true in zip(found, gradients(by_softmax, dtype), exact, strict=True):
        assert (one - true).norm() <= 1.2 * (other - true).norm() + 1e-3 * true.norm()


def test_many_even_classes_do_not_overflow_float16() -> None:
    """The sum of as many powers as there are blocks is out of float16's range; probabilities are not."""
    hidden, weight = (torch.zeros(size, 2, dtype=torch.float16).requires_grad_() for size in (3, 70_000))
    nothing, closed = torch.zeros(3, 0, dtype=torch.float16), torch.zeros(70_000, dtype=torch.bool)
    for chunk_size in (2, 4):
        targets = RangeTargets(
            torch.arange(3), nothing, torch.zeros(70_000, 0, dtype=torch.float16), None, closed, chunk_size
        )
        result, _ = range_log_likelihood(hidden + 1, weight, 0, 70_000, targets)
        torch.testing.assert_close(result, torch.full((3,), -math.log(70_000)))
        to_weight = torch.autograd.grad(result.sum(), weight)[0]
        torch.testing.assert_close(to_weight[:3], torch.ones(3, 2, dtype=torch.float16), rtol=1e-2, atol=0)


def test_spatial_features_are_kept_until_the_places_change() -> None:
    places = PlaceTable(SpacetimeGRConfig(num_blocks=5, spatial_features=6))
    with torch.inference_mode():
        kept = places.all_spatial_features(torch.float32)
    assert not kept.is_inference()  # training takes them up
    assert places.all_spatial_features(torch.float32) is kept
    torch.testing.assert_close(places.all_spatial_features(torch.float64), places.spatial_features())
    for change in (
        lambda: places.block_centers.copy_(torch.rand(5, 2)),
        lambda: places.longest_km.fill_(20.0),
        lambda: places.load_state_dict(places.state_dict() | {"block_centers": torch.rand(5, 2)}),
        lambda: places.load_state_dict(places.state_dict() | {"block_centers": torch.rand(5, 2)}, assign=True),
    ):
        change()
        torch.testing.assert_close(places.all_spatial_features(torch.float64), places.spatial_features())
