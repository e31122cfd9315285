"""SpacetimeGRTokenizer: actions to aligned token rows `u, block, inner, a`, and back.

One implementation makes the tokens of training streams, evaluation and serving: `ActionEncoder.encode_actions`. The
tokenizer prepares its input and pads its output; the parts stand in `spacetime_gr.tokens`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import CommitInfo
from numpy.typing import ArrayLike, NDArray
from transformers import BatchEncoding

from spacetime_gr.index import POIIndex
from spacetime_gr.tokens import storage
from spacetime_gr.tokens.decoding import actions_of, rows_of
from spacetime_gr.tokens.encoder import ActionEncoder
from spacetime_gr.tokens.histories import Arrays, History, as_batch, flat_columns
from spacetime_gr.tokens.padding import joined, padded
from spacetime_gr.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, TOKENS_PER_ACTION, UNK


class SpacetimeGRTokenizer(ActionEncoder):
    """Turns histories of actions into model inputs.

    Fields, all aligned with `input_ids`: `labels` (-100 where nothing is to be learnt), `user_hash` (31-bit hash of the
    person, 0 unknown; at u), `user_block` (id of the block token where the person stood, 0 unknown; at u), `gap`
    (bucket of the time since the last action; at u), `category` (1 + category id; at inner), `cell` (1 + position in
    the block; at inner), `local_time` (local seconds since 1970, 0 unknown).

    Args:
        index: the POI index.
        actions: names of the action types; their order gives the ids.
        padding_side: `left` (default, as for generation) or `right`.
    """

    def __init__(self, index: POIIndex, actions: Sequence[str], padding_side: str = "left") -> None:
        super().__init__(index, actions)
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side is {padding_side!r}; expected 'left' or 'right'")
        self.padding_side = padding_side
        self.pad_token, self.unk_token, self.bos_token, self.eos_token = SPECIAL_TOKENS
        self.pad_token_id, self.unk_token_id, self.bos_token_id, self.eos_token_id = PAD, UNK, BOS, EOS

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_pois={self.index.num_pois}, vocab_size={self.vocab_size}, "
            f"actions={self.actions}, padding_side={self.padding_side!r})"
        )

    def __len__(self) -> int:
        return self.vocabulary.size

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.vocabulary.size

    # ---------------------------------------------------------------- histories to batches

    def __call__(
        self,
        histories: History | Sequence[History],
        return_tensors: str | None = None,
        max_actions: int | None = None,
        unknown: str = "mark",
        padding: bool = True,
    ) -> BatchEncoding:
        """Encode one history or a batch of them.

        Args:
            histories: one history or a list of them. A history is a dict of columns, or a list of actions (dicts of
                the same names, in time order): `poi_id` (or `poi_row`) and `timestamp` (unix seconds, ISO strings or
                datetimes, UTC) required; optional `action` (names; default the first), `tz_offset_minutes`,
                `user_latitude` and `user_longitude` (degrees), `mode` (names or ids), and the scalar `user_hash`.
                Scalars are repeated; other names are ignored. A list of nothing but actions is one history.
            return_tensors: `pt`, `np` or None (lists).
            max_actions: keep only the last so many actions of each history; their tokens do not change.
            unknown: `mark` reads places that the index does not know as `<unk>`, which is context and never
                supervised; `error` refuses them by name.
            padding: pad to the longest on `padding_side`; False gives lists of their own lengths, as `pad` takes them.

        Returns:
            `input_ids`, `attention_mask`, `position_ids`, `labels` and the side inputs, int64 (batch, longest). One
            history as lists (no `return_tensors`) comes without the batch dimension.

        Raises:
            ValueError: a history cannot be read, is not in time order, or an argument is out of range.
        """
        batch, single = as_batch(histories)
        columns, offsets = flat_columns(batch, self.index, self.actions, unknown)
        tokens = self.encode_actions(columns, offsets)
        flat = {name: values.reshape(-1) for name, values in tokens.items()}
        encoded = self._batch(flat, offsets * TOKENS_PER_ACTION, max_actions, 0, self.padding_side)
        if return_tensors is not None:
            if not padding and not encoded["attention_mask"].all():
                raise ValueError("padding=False leaves lists of several lengths; pass padding=True to get tensors")
            return BatchEncoding(encoded, tensor_type=return_tensors)
        lists = {name: values.tolist() for name, values in encoded.items()}
        if not padding:
            real = encoded["attention_mask"].astype(bool)
            lists = {
                name: [row[mask].tolist() for row, mask in zip(values, real, strict=True)]
                for name, values in encoded.items()
            }
        return BatchEncoding({name: rows[0] for name, rows in lists.items()} if single else lists)

    def columns(
        self, histories: History | Sequence[History], unknown: str = "mark"
    ) -> tuple[Arrays, NDArray[np.int64]]:
        """Flat columns and offsets, as `encode_actions` takes them, of histories; arguments as for the call."""
        return flat_columns(as_batch(histories)[0], self.index, self.actions, unknown)

    def pad(
        self,
        encoded_inputs: Sequence[Mapping[str, Any]] | Mapping[str, Any],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Encodings of single histories as one batch, as `DataCollatorWithPadding` asks for.

        Args:
            encoded_inputs: what the call gave for each history (lists or arrays without a batch dimension), or a dict
                of lists of these.
            padding: True or `longest`; `max_length` pads to `max_length` tokens where all are shorter.
            max_length: tokens per row for `padding="max_length"`.
            pad_to_multiple_of: round the row length up.
            return_tensors: `pt`, `np` or None (lists).

        Returns:
            The fields that were given, `attention_mask` and `position_ids`, shape (batch, row length).

        Raises:
            ValueError: encodings have unknown fields or differ in theirs, or an argument is out of range.
        """
        if padding not in (True, "longest", "max_length") or (padding == "max_length") != (max_length is not None):
            raise ValueError(
                f"padding={padding!r}, max_length={max_length}; expected True or 'longest', or 'max_length' with one"
            )
        if isinstance(encoded_inputs, Mapping):
            names = list(encoded_inputs)
            rows = zip(*(encoded_inputs[name] for name in names), strict=True)
            encoded_inputs = [dict(zip(names, row, strict=True)) for row in rows]
        flat, lengths = joined(encoded_inputs, self.pad_values)
        flat = {name: values for name, values in flat.items() if name not in ("attention_mask", "position_ids")}
        width = max(int(lengths.max(initial=0)), max_length or 0)
        width += -width % (pad_to_multiple_of or 1)
        batch = padded(flat, np.cumsum(lengths) - lengths, lengths, self.pad_values, self.padding_side, width)
        if return_tensors is None:
            return BatchEncoding({name: values.tolist() for name, values in batch.items()})
        return BatchEncoding(batch, tensor_type=return_tensors)

    def _batch(
        self, flat: Arrays, offsets: NDArray[np.int64], max_actions: int | None, extra: int, side: str
    ) -> Arrays:
        """Sequences of tokens, cut to their last `max_actions` actions (and `extra` tokens), as one padded batch."""
        least = 0 if extra else 1
        if max_actions is not None and max_actions < least:
            raise ValueError(f"max_actions is {max_actions}; expected at least {least}, or None for whole histories")
        starts, ends = offsets[:-1], offsets[1:]
        if max_actions is not None:
            starts = np.maximum(starts, ends - max_actions * TOKENS_PER_ACTION - extra)
        return padded(flat, starts, ends - starts, self.pad_values, side)

    def encode_requests(
        self,
        columns: Mapping[str, NDArray[Any]],
        offsets: NDArray[np.int64],
        when: ArrayLike,
        tz_offset_minutes: ArrayLike = 0,
        where: ArrayLike | None = None,
        mode: ArrayLike | None = None,
        blind: bool = False,
        max_actions: int | None = None,
        return_tensors: str | None = "pt",
    ) -> BatchEncoding:
        """Histories followed by the u token of a request, left-padded: what `recommend` and the evaluation feed.

        Args:
            columns, offsets: histories, as for `encode_actions`.
            when: time of each request, unix seconds UTC, shape (num_sequences,).
            tz_offset_minutes: local time zone at each request.
            where: latitude and longitude of the person at the request, shape (num_sequences, 2); NaN or None: the place
                of the last action.
            mode: mode id at each request; default inferred.
            blind: hide the time of the request.
            max_actions: keep only the last so many actions of the history.
        """
        num_sequences = len(offsets) - 1
        ends = offsets[1:]
        new_offsets = offsets + np.arange(num_sequences + 1)

        def append(name: str, values: ArrayLike) -> NDArray[Any]:
            return np.insert(np.asarray(columns[name]), ends, values)

        when = np.broadcast_to(np.asarray(when, np.int64), (num_sequences,))
        extended: Arrays = {
            "poi_row": append("poi_row", -1),
            "action": append("action", 0),
            "timestamp": append("timestamp", when),
            "tz_offset_minutes": append("tz_offset_minutes", tz_offset_minutes),
        }
        if "user_hash" in columns:
            extended["user_hash"] = np.asarray(columns["user_hash"])
        if where is not None or "user_latitude" in columns:
            point = np.full((num_sequences, 2), np.nan) if where is None else np.asarray(where, np.float64)
            for axis, name in enumerate(("user_latitude", "user_longitude")):
                past = columns.get(name, np.full(int(offsets[-1]), np.nan))
                extended[name] = np.insert(np.asarray(past, np.float64), ends, point[:, axis])
        requests = new_offsets[1:] - 1
        if "mode" in columns or mode is not None:
            # A mode given for one side only is inferred for the other: -1 asks for that.
            extended["mode"] = (
                np.insert(np.asarray(columns["mode"], np.int64), ends, -1)
                if "mode" in columns
                else -np.ones(len(extended["poi_row"]), np.int64)
            )
            if mode is not None:
                extended["mode"][requests] = np.asarray(mode)
        tokens = self.encode_actions(extended, new_offsets)
        if blind:
            mask = np.zeros(len(extended["poi_row"]), bool)
            mask[requests] = True
            self.blind(tokens, mask)
        keep = np.ones((len(extended["poi_row"]), TOKENS_PER_ACTION), bool)
        keep[requests, 1:] = False
        flat = {name: values[keep] for name, values in tokens.items()}
        token_offsets = offsets * TOKENS_PER_ACTION + np.arange(num_sequences + 1)
        batch = self._batch(flat, token_offsets, max_actions, extra=1, side="left")
        if return_tensors is None:
            return BatchEncoding({name: values.tolist() for name, values in batch.items()})
        return BatchEncoding(batch, tensor_type=return_tensors)

    # ---------------------------------------------------------------- tokens to actions

    def decode(self, token_ids: ArrayLike | Sequence[ArrayLike]) -> list[Any]:
        """Readable actions of one row of token ids, or of each row of a batch.

        Padding, `<bos>` and `<eos>` are skipped wherever they stand. The rest are whole actions u, block, inner, a; the
        last may be cut off after any token (a request ends with its u): what it lacks is None.

        Args:
            token_ids: shape (length,) or (batch, length), or a list of rows; lists, arrays or tensors of any device.

        Returns:
            Per row one dict per action: `poi_id` (None if the place is unknown, cut off, or the pair names none: a
            spare block, an inner id that the block does not have; a retired place has its id), `action`, `mode`,
            `hour_of_week` (local, 0 is Monday 00:00; None if blind). For one row its list, for a batch a list of lists.

        Raises:
            ValueError: a token stands where another type is due, or is no id of the vocabulary.
        """
        rows, single = rows_of(token_ids)
        kept = [row[~np.isin(row, (PAD, BOS, EOS))].astype(np.int64) for row in rows]
        actions = actions_of(kept, self.index, self.vocabulary, self.actions)
        return actions[0] if single else actions

    def batch_decode(self, token_ids: ArrayLike | Sequence[ArrayLike]) -> list[list[dict[str, Any]]]:
        """Readable actions of each row of a batch; see `decode`."""
        return self.decode(token_ids)

    # ---------------------------------------------------------------- storage

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `tokenizer_config.json` and `poi_index/`; with `push_to_hub` also upload them.

        A save that fails leaves a folder that either holds the old tokenizer or is refused by `from_pretrained`.

        Args:
            save_directory: made if it does not exist.
            push_to_hub: upload to `repo_id` (default the folder's name).
            kwargs: arguments of `push_to_hub`.

        Raises:
            ValueError: the folder cannot be written.
        """
        storage.save(self, Path(save_directory))
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        token: bool | str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        subfolder: str = "",
        padding_side: str | None = None,
        **kwargs: Any,
    ) -> "SpacetimeGRTokenizer":
        """Open a saved tokenizer from a folder or a hub repository; its index is memory-mapped.

        Args:
            pretrained_model_name_or_path: a folder, or the name of a repository; of a model or of a tokenizer alone.
            revision: branch, tag or commit of the repository.
            token: for a private repository; True for the one of `hf auth login`. It is not kept.
            cache_dir, force_download, local_files_only: as for any Hugging Face class.
            subfolder: where in the folder or repository the tokenizer lies.
            padding_side: in place of the saved one.
            kwargs: what the Auto classes add for other tokenizers; ignored.

        Raises:
            ValueError: there is no tokenizer of this kind, it is damaged, or of a later format.
        """
        folder = storage.find(
            pretrained_model_name_or_path,
            subfolder,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        index, description = storage.load(folder, cls.__name__)
        return cls(index, description["actions"], padding_side or description["padding_side"])

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload tokenizer",
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> CommitInfo:
        """Upload the tokenizer to a hub repository, which is made if need be; other files there stay as they are.

        Args:
            repo_id: name of the repository, of a model or of the tokenizer alone.
            commit_message, commit_description: of the one commit.
            private: of a new repository.
            token: True for the one of `hf auth login`; it is not kept.
            revision: branch, made if need be; default the main one.
            create_pr: open a pull request in place of a commit.
        """
        return storage.push(self, repo_id, commit_message, commit_description, private, token, revision, create_pr)
