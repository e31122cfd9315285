"""POI ids: their order, their hashes and the table that finds an id's row. Ids are strings or 64-bit integers.

Everything works on the buffers of Arrow arrays; no id ever becomes a Python object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from spacetime_gr.index.sorting import chunks, number_bits, ones, sort_by_prefix, sort_runs, tied

MAX_ID_BYTES = 256
_INTEGER = r"^(0|-?[1-9][0-9]{0,18})$"
_MOST, _LEAST = "9223372036854775807", "-9223372036854775808"
Rows = NDArray[np.int64]


def as_ids(values: ArrayLike | pa.Array | pa.ChunkedArray) -> pa.Array:
    """Ids as one Arrow array of type int64, string or (past 2 GB of text) large_string.

    Raises:
        ValueError: the values are neither integers nor text.
    """
    try:
        array = values
        if not isinstance(array, pa.Array | pa.ChunkedArray):
            # Lists as they are: text in NumPy loses NULs at its end. NaN among text, as pandas has it, is null.
            array = pa.array(array if isinstance(array, list | tuple) else np.asarray(array), from_pandas=True)
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if pa.types.is_integer(array.type):
            array = array.cast(pa.int64())
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"POI ids are not understood ({error}); expected text or 64-bit signed integers") from error
    kind = array.type
    if pa.types.is_null(kind) or (pa.types.is_floating(kind) and not len(array)):  # an empty array of NumPy
        array = pa.nulls(len(array), pa.string())
    elif not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ValueError(f"POI ids are of type {kind}; expected text or integers: cast the column")
    if isinstance(array, pa.ChunkedArray):
        if array.num_chunks == 1:
            return array.chunk(0)
        if pa.types.is_string(array.type) and array.nbytes >= 1 << 31:
            array = array.cast(pa.large_string())
        array = array.combine_chunks()
    return array


class _Text:
    """Random access to the bytes of an Arrow text array, eight at a time."""

    def __init__(self, array: pa.Array) -> None:
        _, offsets, data = array.buffers()
        kind = np.int32 if pa.types.is_string(array.type) else np.int64
        # An empty array may have no offsets at all.
        flat = np.frombuffer(offsets, kind) if offsets is not None and offsets.size else np.zeros(1, kind)
        self.offsets = flat[array.offset : array.offset + len(array) + 1]
        self.bytes = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
        if len(self.bytes) < 8:
            self.bytes = np.concatenate([self.bytes, np.zeros(8, np.uint8)])
        self.last = len(self.bytes) - 8
        self.words = np.ndarray((self.last + 1,), "<u8", buffer=self.bytes, strides=(1,))

    def span(self, rows: Any) -> tuple[Rows, Rows]:
        """First byte and length of some ids (a slice or row numbers)."""
        if isinstance(rows, slice):
            bounds = self.offsets[rows.start : rows.stop + 1].astype(np.int64)
            return bounds[:-1], np.diff(bounds)
        start = self.offsets[rows].astype(np.int64)
        return start, self.offsets[rows + 1].astype(np.int64) - start

    def word(self, start: Rows, length: Rows, number: int) -> NDArray[np.uint64]:
        """Bytes 8 * number to 8 * number + 7 of ids that start there, as little-endian integers, zero past the end."""
        begin, left = start + 8 * number, np.clip(length - 8 * number, 0, 8).astype(np.uint64)
        # Near the end of the buffer the eight bytes before its end are read and shifted.
        read = np.minimum(begin, self.last)
        beyond = np.minimum(begin - read, 7).astype(np.uint64)
        words = self.words[read] >> (beyond << np.uint64(3))
        # Nothing is left of an id that has ended: shifts by 64 are not defined.
        kept = ~np.uint64(0) >> (np.uint64(64) - np.maximum(left, 1) * np.uint64(8))
        return np.where(left > 0, words & kept, np.uint64(0))

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest id."""
        return max((int(self.span(part)[1].max()) for part in chunks(len(self.offsets) - 1)), default=0)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014): every input bit moves every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_ids(ids: pa.Array, part: slice) -> NDArray[np.uint64]:
    """64-bit hashes of a part of an id array. A part of the file format: never change what it gives."""
    if pa.types.is_integer(ids.type):
        numbers = np.frombuffer(ids.buffers()[1], np.uint64)[ids.offset + part.start : ids.offset + part.stop]
        return _mix(numbers + np.uint64(0x9E3779B97F4A7C15))
    text = _Text(ids)
    start, length = text.span(part)
    hashes = _mix(length.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
    for number in range(-(-int(length.max(initial=0)) // 8)):
        mixed = _mix(hashes ^ text.word(start, length, number))
        hashes = np.where(length > 8 * number, mixed, hashes)
    return hashes


def _same(ids: pa.Array, rows: Rows, others: pa.Array, other_rows: Rows) -> NDArray[np.bool_]:
    """Whether ids of one array equal ids of another, pair by pair."""
    if pa.types.is_integer(ids.type):
        mine, theirs = (np.frombuffer(array.buffers()[1], np.int64)[array.offset :] for array in (ids, others))
        return mine[rows] == theirs[other_rows]
    text, other_text = _Text(ids), _Text(others)
    start, length = text.span(rows)
    other_start, other_length = other_text.span(other_rows)
    same = length == other_length
    for number in range(-(-int(length[same].max(initial=0)) // 8)):
        same &= text.word(start, length, number) == other_text.word(other_start, other_length, number)
    return same


def id_order(ids: pa.Array) -> Rows:
    """Rows in the order of their ids: integers by value, text by its bytes; shape (n,).

    Raises:
        ValueError: an id is longer than `MAX_ID_BYTES`.
    """
    room = 64 - number_bits(len(ids))
    if pa.types.is_integer(ids.type):
        numbers = ids.to_numpy()
        least, bits = numbers.min(), number_bits(int(numbers.max()) - int(numbers.min()) + 1)
        # Wrapping around is meant: the difference of two int64 fits uint64.
        keys = (numbers - least).view(np.uint64)
        dropped = max(0, bits - room)
        order, ordered = sort_by_prefix(keys >> np.uint64(dropped), bits - dropped)
        if dropped:
            positions, runs = tied(ordered)
            rest = (keys[order[positions]] & ones(dropped), dropped)
            sort_runs(order, positions, runs, [rest])
        return order
    text = _Text(ids)
    if text.longest > MAX_ID_BYTES:
        raise ValueError(f"a poi_id has {text.longest} bytes; expected at most {MAX_ID_BYTES}: shorten the ids")
    places = _informative_places(text, len(ids))
    first, rest_of = _split_places(places, room)
    order, ordered = sort_by_prefix(_text_key(text, slice(0, len(ids)), first), sum(place.bits for place in first))
    if rest_of:
        positions, runs = tied(ordered)
        rows = order[positions]
        pieces = []
        while rest_of:
            piece, rest_of = _split_places(rest_of, 64)
            pieces.append((_text_key(text, rows, piece), sum(place.bits for place in piece)))
        sort_runs(order, positions, runs, pieces[::-1])
    return order


@dataclass(frozen=True)
class _Place:
    """A byte of the ids that differs between them: its number, the bits it takes, and the rank of each symbol."""

    number: int
    bits: int
    rank: NDArray[np.uint64]


def _symbols(text: _Text, rows: Any, number: int) -> NDArray[np.int64]:
    """Byte `number` of ids plus one, 0 past their end."""
    start, length = text.span(rows)
    byte = text.bytes[np.minimum(start + number, len(text.bytes) - 1)].astype(np.int64)
    return np.where(number < length, byte + 1, 0)


def _informative_places(text: _Text, size: int) -> list[_Place]:
    """The bytes that differ, from the first on, each with the alphabet of its place.

    Ids are mostly digits or hexadecimal behind a common prefix, so a key of 37 bits holds nine characters or more.
    """
    places = []
    for number in range(text.longest):
        seen = np.zeros(257, bool)
        for part in chunks(size):
            seen[_symbols(text, part, number)] = True
        if (count := int(seen.sum())) > 1:
            places.append(_Place(number, number_bits(count), (np.cumsum(seen) - 1).astype(np.uint64)))
    return places


def _split_places(places: list[_Place], room: int) -> tuple[list[_Place], list[_Place]]:
    """As many of the first places as fit into `room` bits, and the rest."""
    fits = int(np.searchsorted(np.cumsum([place.bits for place in places]), room, side="right"))
    return places[:fits], places[fits:]


def _text_key(text: _Text, rows: slice | Rows, places: list[_Place]) -> NDArray[np.uint64]:
    """Some bytes of ids as one integer that sorts as they do."""
    size = rows.stop if isinstance(rows, slice) else len(rows)
    key = np.zeros(size, np.uint64)
    for part in chunks(size):
        chosen = part if isinstance(rows, slice) else rows[part]
        for place in places:
            key[part] = (key[part] << np.uint64(place.bits)) | place.rank[_symbols(text, chosen, place.number)]
    return key


def _buckets(hashes: NDArray[np.uint64], bits: int) -> Rows:
    """The first bits of hashes."""
    return (hashes >> np.uint64(64 - bits)).view(np.int64) if bits else np.zeros(len(hashes), np.int64)


@dataclass(frozen=True)
class IdTable:
    """Ids in row order, and a hash table over them.

    `slots` (uint64, one an id) hold the high bits of the id's hash and, in the low bits, its row, sorted; `starts`
    (uint32, 2^b + 1) say where the hashes of each value of their first b bits begin. A found id is compared in full.
    """

    ids: pa.Array
    slots: NDArray[np.uint64]
    starts: NDArray[np.uint32]

    @classmethod
    def build(cls, ids: pa.Array, table_rows: Callable[[], Rows] | None = None) -> "IdTable":
        """The table of distinct ids without nulls.

        Raises:
            ValueError: an id stands twice; the message names the first with their rows (`table_rows()[row]` if given).
        """
        row_bits = number_bits(len(ids))
        slots = np.empty(len(ids), np.uint64)
        for part in chunks(len(ids)):
            rows = np.arange(part.start, part.stop, dtype=np.uint64)
            slots[part] = (hash_ids(ids, part) & ~ones(row_bits)) | rows
        slots.sort()
        cls._refuse_duplicates(ids, slots, row_bits, table_rows)
        bucket_bits = max(0, row_bits - 2)
        starts = np.zeros((1 << bucket_bits) + 1, np.uint32)
        for part in chunks(len(slots)):
            bucket = _buckets(slots[part], bucket_bits)
            first = int(bucket[0])
            counts = np.bincount(bucket - first)
            starts[1 + first : 1 + first + len(counts)] += counts.astype(np.uint32)
        np.cumsum(starts, dtype=np.uint32, out=starts)
        return cls(ids, slots, starts)

    @staticmethod
    def _refuse_duplicates(
        ids: pa.Array, slots: NDArray[np.uint64], row_bits: int, table_rows: Callable[[], Rows] | None
    ) -> None:
        """Compare in full the ids whose hashes begin alike: equal ids are among them."""
        alike = [np.empty(0, np.int64)]
        for part in chunks(len(slots) - 1):
            near = (slots[part] ^ slots[part.start + 1 : part.stop + 1]) <= ones(row_bits)
            alike.append(part.start + np.flatnonzero(near))
        first = np.concatenate(alike)
        rows = np.sort((slots[np.union1d(first, first + 1)] & ones(row_bits)).astype(np.int64))
        counts = pc.value_counts(ids.take(pa.array(rows)))
        twice = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        if len(twice):
            named = rows if table_rows is None else table_rows()[rows]
            shown = [
                (
                    value.as_py(),
                    named[pc.equal(ids.take(pa.array(rows)), value).to_numpy(zero_copy_only=False)].tolist(),
                )
                for value in twice[:5]
            ]
            raise ValueError(
                f"poi_id must be unique: {len(twice)} ids stand more than once, first (id, rows): {shown}; "
                "merge the rows of a place into one"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def find(self, values: ArrayLike | pa.Array) -> Rows:
        """Rows of ids, -1 where an id is null or not known; shape (n,).

        A table of integers is asked in integers or in their decimal text, a table of text in text or integers.
        """
        wanted = self.in_my_kind(as_ids(values))
        rows = np.full(len(wanted), -1, np.int64)
        if len(self.ids):
            for part in chunks(len(wanted)):
                rows[part] = self._find(wanted, part)
        if wanted.null_count:
            rows[wanted.is_null().to_numpy(zero_copy_only=False)] = -1
        return rows

    def in_my_kind(self, wanted: pa.Array) -> pa.Array:
        """Ids as integers if mine are, else as text; null for text that is no integer."""
        if pa.types.is_integer(self.ids.type) == pa.types.is_integer(wanted.type):
            return wanted
        if pa.types.is_integer(wanted.type):
            return wanted.cast(pa.string())
        # Of two numbers with nineteen digits the smaller is also the smaller text.
        digits = pc.utf8_ltrim(wanted, "-")
        small = pc.or_(pc.less(pc.binary_length(digits), len(_MOST)), pc.less_equal(digits, _MOST))
        is_number = pc.and_(pc.match_substring_regex(wanted, _INTEGER), pc.or_(small, pc.equal(wanted, _LEAST)))
        return pc.if_else(is_number, wanted, None).cast(pa.int64())

    def _find(self, wanted: pa.Array, part: slice) -> Rows:
        row_bits = number_bits(len(self.ids))
        hashes = hash_ids(wanted, part)
        bucket = _buckets(hashes, (len(self.starts) - 1).bit_length() - 1)
        hashes &= ~ones(row_bits)
        slot, stop = self.starts[bucket].astype(np.int64), self.starts[bucket + 1].astype(np.int64)
        found = np.full(len(hashes), -1, np.int64)
        asking = np.flatnonzero(slot < stop)
        while len(asking):
            entry = self.slots[slot[asking]]
            high, row = entry & ~ones(row_bits), (entry & ones(row_bits)).astype(np.int64)
            hit = np.flatnonzero(high == hashes[asking])
            hit = hit[_same(self.ids, row[hit], wanted, part.start + asking[hit])]
            found[asking[hit]] = row[hit]
            slot[asking] += 1
            # Hashes rise within a bucket, so a search ends at the first larger one.
            asking = asking[(found[asking] < 0) & (high <= hashes[asking]) & (slot[asking] < stop[asking])]
        return found

    def take(self, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Ids of rows as an object array (str or int), None for row -1; any shape."""
        taken = self.ids.take(pa.array(np.maximum(rows, 0).ravel())).to_numpy(zero_copy_only=False)
        result: NDArray[Any] = taken.astype(object).reshape(np.shape(rows))
        result[np.asarray(rows) < 0] = None
        return result
