"""What a run has finished, so that a killed one can go on: one JSON object a line, appended when the work is safe."""

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """The journal of an unfinished folder.

    Attributes:
        content: part of the manifest that the checked events gave, with the planned shards; None before that.
        files: finished shards, path -> entry of the manifest.
    """

    def __init__(self, file: Path, identity: dict[str, Any]) -> None:
        """Open a journal, or start one for a run of this identity.

        Raises:
            ValueError: if the journal is that of a run with other input or settings.
        """
        self._file = file
        self.content: dict[str, Any] | None = None
        self.files: dict[str, dict[str, Any]] = {}
        lines = _whole_lines(file)
        if not lines:
            file.write_text("")
            self._append({"fingerprints": identity["fingerprints"]})
            return
        if lines[0].get("fingerprints") != identity["fingerprints"]:
            raise ValueError(
                f"{file.parent.parent}: the interrupted run had other input or settings, so it cannot be resumed; "
                "repeat its command, or start anew without --resume"
            )
        for line in lines[1:]:
            if "content" in line:
                self.content = line["content"]
            else:
                self.files[line["shard"]["path"]] = line["shard"]

    def record_content(self, content: dict[str, Any]) -> None:
        """The events are checked, ordered and safe."""
        self._append({"content": content})
        self.content = content

    def record_shard(self, entry: dict[str, Any]) -> None:
        """A shard stands under its name."""
        self._append({"shard": entry})
        self.files[entry["path"]] = entry

    def _append(self, line: dict[str, Any]) -> None:
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
            out.flush()
            os.fsync(out.fileno())


def _whole_lines(file: Path) -> list[dict[str, Any]]:
    """The journal's lines; one that a kill tore off is cut from the file."""
    if not file.is_file():
        return []
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(file, len(whole))
    return [json.loads(line) for line in whole.splitlines()]
