"""The saved form: nothing changes, nothing is copied, damage is found, a failure leaves the old state."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from spacetime_gr import POIIndex
from spacetime_gr.index.columns import BLOCK_COLUMNS, PLACE_COLUMNS
from spacetime_gr.index.storage import FORMAT_VERSION
from tests.spacetime_gr.conftest import make_pois
from tests.spacetime_gr.index.places import table


def later_pois(prefix: str = "q") -> pa.Table:
    """Forty places that open later."""
    pois = make_pois(1, 40)
    return pois.set_column(0, "poi_id", pa.array([f"{prefix}{i}" for i in range(40)]))


def make(scheme: str = "quadtree") -> POIIndex:
    return POIIndex.build(make_pois(), scheme=scheme, max_pois_per_block=8, spare_blocks=5.0)


def make_grown() -> POIIndex:
    return make().add(later_pois()).retire(["p0003", "q7"])


INDEXES: dict[str, Callable[[], POIIndex]] = {
    "quadtree": make,
    "grid": lambda: make("grid"),
    "grown": make_grown,
    "only retired": lambda: make().retire(["p0003"]),
    "one place": lambda: POIIndex.build(table([1.0], [2.0], poi_id=[-(2**63)]), "grid", cell_km=0.3),
    "large text": lambda: POIIndex.build(table([1.0], [2.0], poi_id=pa.array(["ä" * 100], pa.large_string()))),
}


def arrays(index: POIIndex) -> dict[str, Any]:
    """Every array of an index."""
    found = {"rows_by_block": index.rows_by_block, "block_starts": index.block_starts, "retired": index.retired}
    found |= {name: getattr(index.blocks, name) for name in BLOCK_COLUMNS}
    for kind, places in (("base", index.base), ("added", index.added)):
        if places is not None:
            found |= {f"{kind}_{name}": getattr(places, name) for name in PLACE_COLUMNS}
            found |= {f"{kind}_slots": places.ids.slots, f"{kind}_starts": places.ids.starts}
    return found


def same(one: POIIndex, other: POIIndex) -> None:
    """Both are equal bit for bit."""
    for name in ("scheme", "max_pois_per_block", "num_inner", "block_capacity", "category_names", "num_pois"):
        assert getattr(one, name) == getattr(other, name), name
    mine, theirs = arrays(one), arrays(other)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        assert values.dtype == theirs[name].dtype, name
        assert values.tobytes() == theirs[name].tobytes(), name
    assert one.poi_ids.equals(other.poi_ids)


@pytest.mark.parametrize("name", INDEXES)
def test_what_is_loaded_is_what_was_saved(name: str, tmp_path: Path) -> None:
    index = INDEXES[name]()
    index.save(tmp_path / "deep" / "folder")
    loaded = POIIndex.load(tmp_path / "deep" / "folder", verify=True)
    same(loaded, index)
    np.testing.assert_array_equal(loaded.encode(index.poi_ids), index.encode(index.poi_ids))
    loaded.save(tmp_path / "copy")
    same(POIIndex.load(str(tmp_path / "copy"), verify=True), index)


def test_what_is_loaded_is_memory_mapped(tmp_path: Path) -> None:
    """Shared by all processes: neither arrays nor ids are copied."""
    ids = [f"{number:0100d}" for number in range(1000)]
    places = table(np.linspace(0, 9, 1000), np.linspace(0, 9, 1000), poi_id=ids)
    index = POIIndex.build(places, max_pois_per_block=8).add(table([0.0], [0.0], poi_id=["q"])).retire(["q"])
    index.save(tmp_path)
    before = pa.total_allocated_bytes()
    loaded = POIIndex.load(tmp_path)
    loaded.encode(ids)
    assert pa.total_allocated_bytes() - before < 10_000
    for name, values in arrays(loaded).items():
        assert isinstance(values, np.memmap), name
        assert not values.flags.writeable, name


def files(folder: Path) -> list[Path]:
    """All files of a saved index."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_any_damaged_byte_is_found(tmp_path: Path) -> None:
    """The first, the last and some bytes between of every file."""
    index = make_grown()
    index.save(tmp_path)
    rng = np.random.default_rng(0)
    assert len(files(tmp_path)) > 25
    for path in files(tmp_path):
        whole = path.read_bytes()
        for place in {0, len(whole) - 1, *rng.integers(0, len(whole), 6).tolist()}:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=r"damaged|version"):
                POIIndex.load(tmp_path, verify=True)
        path.write_bytes(whole)
    same(POIIndex.load(tmp_path, verify=True), index)


