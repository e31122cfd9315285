"""Options that take several numbers in one go: `--discovery-k 1 5 10`, beside the repeated option."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class NumberListCommand(TyperCommand):
    """A command whose repeatable options may be followed by several numbers at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Write `--option 1 2 3` as `--option 1 --option 2 --option 3`, then parse as usual."""
        lists = {name for param in self.params if getattr(param, "multiple", False) for name in param.opts}
        written: list[str] = []
        option = None
        for position, arg in enumerate(args):
            if arg in lists:
                option = arg
            elif option is not None and _NUMBER.fullmatch(arg):
                if args[position - 1] != option:
                    written.append(option)
            else:
                option = None
            written.append(arg)
        return super().parse_args(ctx, written)
