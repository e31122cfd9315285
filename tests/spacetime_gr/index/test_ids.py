"""Ids: what an id table finds, how ids are ordered, what is refused."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spacetime_gr.index import ids as ids_module
from spacetime_gr.index.ids import MAX_ID_BYTES, IdTable, as_ids, hash_ids, id_order

LEAST, MOST = -(2**63), 2**63 - 1
# Any characters; ids that share prefixes, are prefixes of each other, or hold and end in NUL.
TEXT = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.text("a\0", max_size=20),
    st.builds(lambda tail: "https://place.example/" + tail, st.text("ab/", max_size=20)),
    st.builds(lambda letter, size: letter * size, st.sampled_from("aé"), st.integers(0, 128)),
)
NUMBERS = st.one_of(st.integers(-5, 5), st.integers(LEAST, MOST), st.sampled_from([LEAST, LEAST + 1, MOST - 1, MOST]))

TEXT_HASHES = [
    0xE220A8397B1DCDAF,
    0x3E506E5796335AF0,
    0xDCE423FC82C0D5B8,
    0x82177327E1E4DAAC,
    0xB0F00539162B363B,
    0x3C930BCEF5FC0CB1,
    0x5E9B710D380473A6,
]
NUMBER_HASHES = [
    0xE220A8397B1DCDAF,
    0x910A2DEC89025CC1,
    0xE4D971771B652C20,
    0x481EC0A212A9F3DB,
    0x2A67D7552E039EA7,
]


def check_finds(known: list[Any], others: list[Any], kind: pa.DataType) -> None:
    """Every known id has its row, others -1."""
    table = IdTable.build(pa.array(known, kind))
    queries = [*known, *others, None]
    expected = [known.index(query) if query in known else -1 for query in queries]
    assert table.find(pa.array(queries, kind)).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(known=st.lists(TEXT, min_size=1, max_size=40, unique=True), others=st.lists(TEXT, max_size=20))
@example(known=["a" * 256, "a" * 255, "", "\0", "\0\0"], others=["a" * 254, "\0" * 3])
def test_text_is_found(known: list[str], others: list[str]) -> None:
    check_finds(known, others, pa.string())
    check_finds(known, others, pa.large_string())


@settings(max_examples=100, deadline=None)
@given(known=st.lists(NUMBERS, min_size=1, max_size=40, unique=True), others=st.lists(NUMBERS, max_size=20))
@example(known=[LEAST, MOST, 0, -1], others=[LEAST + 1, MOST - 1, 1])
def test_numbers_are_found(known: list[int], others: list[int]) -> None:
    check_finds(known, others, pa.int64())


def test_ids_whose_hashes_are_all_alike_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash only shortens the search: what is found is compared in full."""
    monkeypatch.setattr(ids_module, "hash_ids", lambda ids, part: np.zeros(part.stop - part.start, np.uint64))
    check_finds([f"p{i}" for i in range(50)], ["p50", ""], pa.string())
    check_finds(list(range(50)), [50, -1], pa.int64())


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 9, 1000])
def test_tables_of_every_size(size: int) -> None:
    check_finds(list(range(size)), [size, -1], pa.int64())
    check_finds([str(i) for i in range(size)], ["x"], pa.string())


def test_an_empty_table_knows_nothing() -> None:
    for kind in (pa.string(), pa.int64()):
        table = IdTable.build(pa.array([], kind))
        assert table.find(["a", "1"]).tolist() == [-1, -1]
        assert len(table.find(pa.array([], kind))) == 0


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.int64(), pa.int16(), pa.uint8()])
def test_every_form_of_arrow_array_is_understood(kind: pa.DataType) -> None:
    values = [str(i) if not pa.types.is_integer(kind) else i for i in range(100)]
    plain = pa.array(values, kind)
    sliced, wanted = pa.array([values[7], *values], kind).slice(1), [3, 99, -1, 0]
    query = pa.array([values[3], values[99], None, values[0]], kind)
    forms = [
        query,
        pa.concat_arrays([plain.slice(0, 3), query]).slice(3),
        pa.chunked_array([query.slice(0, 1), query.slice(1, 0), query.slice(1)]),
        query.dictionary_encode(),
        pa.chunked_array([query.dictionary_encode()]),
    ]
    for array in (plain, sliced, pa.chunked_array([plain.slice(0, 40), plain.slice(40)]), plain.dictionary_encode()):
        table = IdTable.build(as_ids(array))
        for form in forms:
            assert table.find(form).tolist() == wanted
    assert IdTable.build(as_ids(plain)).find(pa.chunked_array([], kind)).tolist() == []