def test_any_changed_fact_of_the_description_is_found(tmp_path: Path) -> None:
    """The sizes in index.json decide what every code means: they are checked at every opening."""
    make_grown().save(tmp_path)
    path = tmp_path / "index.json"
    description = json.loads(path.read_text())
    for name in description:
        others = {key: value for key, value in description.items() if key != name}
        for changed in (others, {**description, name: None}, {**description, name: [1]}):
            path.write_text(json.dumps(changed))
            with pytest.raises(ValueError, match=r"index\.json is damaged"):
                POIIndex.load(tmp_path)
    path.write_text(json.dumps({**description, "num_inner": 16}))
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        POIIndex.load(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", "\xff"]
    + [json.dumps({"format_version": version}) for version in (FORMAT_VERSION, str(FORMAT_VERSION))],
)
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"index\.json is damaged"):
        POIIndex.load(tmp_path)


def test_other_versions_are_refused(tmp_path: Path) -> None:
    make().save(tmp_path)
    path = tmp_path / "index.json"
    for version, advice in ((99, "upgrade spacetime-gr"), (1, "build the index again")):
        # Another version may hold anything beside its number.
        path.write_text(json.dumps({"format_version": version, "anything": []}))
        refusal = f"format version {version}, this release reads {FORMAT_VERSION}; {advice}"
        with pytest.raises(ValueError, match=refusal):
            POIIndex.load(tmp_path)
    with pytest.raises(ValueError, match=r"no POI index here \(index\.json is missing\)"):
        POIIndex.load(tmp_path / "nowhere")


@pytest.mark.parametrize("kept", [None, 0, 10, 100, 130])
def test_missing_and_cut_files_are_named_without_verifying(tmp_path: Path, kept: int | None) -> None:
    make_grown().save(tmp_path)
    for path in files(tmp_path):
        if path.suffix == ".json" or path.match("base-1/block_[!s]*.npy"):  # grown-1 holds the blocks
            continue
        whole = path.read_bytes()
        if kept is None:
            path.unlink()
        elif len(whole) <= 128 or kept >= len(whole):  # nothing but a header
            continue
        else:
            path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match=rf"{path.name} is missing or damaged"):
            POIIndex.load(tmp_path)
        path.write_bytes(whole)


def test_saving_again_writes_no_base(tmp_path: Path) -> None:
    make().save(tmp_path)
    before = {path: path.stat().st_ino for path in files(tmp_path / "base-1")}
    grown = POIIndex.load(tmp_path).add(later_pois())
    grown.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base-1", "grown-1", "index.json"]
    again = POIIndex.load(tmp_path, verify=True).add(later_pois("r")).retire(["p0003"])
    again.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base-1", "grown-2", "index.json"]
    assert {path: path.stat().st_ino for path in files(tmp_path / "base-1")} == before
    same(POIIndex.load(tmp_path, verify=True), again)
    # What was loaded before is still readable: its files are held open.
    assert grown.rows(["q7"]).tolist() == [127]
    # An older state may be put back.
    grown.save(tmp_path)
    same(POIIndex.load(tmp_path, verify=True), grown)


def test_an_index_replaces_another(tmp_path: Path) -> None:
    """Saved into the folder of another index, also of one that was loaded from it and grows."""
    make().save(tmp_path)
    first = POIIndex.load(tmp_path)
    other = POIIndex.build(make_pois(7, 60), max_pois_per_block=4)
    other.save(tmp_path)
    same(POIIndex.load(tmp_path, verify=True), other)
    grown = first.add(later_pois())
    grown.save(tmp_path)
    same(POIIndex.load(tmp_path, verify=True), grown)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_made_anew_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    make().save(tmp_path / "index")
    first = POIIndex.load(tmp_path / "index")
    shutil.rmtree(tmp_path / "index")
    POIIndex.build(make_pois(7, 60), max_pois_per_block=4).save(tmp_path / "index")
    grown = first.add(later_pois())
    grown.save(tmp_path / "index")
    same(POIIndex.load(tmp_path / "index", verify=True), grown)


