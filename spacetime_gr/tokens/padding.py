"""Sequences of tokens to rectangular batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spacetime_gr.tokens.histories import Arrays


def padded(
    flat: Mapping[str, NDArray[Any]],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    pad_values: Mapping[str, int],
    side: str,
    width: int | None = None,
) -> Arrays:
    """Sequences out of flat fields as rows of one batch, with `attention_mask` and `position_ids`.

    Args:
        flat: fields of all sequences laid end to end.
        starts, lengths: where each sequence begins, and its tokens, shape (num_sequences,).
        pad_values: by field.
        side: `left` or `right`, where the padding goes.
        width: tokens per row, at least the longest sequence; default just that.
    """
    if side not in ("left", "right"):
        raise ValueError(f"padding_side is {side!r}; expected 'left' or 'right'")
    width = int(lengths.max(initial=0)) if width is None else width
    position = np.arange(width)[None, :]
    if side == "left":
        position = position - (width - lengths[:, None])
    real = (position >= 0) & (position < lengths[:, None])
    source = np.where(real, starts[:, None] + position, 0)
    batch = {
        name: np.where(real, values[source] if len(values) else 0, pad_values[name]) for name, values in flat.items()
    }
    return batch | {"attention_mask": real.astype(np.int64), "position_ids": np.where(real, position, 0)}


def joined(encodings: Sequence[Mapping[str, Any]], known: Mapping[str, int]) -> tuple[Arrays, NDArray[np.int64]]:
    """Fields of encodings of one sequence each, laid end to end, and the length of each.

    Raises:
        ValueError: fields are not known, differ between encodings, or differ in length.
    """
    names = list(encodings[0]) if encodings else ["input_ids"]
    for number, encoding in enumerate(encodings):
        strange = [name for name in encoding if name not in known]
        if strange or set(encoding) != set(names) or "input_ids" not in encoding:
            raise ValueError(
                f"encoding {number} has the fields {', '.join(map(str, encoding))}; expected input_ids and the same "
                f"fields everywhere, out of {', '.join(known)}: remove other columns first"
            )
    lengths = np.array([len(encoding["input_ids"]) for encoding in encodings], np.int64)
    flat: Arrays = {}
    for name in names:
        parts = [np.asarray(encoding[name], np.int64) for encoding in encodings]
        for number, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            if part.shape != (length,):
                raise ValueError(
                    f"encoding {number}: {name} has shape {part.shape}, input_ids {length} tokens; expected one "
                    "sequence per encoding, as tokenizer(history) gives"
                )
        flat[name] = np.concatenate([np.empty(0, np.int64), *parts])
    return flat, lengths
