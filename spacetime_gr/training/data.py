"""What a run reads: the tokenizer of its corpora, and its stream."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spacetime_gr.training.config import PretrainConfig

if TYPE_CHECKING:
    from data_pipelines import TokenStream


def load_tokenizer(config: PretrainConfig) -> Any:
    """The tokenizer of the prepared folder, or the one that all prepared folders share.

    Raises:
        ValueError: a folder holds none, or another one than the first.
    """
    from data_pipelines import PreparedFolder
    from spacetime_gr import SpacetimeGRTokenizer

    folders = [PreparedFolder(corpus.path).tokenizer_path for corpus in config.data.corpora]
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is missing; run `spacetime-gr prepare --overwrite` for data.path={folder.parent}"
            )
    if len(folders) > 1:
        first = _fingerprint(folders[0])
        for folder in folders[1:]:
            for what, found in _fingerprint(folder).items():
                if found != first[what]:
                    raise ValueError(
                        f"data.path: the tokenizers of {folder.parent} and {folders[0].parent} differ in their {what}; "
                        "corpora of one run share POIs, blocks and actions: prepare one of them with "
                        f"`spacetime-gr prepare --like {folders[0].parent}`"
                    )
    return SpacetimeGRTokenizer.from_pretrained(folders[0])


def open_stream(
    config: PretrainConfig, tokenizer: Any, rank: int = 0, world_size: int = 1, split: str = "train"
) -> "TokenStream":
    """The stream of a run. Held-out splits are read from the corpora that have them, without workers and blind actions.

    Raises:
        ValueError: no corpus has the split, or the settings do not fit the data.
    """
    from data_pipelines import TokenStream

    data, training = config.data, split == "train"
    corpora = data.corpora if training else corpora_with(config, split)
    if not corpora:
        folders = ", ".join(str(corpus.path) for corpus in data.corpora)
        raise ValueError(f"{folders}: there is no {split} part; choose another split or prepare one with --split")
    return TokenStream(
        corpora,
        tokenizer,
        num_lanes=data.num_lanes,
        row_length=data.row_length,
        seed=config.train.seed,
        rank=rank,
        world_size=world_size,
        num_workers=data.num_workers if training else 0,
        cleaning=data.cleaning,
        curriculum=data.curriculum if training else None,
        blind_share=data.blind_share if training else 0.0,
        split=split,
    )


def corpora_with(config: PretrainConfig, split: str) -> tuple[Any, ...]:
    """The corpora of a run that have sequences in a split."""
    from data_pipelines import PreparedFolder

    return tuple(corpus for corpus in config.data.corpora if PreparedFolder(corpus.path).files(split))


def _fingerprint(folder: Path) -> dict[str, Any]:
    """Action names, and checksums of the files of the POI index."""
    try:
        description = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        index = json.loads((folder / "poi_index" / "index.json").read_text(encoding="utf-8"))
        sums = {name.rsplit("/", 1)[-1]: value for name, value in index["sha256"].items()}
        return {"actions": description["actions"], "POI index": sums}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder} is damaged ({error!r}); run `spacetime-gr prepare --overwrite`") from error
