"""Attention over packed rows: how each back end is told which tokens see each other.

A token sees the tokens of its own sequence up to itself. `eager` and `sdpa` take that as a mask of length x keys,
`flex_attention` as a function of two positions, and the variable-length kernels (`varlen`, flash attention) as the
boundaries of the sequences in the batch laid end to end: what a sequence must not see then costs nothing.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, create_block_mask
from transformers import AttentionInterface
from transformers.integrations.flash_attention import get_target_dtype
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_flash_attention_utils import lazy_import_flash_attention

MASKED = ("sdpa", "eager")
VARLEN = "varlen"
FLASH = ("flash_attention_2", "flash_attention_3")


class Boundaries(NamedTuple):
    """Where the sequences of a batch begin in queries and keys laid end to end, row by row.

    `cu_q`, `cu_k`: first query and key of each sequence, and the end, int32 (sequences + 1). `max_q`, `max_k`: upper
    bounds of their lengths, known without asking the device.
    """

    cu_q: Tensor
    cu_k: Tensor
    max_q: int
    max_k: int


class Kernel(Protocol):
    """Attention of queries (tokens, heads, head_dim), keys and values (tokens, at most as many heads, head_dim)."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor, bounds: Boundaries, scale: float) -> Tensor: ...


def check_attention(implementation: str | None, attention_dropout: float) -> None:
    """Refuse a back end that would let the users of packed rows see each other, or that has no dropout.

    Raises:
        ValueError: names the back ends there are, or the setting to change.
    """
    if implementation in (None, *MASKED):
        return
    if implementation not in (VARLEN, "flex_attention", *FLASH) and not _is_hub_kernel(implementation):
        raise ValueError(
            f"attn_implementation is {implementation!r}, which would let the users of packed rows see each other; "
            f"expected one of {', '.join((*MASKED, VARLEN, 'flex_attention', *FLASH))}, or a flash attention kernel of "
            "the hub such as kernels-community/flash-attn2"
        )
    if attention_dropout:
        raise ValueError(
            f"attention_dropout is {attention_dropout}, which attn_implementation {implementation!r} does not have; "
            f"set attention_dropout to 0 or attn_implementation to one of {', '.join(MASKED)}"
        )


def decoder_attention(implementation: str) -> str:
    """The name under which the decoder looks its attention up: one for all variable-length kernels."""
    return VARLEN if _is_varlen(implementation) else implementation


