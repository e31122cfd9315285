"""Saved tokenizers: whole or refused, whatever happened to them."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from spacetime_gr import POIIndex, SpacetimeGRTokenizer

CONFIG = "tokenizer_config.json"


def test_a_saved_tokenizer_says_what_it_is(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    right = SpacetimeGRTokenizer(tokenizer.index, ["klicken", "gehen zu ☂"], "right")
    right.save_pretrained(tmp_path / "a" / "b")
    loaded = SpacetimeGRTokenizer.from_pretrained(tmp_path / "a", subfolder="b")
    assert repr(loaded) == repr(right)
    assert SpacetimeGRTokenizer.from_pretrained(tmp_path / "a" / "b", padding_side="left").padding_side == "left"
    description = json.loads((tmp_path / "a" / "b" / CONFIG).read_text(encoding="utf-8"))
    assert description["tokenizer_class"] == "SpacetimeGRTokenizer"
    assert description["pad_token"] == loaded.pad_token == "<pad>"
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["poi_index", CONFIG]


def test_a_grown_tokenizer_replaces_the_one_it_came_from(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = SpacetimeGRTokenizer.from_pretrained(tmp_path)
    new = pa.table({"poi_id": ["new"], "latitude": [40.7], "longitude": [-74.0]})
    SpacetimeGRTokenizer(loaded.index.add(new), loaded.actions).save_pretrained(tmp_path)
    again = SpacetimeGRTokenizer.from_pretrained(tmp_path)
    history = {"poi_id": ["new"], "timestamp": [5]}
    assert again.decode(again(history, unknown="error")["input_ids"])[0]["poi_id"] == "new"


@pytest.mark.parametrize("moment", ["index", "config"])
@pytest.mark.parametrize("kind", ["fresh", "same", "other"])
def test_a_save_that_fails_never_looks_complete(
    tokenizer: SpacetimeGRTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, kind: str
) -> None:
    """A disk that is full while the index or the description is written, in a new folder or over an old tokenizer."""
    if kind != "fresh":
        actions = tokenizer.actions if kind == "same" else ["stay", "go"]
        SpacetimeGRTokenizer(tokenizer.index, actions).save_pretrained(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if moment == "index":
        monkeypatch.setattr("spacetime_gr.index.storage.np.save", full)
    else:
        monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ValueError, match="No space left on device"):
        tokenizer.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*"))
    if kind == "same" or (kind == "other" and moment == "config"):
        assert len(SpacetimeGRTokenizer.from_pretrained(tmp_path).actions) == 2
    else:
        with pytest.raises(ValueError, match="is missing; expected a folder written by save_pretrained"):
            SpacetimeGRTokenizer.from_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert SpacetimeGRTokenizer.from_pretrained(tmp_path).actions == tokenizer.actions


def test_an_interrupted_save_leaves_no_mixture(
    tokenizer: SpacetimeGRTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the index and the description, where these belong to other tokenizers than before."""
    SpacetimeGRTokenizer(tokenizer.index, ["stay"]).save_pretrained(tmp_path)
    replace = os.replace

    def stop(source: str, target: Path) -> None:
        if Path(target).name == CONFIG:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{CONFIG} is missing"):
        SpacetimeGRTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"tokenizer_class": "SpacetimeGRTokenizer", "format_version": 1}', "is damaged"),
        ('{"tokenizer_class": "BertTokenizer"}', "holds a BertTokenizer, expected SpacetimeGRTokenizer"),
        ("{}", "holds a None"),
        (
            '{"tokenizer_class": "SpacetimeGRTokenizer", "format_version": 9, "actions": [], "padding_side": "left"}',
            "tokenizer format 9, this release reads up to 1; upgrade",
        ),
    ],
)
def test_damage_is_one_line(tokenizer: SpacetimeGRTokenizer, tmp_path: Path, text: str, message: str) -> None:
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / CONFIG).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        SpacetimeGRTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_is_no_folder_is_said(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a folder nor the name of a hub repository"):
        SpacetimeGRTokenizer.from_pretrained(tmp_path / "nowhere")
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "poi_index" / "index.json").unlink()
    with pytest.raises(ValueError, match="no POI index here"):
        SpacetimeGRTokenizer.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; give a folder"):
        tokenizer.save_pretrained(tmp_path / "file")


def test_the_index_is_opened_not_read(tokenizer: SpacetimeGRTokenizer, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    index = SpacetimeGRTokenizer.from_pretrained(tmp_path).index
    assert isinstance(index, POIIndex)
    assert index.base.codes.flags.writeable is False
    assert index.base.codes.base is not None