def test_the_folder_it_came_from_may_be_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removed, or named from another working directory."""
    monkeypatch.chdir(tmp_path)
    index = make()
    index.save("old")
    loaded = POIIndex.load("old")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    loaded.save(tmp_path / "new")
    shutil.rmtree(tmp_path / "old")
    loaded.save(tmp_path / "newer")
    for name in ("new", "newer"):
        same(POIIndex.load(tmp_path / name, verify=True), index)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "base-camp").mkdir()
    (tmp_path / "base-camp" / "notes.txt").write_text("mine")
    (tmp_path / "grown-up.txt").write_text("mine")
    make().save(tmp_path)
    make_grown().save(tmp_path)
    assert (tmp_path / "base-camp" / "notes.txt").read_text() == (tmp_path / "grown-up.txt").read_text() == "mine"
    same(POIIndex.load(tmp_path, verify=True), make_grown())


def no_space(*args: Any, **kwargs: Any) -> None:
    """A full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("failing", ["first array", "later array", "ids", "folder", "description", "index.json"])
def test_a_full_disk_leaves_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    make().save(tmp_path)
    old = POIIndex.load(tmp_path)
    real_save, real_replace, saved = np.save, os.replace, [0]

    def save(*args: Any, **kwargs: Any) -> None:
        saved[0] += 1
        if failing == "first array" or (failing == "later array" and saved[0] % 5 == 0):
            no_space()
        real_save(*args, **kwargs)

    def replace(source: Any, target: Any) -> None:
        if failing == "folder" or (failing == "index.json" and Path(target).name == "index.json"):
            no_space()
        real_replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", save)
        patch.setattr(os, "replace", replace)
        if failing == "ids":
            patch.setattr(pa.ipc, "new_file", no_space)
        if failing == "description":
            patch.setattr(Path, "write_text", no_space)
        for index in (old.add(later_pois()), make_grown()):
            with pytest.raises(
                ValueError, match=r"could not be written .*No space left.*what was there before is kept"
            ):
                index.save(tmp_path)
            same(POIIndex.load(tmp_path, verify=True), old)
    grown = old.add(later_pois())
    grown.save(tmp_path)
    same(POIIndex.load(tmp_path, verify=True), grown)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_killed_save_leaves_the_old_state_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the last folder and index.json; the next save clears up."""
    make().save(tmp_path)
    old = POIIndex.load(tmp_path)
    real_replace = os.replace

    def replace(source: Any, target: Any) -> None:
        if Path(target).name == "index.json":
            raise KeyboardInterrupt
        real_replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        for index in (old.add(later_pois()), make_grown()):
            with pytest.raises(KeyboardInterrupt):
                index.save(tmp_path)
    same(POIIndex.load(tmp_path, verify=True), old)
    grown = old.add(later_pois())
    grown.save(tmp_path)
    same(POIIndex.load(tmp_path, verify=True), grown)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_in_the_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ValueError, match="could not be written"):
        make().save(tmp_path / "taken")


def test_nothing_is_pickled(tmp_path: Path) -> None:
    make_grown().save(tmp_path)
    assert {path.suffix for path in files(tmp_path)} == {".npy", ".arrow", ".json"}
    for path in files(tmp_path):
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def test_files_take_at_most_forty_bytes_a_place_beside_the_ids(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = 20_000
    places = table(rng.normal(40, 1, size), rng.normal(20, 1, size), poi_id=np.arange(size))
    POIIndex.build(places).save(tmp_path)
    total = sum(path.stat().st_size for path in files(tmp_path) if path.suffix == ".npy")
    assert total <= 40 * size
