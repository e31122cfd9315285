"""A few held-out people: what they did, where they went next, and where the model would send them."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipelines import PreparedFolder
from data_pipelines.stream.units import Units
from spacetime_gr.training.config import PretrainConfig
from spacetime_gr.training.data import corpora_with
from spacetime_gr.training.engine import resolve_stage

if TYPE_CHECKING:
    from spacetime_gr.modeling_spacetime_gr import SpacetimeGRForCausalLM
    from spacetime_gr.tokenization_spacetime_gr import SpacetimeGRTokenizer

_MAX_UNITS = 16
_TAIL = 5


@dataclass(frozen=True)
class Person:
    """A history without its last action, and the place and time of that one."""

    columns: dict[str, Any]
    next_row: int
    when: int
    tz_offset_minutes: int


class HeldOutExamples:
    """The first people of a held-out part who have an action to read and a known place to go to next."""

    columns = ("person", "history", "next at", "next", "rank", "recommended", "log_prob of the first")

    def __init__(self, folder: PreparedFolder, split: str, tokenizer: "SpacetimeGRTokenizer", number: int) -> None:
        """
        Args:
            folder: a prepared folder that has the split.
            split: validation or test.
            tokenizer: of the model.
            number: people; fewer if the first units hold fewer.
        """
        self.tokenizer = tokenizer
        self.people = [person for person, _ in zip(_people(Units(folder, split)), range(number), strict=False)]

    def rows(self, model: "SpacetimeGRForCausalLM", k: int = 10) -> list[list[str | int | float]]:
        """One row of `columns` per person. The model keeps its mode; no random number is drawn.

        `rank` is that of the true next place among the k recommended, `-` beyond. Places are `id (category)`.
        """
        if not self.people:
            return []
        training = model.training
        model.eval()
        try:
            results = model.recommend(
                self.tokenizer,
                [person.columns for person in self.people],
                when=[person.when for person in self.people],
                tz_offset_minutes=[person.tz_offset_minutes for person in self.people],
                k=k,
            )
        finally:
            model.train(training)
        table: list[list[str | int | float]] = []
        for number, (person, result) in enumerate(zip(self.people, results, strict=True), start=1):
            places, true = result["poi_id"], self.tokenizer.index.ids(np.array([person.next_row]))[0]
            rank = places.index(true) + 1 if true in places else "-"
            recommended = " > ".join(self._names(self.tokenizer.index.rows(places)))
            history = " > ".join(self._names(person.columns["poi_row"][-_TAIL:]))
            local = datetime.fromtimestamp(person.when + 60 * person.tz_offset_minutes, UTC)
            (next_place,) = self._names(np.array([person.next_row]))
            table.append(
                [number, history, f"{local:%a %H:%M}", next_place, str(rank), recommended, float(result["log_prob"][0])]
            )
        return table

    def _names(self, rows: Any) -> list[str]:
        index, rows = self.tokenizer.index, np.asarray(rows)
        names = ["unknown"] * len(rows)
        known = np.flatnonzero(rows >= 0)
        categories = index.categories(rows[known])
        for at, name, category in zip(known, index.ids(rows[known]), categories, strict=True):
            names[at] = f"{name} ({index.category_names[category]})" if category >= 0 else str(name)
        return names


def held_out_examples(config: PretrainConfig, tokenizer: "SpacetimeGRTokenizer") -> HeldOutExamples | None:
    """The people that `log.num_examples` asks for, from the first corpus that has the held-out part.

    None without such a part, and under ZeRO stage 3 (said on stderr): each rank holds a part of the weights only, and
    decoding on rank 0 alone would wait for the others for ever.
    """
    folders = [PreparedFolder(corpus.path) for corpus in corpora_with(config, config.eval.split)]
    if not config.log.num_examples or not folders:
        return None
    if resolve_stage(config) == 3:
        sys.stderr.write(
            "wandb: no tables of recommendations under ZeRO stage 3, where rank 0 holds a part of the weights only; "
            "`spacetime-gr recommend` on an export shows them\n"
        )
        return None
    return HeldOutExamples(folders[0], config.eval.split, tokenizer, config.log.num_examples)


def _people(units: Units) -> Iterator[Person]:
    for unit in range(min(len(units), _MAX_UNITS)):
        sequences = units.read(unit)
        for number, user in enumerate(sequences.user_hash):
            start, stop = int(sequences.offsets[number]), int(sequences.offsets[number + 1])
            if stop - start < 2 or sequences.columns["poi_row"][stop - 1] < 0:
                continue
            own = {name: values[start : stop - 1] for name, values in sequences.columns.items()}
            yield Person(
                {**{name: own[name] for name in own if name != "trajectory"}, "user_hash": int(user)},
                int(sequences.columns["poi_row"][stop - 1]),
                int(sequences.columns["timestamp"][stop - 1]),
                int(sequences.columns["tz_offset_minutes"][stop - 1]),
            )
