"""The finished model as a Hugging Face folder."""

from typing import TYPE_CHECKING, Any

from spacetime_gr.training.averaging import averaged
from spacetime_gr.training.callbacks.base import Callback
from spacetime_gr.training.exporting import export_engine

if TYPE_CHECKING:
    from spacetime_gr.training.trainer import Trainer


class Export(Callback):
    """Writes `export/` when the run is finished, with averaged weights if the run averages them."""

    activity = "export"

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.last_record: dict[str, Any] = {}

    def on_log(self, trainer: "Trainer", record: dict[str, Any]) -> None:
        self.last_record = record

    def on_end(self, trainer: "Trainer") -> None:
        if trainer.finished:
            folder = trainer.run_dir / "export"
            with averaged(trainer.engine):
                export_engine(trainer.engine, self.tokenizer, folder, trainer.config, self.last_record)

    def state_dict(self) -> dict[str, Any]:
        return {"last_record": self.last_record}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_record = state["last_record"]
