"""Log-likelihoods under the softmax over a range of a large token table, with a backward of matrix products only."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NEVER = -1e30  # log-probability of what cannot be; finite, so that gradients of masked entries stay zero, not NaN


def full_precision(values: Tensor) -> Tensor:
    """At least float32: likelihoods are never computed in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


class RangeTargets(NamedTuple):
    """What is asked of a range of outputs: which class each row has to have, and what is added to the linear scores.

    target: classes of the range, shape (n,).
    query, key: factors of a further part of the scores, `query @ key.T`; (n, width) and (classes, width), width may be
        0; no gradient flows to `key`.
    shift: what is added to the rows of the range, shape (classes, width of the table); None for nothing.
    closed: classes that cannot be, shape (classes,).
    chunk_size: rows whose scores are held at a time.
    """

    target: Tensor
    query: Tensor
    key: Tensor
    shift: Tensor | None
    closed: Tensor
    chunk_size: int


def range_log_likelihood(
    hidden: Tensor, weight: Tensor, start: int, stop: int, targets: RangeTargets
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target under softmax(hidden @ table.T + query @ key.T), and the rows after the table.

    `table` is `weight[start:stop] + shift`.

    The rows after the range are handed out so that further, smaller heads use them in place of the table: their
    gradients come back here, and one gradient of the table's size is made, not one for each head.

    Args:
        hidden: shape (n, width).
        weight: the whole table (vocabulary, width); to be called where ZeRO-3 has gathered it.
        start, stop: the range of its rows.
        targets: classes, and the rest of the scores.

    Returns:
        Log-probabilities (n,), at least float32, and a copy of weight[stop:]; both can be differentiated once.
    """
    query, key, shift = targets.query, targets.key, targets.shift
    device = hidden.device.type
    if torch.is_autocast_enabled(device):  # backward runs outside of autocast's reach, so the types are settled here
        dtype = torch.get_autocast_dtype(device)
        hidden, weight, query, key = (values.to(dtype) for values in (hidden, weight, query, key))
        shift = None if shift is None else shift.to(dtype)
    result: tuple[Tensor, Tensor] = _RangeLogLikelihood.apply(
        hidden, weight, shift, query, key, targets.target, targets.closed, start, stop, targets.chunk_size
    )
    return result


class _RangeLogLikelihood(torch.autograd.Function):
    """With q = softmax(scores) less the one-hot target, all that backward needs are products of q with small matrices.

    d log p(t) / d hidden = -q @ table, and the incoming gradient, a factor of each row, goes to the small side of each
    product. So no pass over the scores but the products themselves is made in backward. The target's entry of q is the
    probability of all others, summed and not 1 - p(t), and it is entered before q is rounded: a half precision p(t)
    near 1 says nothing of what is left of it. One chunk of q is kept; where there are several, backward computes each
    again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        shift: Tensor | None,
        query: Tensor,
        key: Tensor,
        target: Tensor,
        closed: Tensor,
        start: int,
        stop: int,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor]:
        table = _table(weight, shift, start, stop)
        pieces: list[Tensor] = []
        kept: tuple[Tensor, ...] = ()
        for rows in _chunks(len(hidden), chunk_size):
            scores = _scores(hidden[rows], table, query[rows], key, closed)
            chosen = target[rows].unsqueeze(1)
            picked, peak = scores.gather(1, chosen), scores.amax(1, keepdim=True)
            powers = scores.sub_(peak).exp_()
            rest = powers.scatter_(1, chosen, 0.0).sum(1, keepdim=True)
            total = rest + (picked - peak).exp()
            missed = rest / total
            pieces.append(torch.cat([picked - peak - total.log(), peak + total.log(), missed], dim=1))
            if len(hidden) <= chunk_size:
                q = torch.div(powers, total, out=torch.empty_like(powers, dtype=hidden.dtype))  # and cast, in one pass
                kept = (q.scatter_(1, chosen, -missed.to(q.dtype)),)
            del scores, powers  # not held while those of the next chunk are made
        log_likelihood, normalizer, missed = torch.cat(pieces).unbind(1)
        ctx.save_for_backward(hidden, weight, shift, query, key, target, closed, normalizer, missed, *kept)
        ctx.start, ctx.stop, ctx.chunk_size = start, stop, chunk_size
        return log_likelihood.clone(), weight[stop:].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, to_rest: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, shift, query, key, target, closed, normalizer, missed, *kept = ctx.saved_tensors
        table = _table(weight, shift, ctx.start, ctx.stop)
        to_hidden, to_query = torch.empty_like(hidden), torch.empty_like(query)
        to_weight = to_table = None
        if ctx.needs_input_grad[1]:  # every row is written once: at these sizes clearing the memory first is felt
            to_weight = torch.empty_like(weight)
            to_weight[: ctx.start] = 0
            to_weight[ctx.stop :] = to_rest
            to_table = to_weight[ctx.start : ctx.stop]
        elif ctx.needs_input_grad[2]:
            to_table = torch.empty_like(table)
        scale = -gradient.unsqueeze(1).to(hidden.dtype)
        for number, rows in enumerate(_chunks(len(hidden), ctx.chunk_size)):
            if kept:
                q = kept[0]
            else:
                scores = _scores(hidden[rows], table, query[rows], key, closed)
                p = scores.sub_(normalizer[rows].unsqueeze(1)).exp_()
                q = p.scatter_(1, target[rows].unsqueeze(1), -missed[rows].unsqueeze(1)).to(hidden.dtype)
                del scores, p
            to_hidden[rows] = scale[rows] * (q @ table)
            to_query[rows] = scale[rows] * (q @ key)
            if to_table is not None:
                to_table.addmm_(q.T, scale[rows] * hidden[rows], beta=min(number, 1))
            del q
        to_shift = to_table.clone() if to_table is not None and ctx.needs_input_grad[2] else None
        return to_hidden, to_weight, to_shift, to_query, *(None,) * 6


def _table(weight: Tensor, shift: Tensor | None, start: int, stop: int) -> Tensor:
    return weight[start:stop] if shift is None else weight[start:stop] + shift


def _chunks(size: int, chunk_size: int) -> list[slice]:
    """At least one slice, so that an empty batch has the right shapes too."""
    return [slice(first, first + chunk_size) for first in range(0, max(size, 1), chunk_size)]


def _scores(hidden: Tensor, table: Tensor, query: Tensor, key: Tensor, closed: Tensor) -> Tensor:
    """Scores of some rows, in memory of their own."""
    scores = full_precision((hidden @ table.T).addmm_(query, key.T))
    return scores.masked_fill_(closed, NEVER)
