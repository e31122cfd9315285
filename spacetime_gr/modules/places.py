"""What the heads know of the places themselves: which inner ids a block has, what they are, and where blocks lie."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spacetime_gr.configuration_spacetime_gr import SpacetimeGRConfig
from spacetime_gr.index import POIIndex
from spacetime_gr.index.geometry import EARTH_RADIUS_KM, haversine_km
from spacetime_gr.vocabulary import CELL_BITS, FINE_CELL_BITS

NUM_POPULARITY_BUCKETS, POPULARITY_PER_OCTAVE = 64, 3  # of visitors: up to two million
NUM_LOYALTY_BUCKETS, LOYALTY_PER_OCTAVE = 32, 4  # of visits per visitor: a home has many; up to 215
_COPIED_AT_ONCE = 1 << 18  # vectors of places, so that a file is read in bounded memory
_SHORTEST_KM, _LONGEST_KM = 0.5, 1000.0  # wavelengths of the spatial features; the longest is cut to the map's extent


def coarse_cells(fine_cells: Tensor) -> Tensor:
    """The coarse position in the block from 1 + the fine one (a Morton code, of which it is a prefix); 0 stays 0."""
    return ((fine_cells - 1) >> (FINE_CELL_BITS - CELL_BITS)) + 1


class PlaceTable(nn.Module):
    """Buffers copied from a POI index by `load`; they travel with the weights.

    Before `load` every inner id counts as valid in every block and all blocks lie at one point, so that a model can be
    built from its configuration alone.

    POI tables are ordered by block and inner id: POI (b, j) stands at `block_starts[b] + j`. Spare blocks have size 0.
    """

    block_starts: Tensor
    block_sizes: Tensor
    block_centers: Tensor
    longest_km: Tensor
    category: Tensor
    fine_cell: Tensor
    popularity: Tensor
    loyalty: Tensor
    vector: Tensor | None

    def __init__(self, config: SpacetimeGRConfig) -> None:
        super().__init__()
        self.num_inner = config.num_inner
        self.num_frequencies = config.spatial_features // 2
        self._kept_features: tuple[tuple[Tensor, Tensor], list[int], Tensor] | None = None
        self.register_buffer("block_starts", torch.zeros(config.num_blocks, dtype=torch.int64))
        self.register_buffer("block_sizes", torch.full((config.num_blocks,), config.num_inner, dtype=torch.int64))
        self.register_buffer("block_centers", torch.zeros(config.num_blocks, 2, dtype=torch.float32))
        self.register_buffer("longest_km", torch.tensor(_LONGEST_KM))
        self.register_buffer("category", torch.zeros(config.num_pois, dtype=torch.int32))
        self.register_buffer("fine_cell", torch.zeros(config.num_pois, dtype=torch.int16))
        self.register_buffer("popularity", torch.zeros(config.num_pois, dtype=torch.uint8))
        self.register_buffer("loyalty", torch.zeros(config.num_pois, dtype=torch.uint8))
        size = config.poi_embedding_size
        self.register_buffer("vector", torch.zeros(config.num_pois, size, dtype=torch.float16) if size else None)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PlaceTable":
        # Half precision would move blocks by kilometres, so a cast of the model leaves the coordinates in float32; and
        # the vectors in float16, of which float32 would take twice the memory and bfloat16 fewer bits.
        exact = {"block_centers": self.block_centers, "longest_km": self.longest_km}
        vector = self.vector
        super()._apply(fn, recurse)
        for name, values in exact.items():
            if (moved := getattr(self, name)).dtype.itemsize < 4:
                setattr(self, name, values.to(moved.device))
        if vector is not None and self.vector is not None and self.vector.dtype != torch.float16:
            self.vector = vector.to(self.vector.device, torch.float16)
        return self

    @torch.no_grad()
    def load(self, index: POIIndex, embeddings: NDArray[np.floating] | None = None) -> None:
        """Copy the tables of an index.

        Args:
            embeddings: a vector of each place, shape (num_pois, poi_embedding_size), in the order of `poi_row`; NaN in
                a row: none. May be memory-mapped.

        Raises:
            ValueError: the index or the vectors have other sizes than the model's configuration.
        """
        self._check_sizes(index)
        size = 0 if self.vector is None else self.vector.shape[1]
        found = None if embeddings is None else embeddings.shape
        if found != ((index.num_pois, size) if size else None):
            raise ValueError(
                f"embeddings have shape {found}, the model was configured for poi_embedding_size={size} and "
                f"{index.num_pois} places; give an array of shape ({index.num_pois}, {size})"
                if size
                else f"embeddings of shape {found} were given to a model without; set poi_embedding_size in its "
                "configuration"
            )
        rows = index.rows_in_order()
        sizes = np.zeros(index.block_capacity, np.int64)
        sizes[: index.num_blocks] = index.block_sizes
        centers = np.zeros((index.block_capacity, 2), np.float32)
        centers[: index.num_blocks] = index.block_centers
        visits, visitors = index.visits(rows), index.visitors(rows)
        loyalty = _log_buckets((visits + 1) / (visitors + 1), LOYALTY_PER_OCTAVE, NUM_LOYALTY_BUCKETS)
        for buffer, values in (
            (self.block_starts, np.cumsum(sizes) - sizes),
            (self.block_sizes, sizes),
            (self.block_centers, centers),
            (self.longest_km, np.array(_longest_wavelength_km(index))),
            (self.category, index.categories(rows) + 1),
            (self.fine_cell, index.positions(rows, FINE_CELL_BITS) + 1),
            (self.popularity, _popularity(visitors)),
            (self.loyalty, loyalty),
        ):
            buffer.copy_(torch.from_numpy(values))
        if self.vector is not None and embeddings is not None:
            for start in range(0, len(rows), _COPIED_AT_ONCE):
                part = slice(start, start + _COPIED_AT_ONCE)
                vectors = np.asarray(embeddings[rows[part]], np.float32)
                vectors[np.isnan(vectors).any(axis=1)] = 0.0
                self.vector[part] = torch.from_numpy(vectors).to(self.vector)

    @torch.no_grad()
    def renew_visitors(self, index: POIIndex, visitors: NDArray[np.integer]) -> None:
        """Let popularity follow other counts of people than those of training.

        Args:
            visitors: people who have been at each place, shape (num_pois,), in the order of `poi_row`.

        Raises:
            ValueError: the index is not the model's, or the counts have another shape or are negative.
        """
        self.check(index)
        if visitors.shape != (index.num_pois,) or visitors.min(initial=0) < 0:
            raise ValueError(
                f"visitors have shape {visitors.shape} and are {visitors.min(initial=0)} at least; expected counts of "
                f"shape ({index.num_pois},), a place each in the order of poi_row"
            )
        self.popularity.copy_(torch.from_numpy(_popularity(visitors[index.rows_in_order()])))

    def check(self, index: POIIndex) -> None:
        """Make sure that these are the tables of an index: what is scored here is named there.

        Raises:
            ValueError: they are not; the message says what to call.
        """
        if int(self.block_sizes.sum()) != len(self.category):
            raise ValueError(
                f"the model's place tables hold {int(self.block_sizes.sum())} places, its configuration "
                f"{len(self.category)}: call model.load_places(tokenizer.index) before scoring places"
            )
        self._check_sizes(index)
        if not np.array_equal(self.block_sizes[: index.num_blocks].cpu().numpy(), index.block_sizes):
            raise ValueError(
                "the tokenizer is not the model's: its blocks hold other numbers of places; load the tokenizer that "
                "was saved with the model, or call model.grow(tokenizer) if its index has grown"
            )

    def _check_sizes(self, index: POIIndex) -> None:
        found = (index.block_capacity, index.num_inner, index.num_pois)
        expected = (len(self.block_starts), self.num_inner, len(self.category))
        if found != expected:
            raise ValueError(
                f"the index has (block ids, inner ids, POIs) = {found}, the model was configured for {expected}; build "
                "the configuration with tokenizer.config_kwargs(), or call model.grow(tokenizer) if the index has grown"
            )

    def find(self, blocks: Tensor, inner: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in the POI tables of pairs of ids, and which pairs name a place; ids of any range and shape."""
        block = blocks.clamp(0, len(self.block_starts) - 1)
        exists = (block == blocks) & (inner >= 0) & (inner < self.block_sizes[block])
        return torch.where(exists, self.block_starts[block] + inner, 0), exists

    def candidates(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in the POI tables of every inner id of some blocks, and which of them exist.

        Args:
            blocks: block ids from 0, shape (n,).

        Returns:
            positions (n, num_inner), clipped into range where no POI stands, and a mask of the same shape.
        """
        inner = torch.arange(self.num_inner, device=blocks.device)
        exists = inner < self.block_sizes[blocks].unsqueeze(-1)
        positions = torch.clamp(self.block_starts[blocks].unsqueeze(-1) + inner, max=len(self.category) - 1)
        return positions, exists

    def distance_km(self, here: Tensor, there: Tensor) -> Tensor:
        """Great-circle distance in km between the centres of blocks (haversine), NaN where an id is no block's.

        Args:
            here, there: block ids from 0, broadcast against each other.
        """
        last = len(self.block_centers) - 1
        lat_a, lon_a = torch.deg2rad(self.block_centers[here.clamp(0, last)]).unbind(-1)
        lat_b, lon_b = torch.deg2rad(self.block_centers[there.clamp(0, last)]).unbind(-1)
        chord = torch.sin((lat_b - lat_a) / 2) ** 2
        chord = chord + lat_a.cos() * lat_b.cos() * torch.sin((lon_b - lon_a) / 2) ** 2
        distance = 2.0 * EARTH_RADIUS_KM * torch.asin(chord.clamp(0.0, 1.0).sqrt())
        known = (here >= 0) & (here <= last) & (there >= 0) & (there <= last)
        return distance.masked_fill(~known, float("nan"))

    def all_spatial_features(self, dtype: torch.dtype) -> Tensor:
        """`spatial_features` of all blocks in some type, (num_blocks, 2 * num_frequencies).

        Kept until the coordinates change, since at 400 k blocks they cost as much as a good part of a training step.
        """
        source = (self.block_centers, self.longest_km)
        if torch.compiler.is_compiling() or any(tensor.is_inference() for tensor in source):
            return self.spatial_features().to(dtype)
        versions = [tensor._version for tensor in source]
        kept = self._kept_features
        same = kept is not None and all(a is b for a, b in zip(kept[0], source, strict=True)) and kept[1] == versions
        if kept is None or not same or kept[2].dtype != dtype:
            with torch.inference_mode(False), torch.no_grad():  # made while recommending, they may serve training
                kept = self._kept_features = (source, versions, self.spatial_features().to(dtype))
        return kept[2]

    def spatial_features(self) -> Tensor:
        """Cosines and sines of the places of all blocks, float64 (num_blocks, 2 * num_frequencies).

        Points are taken on the sphere in three dimensions (km); directions lie on a Fibonacci lattice and wavelengths
        run geometrically from 0.5 km to the extent of the map (1000 km at most). A product of two such features,
        weighted per frequency, is a sum of cosines of the distance between the two places: random Fourier features of a
        stationary kernel (Rahimi and Recht, 2007), with fixed in place of random frequencies.
        """
        centers = self.block_centers
        latitude, longitude = torch.deg2rad(centers.double()).unbind(-1)
        points = EARTH_RADIUS_KM * torch.stack(
            [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()], dim=-1
        )
        number = torch.arange(self.num_frequencies, dtype=torch.float64, device=centers.device)
        turn = number * math.pi * (1.0 + 5.0**0.5)
        height = 1.0 - 2.0 * (number + 0.5) / self.num_frequencies
        radius = torch.sqrt(1.0 - height**2)
        directions = torch.stack([radius * turn.cos(), radius * turn.sin(), height], dim=-1)
        # Wavelengths in a scattered order, so that each scale meets directions all around the sphere.
        scale = (number * 0.6180339887498949) % 1.0
        wavelength = _SHORTEST_KM * (self.longest_km.double() / _SHORTEST_KM) ** scale
        phase = points @ (directions * (2.0 * math.pi / wavelength).unsqueeze(-1)).T
        return torch.cat([phase.cos(), phase.sin()], dim=-1)


def _popularity(visitors: NDArray[np.integer]) -> NDArray[np.uint8]:
    return _log_buckets(visitors + 1, POPULARITY_PER_OCTAVE, NUM_POPULARITY_BUCKETS)


def _log_buckets(values: NDArray[np.number], per_octave: int, num_buckets: int) -> NDArray[np.uint8]:
    """Buckets of numbers from 1 on a logarithmic scale; the last one takes all that is larger."""
    return np.minimum(np.floor(per_octave * np.log2(values)), num_buckets - 1).astype(np.uint8)


def _longest_wavelength_km(index: POIIndex) -> float:
    """Four times the distance within which 95 % of the places lie from their median point, within [10, 1000] km."""
    # A million places, evenly over the rows, tell it well enough. Places that were added later do not count: other
    # wavelengths would undo what a model has learnt.
    size = len(index.base)
    rows = np.arange(0, size, -(-size // 1_000_000))
    latitude, longitude = index.coordinates(rows)
    distance = haversine_km(
        np.median(latitude, keepdims=True), np.median(longitude, keepdims=True), latitude, longitude
    )
    return float(np.clip(4.0 * np.quantile(distance, 0.95), 10.0, _LONGEST_KM))
