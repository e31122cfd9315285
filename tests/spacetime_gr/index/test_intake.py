"""What is read from tables and files of places, and what is refused or set aside."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spacetime_gr import POIIndex
from spacetime_gr.index import intake
from spacetime_gr.index.geometry import to_degrees
from spacetime_gr.index.intake import Intake, Source, read_places
from spacetime_gr.index.schemes import Grid, Quadtree
from tests.spacetime_gr.conftest import make_pois
from tests.spacetime_gr.index.places import city, table


def read(source: Source, quarantine: bool = False, **settings: Any) -> Intake:
    """Places for a quadtree."""
    return read_places(source, Quadtree(), quarantine, **settings)


def same(one: Intake, other: Intake) -> None:
    """Both hold the same, rejected rows too."""
    for name, values in vars(one).items():
        others = getattr(other, name)
        assert values.equals(others) if isinstance(values, pa.Array | pa.Table) else np.array_equal(values, others), (
            name
        )


BAD = {  # how a good row is spoilt, and the reason that is given
    "null id": ({"poi_id": None}, "poi_id is null"),
    "null latitude": ({"latitude": None}, "missing or not finite"),
    "NaN": ({"longitude": float("nan")}, "missing or not finite"),
    "infinite": ({"latitude": float("-inf")}, "missing or not finite"),
    "swapped": ({"latitude": -120.0, "longitude": 10.0}, "swapped they would fit"),
    "too far north": ({"latitude": 90.0001, "longitude": 120.0}, "longitude is out of range"),
    "too far north of all": ({"latitude": 181.0, "longitude": 1.0}, "longitude is out of range"),
    "too far east": ({"latitude": 1.0, "longitude": 180.0001}, "longitude is out of range"),
    "negative visits": ({"train_visits": -1}, "train_visits or train_visitors is negative"),
    "too many visits": ({"train_visits": 2**32}, "train_visits or train_visitors is negative or above 4294967295"),
}


def spoilt(changes: dict[str, Any], rows: list[int]) -> pa.Table:
    """Twenty places, some of them spoilt."""
    good = [
        {"poi_id": f"p{i}", "latitude": float(i), "longitude": float(-i), "category": "bar", "train_visits": i}
        for i in range(20)
    ]
    bad = [{**row, **changes} if number in rows else row for number, row in enumerate(good)]
    types = [pa.string(), pa.float64(), pa.float64(), pa.string(), pa.int64()]
    return pa.Table.from_pylist(bad, pa.schema(zip(good[0], types, strict=True)))


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_are_refused_with_reason_and_rows(case: str) -> None:
    changes, reason = BAD[case]
    with pytest.raises(ValueError, match="the POI table: 2 rows are bad") as refusal:
        read(spoilt(changes, [3, 19]))
    assert reason in str(refusal.value)
    for row in (3, 19):
        assert f"({row}, {'None' if 'poi_id' in changes else repr(f'p{row}')})" in str(refusal.value)


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("batch_rows", [1 << 20, 7])
def test_bad_rows_are_set_aside_on_request(monkeypatch: pytest.MonkeyPatch, case: str, batch_rows: int) -> None:
    """What is left is as if they had never stood there."""
    monkeypatch.setattr(intake, "BATCH_ROWS", batch_rows)
    changes, reason = BAD[case]
    pois = spoilt(changes, [0, 8])
    taken = read(pois, quarantine=True)
    assert taken.rejected["row"].to_pylist() == [0, 8]
    assert taken.rejected["poi_id"].to_pylist() == pois["poi_id"].take([0, 8]).to_pylist()
    assert all(reason in text for text in taken.rejected["reason"].to_pylist())
    clean = read(pois.take([row for row in range(20) if row not in (0, 8)]))
    clean.rejected = taken.rejected
    same(taken, clean)


def test_every_reason_is_counted() -> None:
    pois = pa.concat_tables([spoilt(changes, [row]).slice(row, 1) for row, (changes, _) in enumerate(BAD.values())])
    taken = read(pa.concat_tables([pois, spoilt({}, [])]), quarantine=True)
    assert taken.rejected["row"].to_pylist() == list(range(len(BAD)))
    for text, (_, reason) in zip(taken.rejected["reason"].to_pylist(), BAD.values(), strict=True):
        assert reason in text
    with pytest.raises(ValueError, match=r"10 rows are bad \(1 x poi_id is null, 3 x latitude or longitude is missing"):
        read(pois)


def test_rows_of_the_index_count_the_places_that_were_kept() -> None:
    index = POIIndex.build(spoilt({"latitude": None}, [0, 5]), bad_rows="quarantine")
    assert index.num_pois == 18
    assert index.rows(["p1", "p4", "p6", "p0"]).tolist() == [0, 3, 4, -1]
    assert index.rejected is not None
    assert index.rejected["row"].to_pylist() == [0, 5]
    assert index.coordinates(index.rows(["p6"]))[0].tolist() == [6.0]
    assert index.visits([4]).tolist() == [6]


def test_rows_of_duplicates_are_those_of_the_table() -> None:
    pois = pa.concat_tables([spoilt({"latitude": None}, [0, 5]), spoilt({}, []).slice(7, 1)])
    with pytest.raises(ValueError, match=r"\('p7', \[7, 20\]\)"):
        POIIndex.build(pois, bad_rows="quarantine")


def test_categories_of_rows_set_aside_leave_no_name() -> None:
    pois = spoilt({"latitude": None, "category": "ghost"}, [2])
    assert read(pois, quarantine=True).category_names == ["bar"]
    assert read(pois, quarantine=True, known_categories=["ghost"]).category_names == ["ghost", "bar"]


# ---------------------------------------------------------------- swapped coordinates


@pytest.mark.parametrize("center", [(40.7, -74.0), (-33.9, 151.2), (31.2, 121.5), (-1.3, 36.8), (48.9, 2.3)])
def test_swapped_rows_of_a_city_are_found(center: tuple[float, float]) -> None:
    """Those whose latitude would be out of range as well as those that fit."""
    latitude, longitude = city(2000, center)
    rows = np.arange(5, 2000, 200)
    latitude[rows], longitude[rows] = longitude[rows], latitude[rows]
    taken = read(table(latitude, longitude), quarantine=True)
    assert taken.rejected["row"].to_pylist() == rows.tolist()
    assert all("swapped" in reason for reason in taken.rejected["reason"].to_pylist())
    with pytest.raises(ValueError, match="10 rows are bad"):
        read(table(latitude, longitude))


def test_rows_suspected_may_be_kept() -> None:
    latitude, longitude = city(2000, (40.7, -74.0))
    latitude[7], longitude[7] = longitude[7], latitude[7]
    with pytest.raises(ValueError, match="check_swapped=False keeps suspected rows"):
        read(table(latitude, longitude))
    assert len(read(table(latitude, longitude), check_swapped=False).ids) == 2000


def test_lonely_places_of_a_world_map_are_not_suspected() -> None:
    """Places everywhere, beside cities none of which holds much of the whole."""
    rng = np.random.default_rng(0)
    scattered = np.stack([rng.uniform(-90, 90, 3000), rng.uniform(-180, 180, 3000)])
    cities = [np.stack(city(50, (lat, lon))) for lat, lon in rng.uniform(-80, 80, (200, 2))]
    latitude, longitude = np.concatenate([scattered, *cities], axis=1)
    assert read(table(latitude, longitude)).rejected.num_rows == 0


@pytest.mark.parametrize(
    "center", [(0.0, 0.0), (20.3, 20.9), (-17.5, -17.6), (31.0, 29.0), (85.0, 89.9), (-89.9, 179.9)]
)
def test_cities_near_the_diagonal_are_not_suspected(center: tuple[float, float]) -> None:
    """Where latitude and longitude are alike a city is its own mirror image."""
    latitude, longitude = city(5000, center, spread=0.4)
    assert read(table(np.clip(latitude, -90, 90), longitude)).rejected.num_rows == 0


def test_few_places_say_nothing() -> None:
    latitude, longitude = [*[40.7] * 99, -74.0], [*[-74.0] * 99, 40.7]
    assert read(table(latitude, longitude)).rejected.num_rows == 0


# ---------------------------------------------------------------- forms of input


@pytest.mark.parametrize("batch_rows", [1, 7, 119, 120, 121])
def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batch_rows: int) -> None:
    pois = make_pois()
    expected = read(pois)
    pq.write_table(pois, tmp_path / "pois.parquet")
    monkeypatch.setattr(intake, "BATCH_ROWS", batch_rows)
    same(read(pois), expected)
    same(read(tmp_path / "pois.parquet"), expected)


def test_a_folder_of_files_is_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    pois = make_pois()
    for number in (2, 0, 1):
        pq.write_table(pois.slice(number * 40, 40), tmp_path / f"part-{number}.parquet", row_group_size=11)
    same(read(tmp_path), read(pois))
    same(read(str(tmp_path)), read(pois))


def test_column_types_do_not_matter() -> None:
    pois = make_pois().slice(0, 50)
    names = pois["category"]
    expected = read(pois)
    for column, values in [
        ("poi_id", pois["poi_id"].dictionary_encode()),
        ("category", names.dictionary_encode()),
        ("category", names.cast(pa.large_string())),
        ("train_visits", pois["train_visits"].cast(pa.uint16())),
        ("train_visits", pois["train_visits"].cast(pa.float64())),
        ("latitude", pois["latitude"].cast(pa.string())),
    ]:
        changed = pois.set_column(pois.column_names.index(column), column, values)
        same(read(changed), expected)
    assert read(make_pois().slice(13, 50)).ids.to_pylist() == make_pois()["poi_id"].to_pylist()[13:63]


def test_coordinates_of_a_narrow_type_are_checked() -> None:
    """The magnitude of -128 does not fit int8."""
    coordinates = pa.array([0, -128], pa.int8())
    taken = read(pa.table({"poi_id": ["a", "b"], "latitude": coordinates, "longitude": coordinates}), quarantine=True)
    assert taken.rejected["row"].to_pylist() == [1]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.int64()])
def test_dictionaries_of_categories_may_hold_anything(kind: pa.DataType) -> None:
    """Null as a name, names that no row has, names that stand twice, several dictionaries."""
    parts = [
        pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 3], kind), ["zoo", "bar", "unused", "zoo"]),
        pa.DictionaryArray.from_arrays(pa.array([0, 1], kind), [None, "alp"]),
    ]
    for chunks in (parts, parts[:1], parts[1:]):
        column = pa.chunked_array(chunks)
        taken = read(table([0.0] * len(column), [0.0] * len(column), category=column))
        expected = [name for part in chunks for name in part.cast(pa.string()).to_pylist()]
        assert taken.category_names == sorted({name for name in expected if name is not None})
        assert [None if n < 0 else taken.category_names[n] for n in taken.category] == expected


def test_optional_columns_may_be_absent_or_null() -> None:
    pois = make_pois().select(["poi_id", "latitude", "longitude"])
    for other in (pois, pois.append_column("train_visits", pa.nulls(120)).append_column("category", pa.nulls(120))):
        taken = read(other)
        assert taken.category_names == []
        assert set(taken.category.tolist()) == {-1}
        assert set(taken.visits.tolist()) == set(taken.visitors.tolist()) == {0}


def test_visitors_are_as_many_as_visits_where_they_are_not_counted() -> None:
    taken = read(table([0, 0, 0], [0, 0, 0], train_visits=[7, 5, 3], train_visitors=[2, None, 3]))
    assert taken.visitors.tolist() == [2, 5, 3]
    with pytest.raises(ValueError, match="train_visits or train_visitors is negative"):
        read(table([0], [0], train_visits=[7], train_visitors=[-1]))
    with pytest.raises(ValueError, match="more visitors than visits"):
        read(table([0, 0], [0, 0], train_visits=[7, 7], train_visitors=[7, 8]))


def test_categories_are_numbered_by_name_whatever_the_order() -> None:
    names = ["zoo", "bar", None, "Ärzte", "bar", "", "zoo"]
    for order in (range(7), reversed(range(7))):
        rows = list(order)
        taken = read(table(range(7), range(7), category=[names[row] for row in rows]))
        assert taken.category_names == ["", "bar", "zoo", "Ärzte"]
        shown = [None if number < 0 else taken.category_names[number] for number in taken.category]
        assert shown == [names[row] for row in rows]


def test_known_categories_keep_their_numbers() -> None:
    taken = read(table([0, 0, 0], [0, 0, 0], category=["zoo", "bar", "alp"]), known_categories=["zoo", "inn"])
    assert taken.category_names == ["zoo", "inn", "alp", "bar"]
    assert taken.category.tolist() == [0, 3, 2]


def test_coordinates_are_kept_to_a_centimetre() -> None:
    latitude, longitude = [90.0, -90.0, 12.34567891, 5e-8], [180.0, -180.0, -0.00000004, 1.5e-7]
    taken = read(table(latitude, longitude))
    np.testing.assert_allclose(to_degrees(taken.latitude), latitude, atol=5.1e-8)
    np.testing.assert_allclose(to_degrees(taken.longitude), longitude, atol=5.1e-8)
    assert taken.latitude.dtype == taken.longitude.dtype == np.int32


def test_the_most_visits_are_kept() -> None:
    taken = read(table([0, 0], [0, 0], train_visits=[2**32 - 1, 0]))
    assert taken.visits.tolist() == [2**32 - 1, 0]


def test_the_grid_makes_its_own_keys() -> None:
    pois = make_pois()
    keys = Grid(5.0).keys(pois["latitude"].to_numpy(), pois["longitude"].to_numpy())
    np.testing.assert_array_equal(read_places(pois, Grid(5.0), False).keys, keys)


# ---------------------------------------------------------------- what is no table of places


@pytest.mark.parametrize("missing", ["poi_id", "latitude", "longitude"])
def test_missing_columns_are_named(tmp_path: Path, missing: str) -> None:
    pois = make_pois().drop_columns([missing])
    pq.write_table(pois, tmp_path / "pois.parquet")
    for source in (pois, tmp_path / "pois.parquet", tmp_path):
        with pytest.raises(ValueError, match=f"no column '{missing}'; it has "):
            read(source)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("latitude", ["north"] * 3, "column 'latitude' is of type string; expected numbers"),
        ("longitude", [[1.0]] * 3, "column 'longitude' is of type list.*expected numbers"),
        ("train_visits", ["many"] * 3, "column 'train_visits' is of type string; expected numbers"),
        ("poi_id", [1.5, 2.5, 3.5], "POI ids are of type double; expected text or integers"),
        ("category", [[1]] * 3, "column 'category' is of type list.*expected text"),
    ],
)
def test_wrong_types_are_refused(column: str, values: list[Any], message: str) -> None:
    pois = table([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    changed = {name: pois[name] for name in pois.column_names} | {column: values}
    with pytest.raises(ValueError, match=message):
        read(pa.table(changed))


def test_empty_sources_are_refused(tmp_path: Path) -> None:
    empty = make_pois().slice(0, 0)
    pq.write_table(empty, tmp_path / "pois.parquet")
    for source in (empty, tmp_path / "pois.parquet", make_pois().schema.empty_table()):
        with pytest.raises(ValueError, match=r"holds no usable place \(0 rows\)"):
            read(source)
    with pytest.raises(ValueError, match=r"holds no usable place \(20 rows\)"):
        read(spoilt({"latitude": None}, list(range(20))), quarantine=True)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match="no column 'poi_id'"):
        read(tmp_path / "nothing")
    with pytest.raises(ValueError, match="does not exist"):
        read(tmp_path / "nowhere.parquet")


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_damaged_files_are_named(tmp_path: Path, kept: float) -> None:
    """A file alone, and the second of a folder."""
    folder = tmp_path / "pois"
    folder.mkdir()
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(make_pois(), folder / name)
    whole = (folder / "b.parquet").read_bytes()
    (folder / "b.parquet").write_bytes(whole[: int(kept * len(whole))])
    for source in (folder, folder / "b.parquet"):
        with pytest.raises(
            ValueError, match=r"pois(/b\.parquet)? is (damaged|not readable as Parquet) \(.*write the file anew"
        ):
            read(source)


def test_damage_inside_a_file_is_named(tmp_path: Path) -> None:
    """Zeros in the place of data: the file's end is whole, so it opens."""
    path = tmp_path / "pois.parquet"
    pq.write_table(make_pois(), path, compression="snappy")
    data = bytearray(path.read_bytes())
    data[4:1500] = bytes(1496)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"pois\.parquet is damaged"):
        read(path)


def test_files_of_different_types_are_refused(tmp_path: Path) -> None:
    pq.write_table(table([0.0], [0.0]), tmp_path / "a.parquet")
    pq.write_table(table([0.0], [0.0], poi_id=[[1]]), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="is damaged"):
        read(tmp_path)