def attention_inputs(implementation: str, segment: Tensor, length: int, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of the decoder that keep the sequences of packed rows apart.

    Args:
        implementation: the model's `attn_implementation`.
        segment: number of each key's sequence, 0 for padding, shape (batch, keys): cached tokens and the new ones.
        length: new tokens, the last of the keys.
        dtype: of the hidden states.
    """
    if implementation == "flex_attention":
        return {"attention_mask": _segment_blocks(segment, length)}
    if _is_varlen(implementation):
        bounds = boundaries(segment, length)
        if bounds is not None:
            return {"attention_mask": None, "kernel": partial(_kernel(implementation, segment.device), bounds=bounds)}
    return mask_inputs(implementation, same_sequence(segment, length), dtype)


def mask_inputs(implementation: str, allowed: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of the decoder for a ready mask: variable-length kernels give way to sdpa, which takes any.

    Args:
        implementation, dtype: as for `attention_inputs`.
        allowed: which keys each token sees, boolean (batch, 1, length, keys); or a mask in the back end's own form.
    """
    if allowed.dtype == torch.bool and implementation == "eager":  # added to the scores
        zeros = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        allowed = zeros.masked_fill(~allowed, torch.finfo(dtype).min)
    elif allowed.dtype == torch.bool and implementation == "flex_attention":
        return {"attention_mask": _mask_blocks(allowed)}
    return {"attention_mask": allowed}


def same_sequence(segment: Tensor, length: int) -> Tensor:
    """Mask that is causal and stays inside each packed sequence, boolean (batch, 1, length, keys).

    Args:
        segment: of all keys, shape (batch, keys).
        length: of these the last, which ask.
    """
    past = segment.shape[1] - length
    causal = torch.ones(length, segment.shape[1], dtype=torch.bool, device=segment.device).tril(past)
    return ((segment[:, past:].unsqueeze(2) == segment.unsqueeze(1)) & causal).unsqueeze(1)


def boundaries(segment: Tensor, length: int) -> Boundaries | None:
    """The sequences of packed rows as boundaries; None where padding interrupts one.

    A run of equal numbers is a sequence, and so is a run of padding: no token is moved. Kernels align a sequence's
    queries with the end of its keys, which is where the new tokens are; a sequence of cached tokens only has none.

    Args:
        segment, length: as for `same_sequence`.
    """
    batch, keys = segment.shape
    first = torch.ones_like(segment, dtype=torch.bool)
    first[:, 1:] = segment[:, 1:] != segment[:, :-1]
    highest_before = functional.pad(segment.cummax(dim=1).values[:, :-1], (1, 0))
    if (first & (segment > 0) & (segment <= highest_before)).any():
        return None
    starts = first.flatten().nonzero().squeeze(1)
    cu_k = functional.pad(starts, (0, 1), value=batch * keys)
    # Queries before a key: those of the rows above, and in its own row what lies beyond the cached tokens.
    cu_q = cu_k // keys * length + (cu_k % keys - (keys - length)).clamp(min=0)
    return Boundaries(cu_q.int(), cu_k.int(), length, keys)


def varlen_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    kernel: Callable[..., Tensor] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention by a variable-length kernel, or by sdpa where there is none: an attention function of transformers.

    Args:
        query, key, value: shape (batch, heads, length or keys, head_dim).
        kernel: with the boundaries of this batch; None where a mask takes their place.

    Returns:
        Shape (batch, length, heads, head_dim), and no weights.

    Raises:
        ValueError: a GPU is asked to compute in a type for which there are no such kernels.
    """
    if kernel is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    batch, _, length, _ = query.shape
    # Norms may have left float32 behind, under autocast or LoRA.
    dtype = get_target_dtype(query, module) or query.dtype
    if query.is_cuda and dtype not in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"variable-length attention on a GPU takes bfloat16 or float16, got {dtype}; load the model with "
            "dtype=torch.bfloat16, compute under torch.autocast, or set attn_implementation to sdpa"
        )
    flat = [states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value)]
    return kernel(*flat, scale=scaling).unflatten(0, (batch, length)), None


def reference_kernel(query: Tensor, key: Tensor, value: Tensor, bounds: Boundaries, scale: float) -> Tensor:
    """What a variable-length kernel computes, sequence by sequence in plain torch: for CPUs, and as the oracle."""
    queries, keys = bounds.cu_q.diff().tolist(), bounds.cu_k.diff().tolist()
    sequences = zip(query.split(queries), key.split(keys), value.split(keys), strict=True)
    return torch.cat([_attend(q, k, v, scale) for q, k, v in sequences if len(q)])


def torch_kernel(query: Tensor, key: Tensor, value: Tensor, bounds: Boundaries, scale: float) -> Tensor:
    """torch's own variable-length kernel, for GPUs."""
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(query, key, value, *bounds, scale=scale, window_size=(-1, 0), enable_gqa=True)
    assert isinstance(output, Tensor)  # and no normaliser, which was not asked for
    return output


@cache
def flash_kernel(implementation: str) -> Kernel:
    """The variable-length function of a flash attention package or hub kernel."""
    (_, flash_varlen, *_), _ = lazy_import_flash_attention(implementation)

    def kernel(query: Tensor, key: Tensor, value: Tensor, bounds: Boundaries, scale: float) -> Tensor:
        output = flash_varlen(
            query, key, value, cu_seqlens_q=bounds.cu_q, cu_seqlens_k=bounds.cu_k, max_seqlen_q=bounds.max_q,
            max_seqlen_k=bounds.max_k, softmax_scale=scale, causal=True,
        )  # fmt: skip
        return output[0] if isinstance(output, tuple) else output  # some versions return the normaliser, too

    return kernel


def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Causal attention of one sequence, whose queries are the last of its keys; shape (queries, heads, head_dim)."""
    allowed = torch.ones(len(query), len(key), dtype=torch.bool, device=query.device).tril(len(key) - len(query))
    query, key, value = (states.transpose(0, 1).unsqueeze(0) for states in (query, key, value))
    output = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed, scale=scale, enable_gqa=True)
    return output.squeeze(0).transpose(0, 1)


def _segment_blocks(segment: Tensor, length: int) -> BlockMask:
    past = segment.shape[1] - length

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (segment[row, query + past] == segment[row, key]) & (query + past >= key)

    return _blocks(sees, (len(segment), length, segment.shape[1]), segment.device)


def _mask_blocks(allowed: Tensor) -> BlockMask:
    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return allowed[row, 0, query, key]

    return _blocks(sees, (len(allowed), *allowed.shape[2:]), allowed.device)


def _blocks(sees: Callable[..., Tensor], shape: tuple[int, int, int], device: torch.device) -> BlockMask:
    """A block mask of a (batch, length, keys) predicate; compiled on a GPU, where it then never exists as a whole."""
    batch, length, keys = shape
    return create_block_mask(sees, batch, None, length, keys, device=device, _compile=device.type == "cuda")


def _kernel(implementation: str, device: torch.device) -> Kernel:
    if implementation != VARLEN:
        return flash_kernel(implementation)
    return torch_kernel if device.type == "cuda" else reference_kernel


def _is_varlen(implementation: str) -> bool:
    return implementation in (VARLEN, *FLASH) or _is_hub_kernel(implementation)


def _is_hub_kernel(implementation: str) -> bool:
    return "/" in implementation and "flash" in implementation


AttentionInterface.register(VARLEN, varlen_attention)
