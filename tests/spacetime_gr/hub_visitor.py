"""What a person does with a hub, as a process of its own: the client reads its address when it is imported."""

import os
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

import spacetime_gr
from spacetime_gr import SpacetimeGRForCausalLM, SpacetimeGRTokenizer

TOKEN = os.environ.pop("DUMMY_TOKEN")


def main(folder: Path) -> None:
    """Push a model and its tokenizer, pull them by every door, grow, push again."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = SpacetimeGRTokenizer.from_pretrained(folder)
    model = SpacetimeGRForCausalLM.from_pretrained(folder).eval()
    history = {"poi_id": tokenizer.index.poi_ids[:6].to_pylist(), "timestamp": np.arange(6) * 4000 + 1_700_000_000}
    expected = tokenizer(history, return_tensors="pt")
    want = model.recommend(tokenizer, history, when=1_700_100_000)

    # a tokenizer alone
    commit = tokenizer.push_to_hub("someone/tokenizer", token=TOKEN, private=True)
    assert commit.commit_message == "Upload tokenizer"
    for door in (SpacetimeGRTokenizer, AutoTokenizer):
        pulled = door.from_pretrained("someone/tokenizer", token=TOKEN)
        assert isinstance(pulled, spacetime_gr.SpacetimeGRTokenizer)
        assert all(torch.equal(values, expected[name]) for name, values in pulled(history, return_tensors="pt").items())
        assert not any(TOKEN in str(value) for value in vars(pulled).values())

    # a model, and its tokenizer beside it
    model.push_to_hub("someone/model", token=TOKEN)
    tokenizer.push_to_hub("someone/model", token=TOKEN, commit_message="The tokenizer")
    assert type(AutoConfig.from_pretrained("someone/model", token=TOKEN)).__name__ == "SpacetimeGRConfig"
    pulled_model = AutoModelForCausalLM.from_pretrained("someone/model", token=TOKEN).eval()
    pulled = AutoTokenizer.from_pretrained("someone/model", token=TOKEN)
    got = pulled_model.recommend(pulled, history, when=1_700_100_000)
    assert got[0]["poi_id"] == want[0]["poi_id"]

    # a grown pair on a branch; the main branch stays
    new = pa.table({"poi_id": ["new"], "latitude": [40.7], "longitude": [-74.0]})
    grown = SpacetimeGRTokenizer(pulled.index.add(new), pulled.actions)
    pulled_model.grow(grown)
    pulled_model.push_to_hub("someone/model", token=TOKEN, revision="grown")
    grown.push_to_hub("someone/model", token=TOKEN, revision="grown")
    for revision, size in (("main", tokenizer.index.num_pois), ("grown", tokenizer.index.num_pois + 1)):
        again = AutoTokenizer.from_pretrained("someone/model", token=TOKEN, revision=revision)
        assert again.index.num_pois == size
        assert SpacetimeGRTokenizer.from_pretrained(
            "someone/model", token=TOKEN, revision=revision, local_files_only=True
        ).index.num_pois == size  # fmt: skip
        model_again = AutoModelForCausalLM.from_pretrained("someone/model", token=TOKEN, revision=revision)
        assert model_again.config.num_pois == size
        model_again.recommend(again, history, when=1_700_100_000)

    # save_pretrained with an upload, and no way in without the token
    tokenizer.save_pretrained(folder.parent / "saved", push_to_hub=True, repo_id="someone/saved", token=TOKEN)
    assert SpacetimeGRTokenizer.from_pretrained("someone/saved", token=TOKEN).actions == tokenizer.actions
    with pytest.raises(OSError, match="someone/saved"):
        SpacetimeGRTokenizer.from_pretrained("someone/saved", cache_dir=folder.parent / "another_cache")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