def test_lists_and_numpy_arrays_are_understood() -> None:
    text, numbers = IdTable.build(pa.array(["a", "a\0", "b"])), IdTable.build(pa.array([5, MOST]))
    assert text.find(["b", None, "a", "a\0"]).tolist() == [2, -1, 0, 1]
    assert text.find(["a", "a\0"]).tolist() == [0, 1]
    assert text.find(np.array(["b", "c"])).tolist() == [2, -1]
    assert text.find(np.array(["b", None], object)).tolist() == [2, -1]
    assert text.find([None]).tolist() == [-1]
    assert text.find(["a", float("nan")]).tolist() == text.find(pd.Series(["a", None])).tolist() == [0, -1]
    assert numbers.find((MOST, None, 5)).tolist() == [1, -1, 0]
    assert numbers.find(np.array([5, 6], np.uint16)).tolist() == [0, -1]
    for table in (text, numbers):
        assert table.find([]).tolist() == []
        assert table.find(np.array([])).tolist() == []


@given(st.lists(NUMBERS, min_size=1, max_size=20, unique=True))
@example([LEAST, MOST, 10**17, 10**18, 0, -1])
def test_numbers_may_be_asked_in_text_and_the_other_way_round(known: list[int]) -> None:
    rows = list(range(len(known)))
    assert IdTable.build(pa.array(known)).find([str(number) for number in known]).tolist() == rows
    assert IdTable.build(pa.array([str(number) for number in known])).find(pa.array(known)).tolist() == rows


def test_only_the_decimal_form_of_a_number_is_that_number() -> None:
    known = [0, 1, -1, 10, LEAST, MOST]
    wrong = [
        "-0",
        "00",
        "01",
        "+1",
        " 1",
        "1 ",
        "1\n",
        "1.0",
        "1e1",
        "",
        "-",
        "\u0661",
        str(MOST + 1),
        str(LEAST - 1),
        "9" * 30,
    ]
    for kind in (pa.string(), pa.large_string()):
        assert (IdTable.build(pa.array(known)).find(pa.array(wrong, kind)) == -1).all()


@settings(max_examples=50, deadline=None)
@given(st.lists(TEXT, min_size=1, max_size=60))
def test_text_is_ordered_by_its_bytes(values: list[str]) -> None:
    expected = sorted(range(len(values)), key=lambda row: values[row].encode())
    for kind in (pa.string(), pa.large_string()):
        assert id_order(pa.array(["x", *values], kind).slice(1)).tolist() == expected


@given(st.lists(NUMBERS, min_size=1, max_size=60))
@example([MOST, LEAST, 0])
@example([MOST])
def test_numbers_are_ordered_by_value(values: list[int]) -> None:
    expected = sorted(range(len(values)), key=values.__getitem__)
    assert id_order(pa.array([0, *values], pa.int64()).slice(1)).tolist() == expected


def test_long_ids_are_refused() -> None:
    longest = "é" * (MAX_ID_BYTES // 2)
    assert id_order(pa.array([longest, "a"])).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"257 bytes; expected at most 256"):
        id_order(pa.array([longest + "e", "a"]))


@pytest.mark.parametrize("values", [["a", "b", "a", "c", "a", "b"], [1, 2, 1, 3, 1, 2], ["", "x", "", "y", "", "x"]])
def test_duplicates_are_named_with_all_their_rows(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="2 ids stand more than once") as refusal:
        IdTable.build(pa.array(values))
    for expected in ((values[0], [0, 2, 4]), (values[1], [1, 5])):
        assert str(expected) in str(refusal.value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(TEXT, st.sampled_from(["a", "b"])), min_size=1, max_size=30))
def test_duplicates_are_refused_and_nothing_else(values: list[str]) -> None:
    try:
        IdTable.build(pa.array(values))
        refused = False
    except ValueError:
        refused = True
    assert refused == (len(set(values)) < len(values))


def test_hashes_are_part_of_the_file_format() -> None:
    """Saved tables hold these hashes: a change makes every saved index unreadable."""
    text = ["", "a", "\0", "12345678", "123456789", "é" * 100, "p0001"]
    numbers = [0, 1, -1, LEAST, MOST]
    assert hash_ids(pa.array(text), slice(0, 7)).tolist() == TEXT_HASHES
    assert hash_ids(pa.array(numbers), slice(0, 5)).tolist() == NUMBER_HASHES
    assert hash_ids(pa.array(text, pa.large_string()).slice(1), slice(1, 6)).tolist() == TEXT_HASHES[2:]


def test_what_is_no_id_is_refused() -> None:
    for values in ([1.5, 2.5], [b"a"], [True], [["a"]], ["a", 1], [2**63], [2**64], np.array([2**63], np.uint64)):
        with pytest.raises(ValueError, match="expected text or"):
            as_ids(values)


def test_ids_of_rows_come_back_in_any_shape() -> None:
    table = IdTable.build(pa.array(["a", "b", "c"]))
    assert table.take(np.array([[2, -1], [0, 1]])).tolist() == [["c", None], ["a", "b"]]
    assert table.take(np.array([], np.int64)).tolist() == []
    assert IdTable.build(pa.array([7, MOST])).take(np.array([1, -1])).tolist() == [MOST, None]
