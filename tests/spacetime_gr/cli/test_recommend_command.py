"""The recommend command: from a history file to a table and JSON, and what it says to wrong input."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from spacetime_gr import POIIndex, SpacetimeGRTokenizer
from spacetime_gr.cli.main import app
from tests.spacetime_gr.conftest import make_pois
from tests.spacetime_gr.test_modeling_spacetime_gr import make_model

WHEN = "2012-06-20T10:00:00Z"


@pytest.fixture(scope="module")
def run(tokenizer: SpacetimeGRTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with an untrained model."""
    folder = tmp_path_factory.mktemp("run")
    make_model(tokenizer).save_pretrained(folder / "export")
    tokenizer.save_pretrained(folder / "export")
    return folder


@pytest.fixture
def history(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> Path:
    """Three actions, one of them at a place that nobody knows, out of order."""
    ids = tokenizer.index.poi_ids.take([3, 40]).to_pylist()
    frame = pd.DataFrame(
        {
            "poi_id": [ids[1], "nowhere", ids[0]],
            "timestamp": ["2012-06-20T09:00:00Z", "2012-06-19T09:00:00Z", "2012-06-18T09:00:00Z"],
            "tz_offset_minutes": -240,
        }
    )
    frame.to_csv(tmp_path / "history.csv", index=False)
    return tmp_path / "history.csv"


def call(*arguments: object) -> tuple[int, str, BaseException | None]:
    """Exit code, output and error of the command."""
    result = CliRunner().invoke(app, ["recommend", *map(str, arguments)])
    return result.exit_code, result.output, result.exception


def test_table_and_json(run: Path, history: Path, tmp_path: Path) -> None:
    file = tmp_path / "out" / "places.json"
    code, output, error = call(
        run,
        "--history",
        history,
        "--at",
        WHEN,
        "--lat",
        40.7,
        "--lon",
        -74.0,
        "-k",
        5,
        "--json",
        file,
        "--user-id",
        "7",
    )
    assert (code, error) == (0, None)
    assert "3 actions read, 1 at unknown places" in output
    places = json.loads(file.read_text())["places"]
    assert [place["rank"] for place in places] == [1, 2, 3, 4, 5]
    probabilities = [place["log_prob"] for place in places]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(place["distance_km"] < 100 for place in places)


def test_formats_and_times_agree(run: Path, history: Path, tmp_path: Path) -> None:
    """CSV, gzipped CSV, JSONL and Parquet, ISO and unix seconds: the same places."""
    frame = pd.read_csv(history)
    seconds = pd.to_datetime(frame["timestamp"], utc=True).astype("datetime64[s, UTC]").astype("int64")
    frame.to_csv(tmp_path / "h.csv.gz", index=False)
    frame.to_json(tmp_path / "h.jsonl", orient="records", lines=True)
    frame.assign(timestamp=seconds).to_parquet(tmp_path / "h.parquet")
    answers = []
    for name, at in (("history.csv", WHEN), ("h.csv.gz", WHEN), ("h.jsonl", WHEN), ("h.parquet", "1340186400")):
        code, _, error = call(run, "--history", tmp_path / name, "--at", at, "--json", tmp_path / "a.json")
        assert (code, error) == (0, None)
        answers.append(json.loads((tmp_path / "a.json").read_text()))
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda frame: frame.drop(columns="timestamp"), (), "history.csv lacks the column(s) timestamp; it has poi_id"),
        (lambda frame: frame.assign(poi_id=[None, "a", "b"]), (), "history.csv, row 2 (poi_id='', timestamp='2012-06"),
        (
            lambda frame: frame.assign(timestamp="soon"),
            (),
            "timestamp='soon', tz_offset_minutes='-240'): unparsable time",
        ),
        (lambda frame: frame.assign(mode="flying"), (), "unknown mode"),
        (lambda frame: frame, ("--at", "tomorrow"), "--at 'tomorrow' is no time"),
        (lambda frame: frame, ("--lat", 40.7), "--lat and --lon go together"),
        (lambda frame: frame, ("--lat", 95, "--lon", 3), "--lat 95 --lon 3: expected degrees"),
        (lambda frame: frame, ("--lat", "nan", "--lon", 3), "expected degrees"),
        (lambda frame: frame, ("--within-km", 3), "--within-km 3: expected a distance above 0, and --lat"),
        (lambda frame: frame, ("--category", "volcano"), "unknown categories"),
        (lambda frame: frame, ("--min-novelty-days", 0), "--min-novelty-days 0: expected a number of days above 0"),
        (lambda frame: frame, ("--within", "none.geojson"), "--within none.geojson does not exist"),
        (lambda frame: frame.assign(action="teleport"), (), "unknown action 'teleport'"),
    ],
)
def test_wrong_input(run: Path, history: Path, change: object, arguments: tuple, message: str) -> None:
    change(pd.read_csv(history)).to_csv(history, index=False)  # type: ignore[operator]
    code, _, error = call(run, "--history", history, "--at", WHEN, *arguments)
    assert code == 1
    assert isinstance(error, ValueError)
    assert message in str(error)


