"""Tokenizers as folders and hub repositories: `tokenizer_config.json` beside `poi_index/`."""

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitInfo, HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError

from spacetime_gr.index import POIIndex
from spacetime_gr.vocabulary import SPECIAL_TOKENS

if TYPE_CHECKING:
    from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer

FORMAT_VERSION = 1
CONFIG_FILE = "tokenizer_config.json"
INDEX_FOLDER = "poi_index"


def save(tokenizer: "SpacetimeGRTokenizer", folder: Path) -> None:
    """See `SpacetimeGRTokenizer.save_pretrained`.

    The description comes last: a folder without it holds no tokenizer. One that says something else is removed first,
    so that it never stands beside an index that is not its own.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to save the tokenizer in")
    description = {
        "tokenizer_class": type(tokenizer).__name__,
        "format_version": FORMAT_VERSION,
        "actions": tokenizer.actions,
        "padding_side": tokenizer.padding_side,
        **{f"{text.strip('<>')}_token": text for text in SPECIAL_TOKENS},
    }
    text = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    file, unfinished = folder / CONFIG_FILE, folder / f".{CONFIG_FILE}.unfinished"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        if file.exists() and file.read_bytes() != text.encode():
            file.unlink()
        tokenizer.index.save(folder / INDEX_FOLDER)
        os.replace(unfinished, file)
    except OSError as error:
        raise ValueError(f"{folder}: the tokenizer could not be written ({error}); free space or change it") from error
    finally:
        unfinished.unlink(missing_ok=True)


def find(name: str | Path, subfolder: str, **download: Any) -> Path:
    """The folder of a saved tokenizer, downloaded if `name` is no folder.

    Raises:
        ValueError: neither a folder nor the name of a repository.
    """
    if Path(name).is_dir():
        return Path(name) / subfolder
    inside = f"{subfolder}/" if subfolder else ""
    # A star stands for slashes too: the index has sub-folders.
    patterns = [f"{inside}{CONFIG_FILE}", f"{inside}{INDEX_FOLDER}/*"]
    try:
        return Path(snapshot_download(str(name), allow_patterns=patterns, **download)) / subfolder
    except HFValidationError as error:
        raise ValueError(f"{name} is neither a folder nor the name of a hub repository") from error


def load(folder: Path, class_name: str) -> tuple[POIIndex, dict[str, Any]]:
    """The index (memory-mapped) and the description of a saved tokenizer.

    Raises:
        ValueError: the folder holds no tokenizer of this class, a damaged one, or one of a later format.
    """
    file = folder / CONFIG_FILE
    if not file.is_file():
        raise ValueError(f"{folder}: {CONFIG_FILE} is missing; expected a folder written by save_pretrained")
    try:
        description = json.loads(file.read_text(encoding="utf-8"))
        found = description.get("tokenizer_class")
        if found == class_name:
            version, _, _ = (description[name] for name in ("format_version", "actions", "padding_side"))
    except (ValueError, AttributeError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); copy it anew or save the tokenizer again") from error
    if found != class_name:
        raise ValueError(f"{folder}: holds a {found}, expected {class_name}")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{folder}: tokenizer format {version}, this release reads up to {FORMAT_VERSION}; upgrade spacetime-gr"
        )
    return POIIndex.load(folder / INDEX_FOLDER), description


def push(
    tokenizer: "SpacetimeGRTokenizer",
    repo_id: str,
    commit_message: str,
    commit_description: str | None,
    private: bool | None,
    token: bool | str | None,
    revision: str | None,
    create_pr: bool,
) -> CommitInfo:
    """See `SpacetimeGRTokenizer.push_to_hub`."""
    api = HfApi(token=token, library_name="spacetime-gr")
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision is not None and not revision.startswith("refs/"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save(tokenizer, Path(folder))
        # Files of an older index, whose names differ, go with the same commit.
        return api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            delete_patterns=f"{INDEX_FOLDER}/*",
        )
