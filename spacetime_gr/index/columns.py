"""The columns that make up an index: facts of places, facts of blocks."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spacetime_gr.index.ids import IdTable, as_ids

PLACE_COLUMNS = ("codes", "latitude", "longitude", "category", "position", "visits", "visitors")
BLOCK_COLUMNS = ("keys", "levels", "centers", "parents")


@dataclass(frozen=True, eq=False)
class Places:
    """Facts of places in row order.

    `codes` (uint32, or uint64 where that is too narrow): block << inner bits | inner id. `latitude`, `longitude` int32
    multiples of 1e-7 degrees; `category` (-1 none); `position` uint16, Morton code of the place's cell among 256 x 256
    of its block; `visits` and `visitors` (people) in training, uint32.
    """

    ids: IdTable
    codes: NDArray[np.unsignedinteger]
    latitude: NDArray[np.int32]
    longitude: NDArray[np.int32]
    category: NDArray[np.signedinteger]
    position: NDArray[np.uint16]
    visits: NDArray[np.uint32]
    visitors: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.codes)

    def followed_by(self, others: "Places") -> "Places":
        """These places and others after them."""
        ids = as_ids(pa.chunked_array([self.ids.ids, others.ids.ids]))
        columns = {name: np.concatenate([getattr(self, name), getattr(others, name)]) for name in PLACE_COLUMNS}
        return Places(ids=IdTable.build(ids), **columns)


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks by id: first key and level of the cell, mean coordinates of the places (degrees), parent (-1 none).

    A block added later has as parent the block that was full, or the nearest one where the map was empty.
    """

    keys: NDArray[np.uint64]
    levels: NDArray[np.int8]
    centers: NDArray[np.float32]
    parents: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.keys)

    def followed_by(self, others: "Blocks") -> "Blocks":
        """These blocks and others after them."""
        return Blocks(*(np.concatenate([getattr(self, name), getattr(others, name)]) for name in BLOCK_COLUMNS))