def test_within_a_polygon_and_new(run: Path, history: Path, tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    """Only places north of 41 degrees, and not the one that was visited a day before."""
    corners = [[-75, 41], [-73, 41], [-73, 42], [-75, 42], [-75, 41]]
    feature = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [corners]}}
    fence, answer = tmp_path / "fence.geojson", tmp_path / "answer.json"
    fence.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    index = tokenizer.index
    north = index.poi_ids.filter(index.coordinates(range(index.num_pois))[0] > 41).to_pylist()
    frame = pd.read_csv(history)
    frame["poi_id"] = north[:3]  # an hour, one day and two days ago
    frame.to_csv(history, index=False)
    arguments = ("--history", history, "--at", WHEN, "--within", fence, "-k", 200, "--json", answer)
    for more, missing in (((), set()), (("--min-novelty-days", 1.5), set(north[:2]))):
        code, output, error = call(run, *arguments, *more)
        assert (code, error) == (0, None)
        assert "(of blocks with allowed places)" in output
        assert {place["poi_id"] for place in json.loads(answer.read_text())["places"]} == set(north) - missing


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "fence.geojson is no JSON"),
        ("[[[0, 0], [0, 1], [1, 1]]]", "fence.geojson holds a list; expected a GeoJSON object"),
        ('{"type": "Point", "coordinates": [0, 0]}', "fence.geojson: within is GeoJSON of type 'Point'"),
    ],
)
def test_a_file_without_polygons_is_refused(run: Path, history: Path, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "fence.geojson").write_text(text)
    code, _, error = call(run, "--history", history, "--at", WHEN, "--within", tmp_path / "fence.geojson")
    assert (code, type(error)) == (1, ValueError)
    assert message in str(error)


def test_a_request_before_the_last_action_is_refused(run: Path, history: Path) -> None:
    code, _, error = call(run, "--history", history, "--at", "2012-06-19T12:00:00Z")
    assert code == 1
    assert "1 actions lie after" in str(error)


def test_an_empty_history_is_one(run: Path, history: Path) -> None:
    history.write_text("poi_id,timestamp\n")
    code, output, error = call(run, "--history", history, "--at", WHEN)
    assert (code, error) == (0, None)
    assert "0 actions read" in output


def test_ids_are_no_markup(tokenizer: SpacetimeGRTokenizer, history: Path, tmp_path: Path) -> None:
    pois = make_pois()
    names = [f"[/{number}]" for number in range(len(pois))]
    index = POIIndex.build(pois.set_column(0, "poi_id", [names]), max_pois_per_block=8)
    odd = SpacetimeGRTokenizer(index, tokenizer.actions)
    make_model(odd).save_pretrained(tmp_path / "export")
    odd.save_pretrained(tmp_path / "export")
    code, output, error = call(tmp_path, "--history", history, "--at", WHEN)
    assert (code, error) == (0, None)
    assert "[/" in output


def test_damaged_weights_are_named(tokenizer: SpacetimeGRTokenizer, history: Path, tmp_path: Path) -> None:
    make_model(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    _, _, error = call(tmp_path, "--history", history, "--at", WHEN)
    assert isinstance(error, ValueError)
    assert f"the weights in {tmp_path} are damaged" in str(error)


def test_missing_files(run: Path, tmp_path: Path) -> None:
    _, _, error = call(run, "--history", tmp_path / "none.csv", "--at", WHEN)
    assert "none.csv does not exist" in str(error)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 cut short")
    _, _, error = call(run, "--history", tmp_path / "broken.parquet", "--at", WHEN)
    assert "broken.parquet is not a complete Parquet file" in str(error)
    _, _, error = call(tmp_path, "--history", tmp_path / "none.csv", "--at", WHEN)
    assert f"spacetime-gr export {tmp_path} --out FOLDER" in str(error)
