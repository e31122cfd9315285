"""Forks the ranks of distributed tests from one process that has imported everything.

Importing torch, transformers and DeepSpeed is most of the time of a short run. Started by `processes.RankServer`: reads
a JSON object a line (command, environment, log, exits), answers with the process id, and leaves the exit code of each
rank in the file `exits/PID`.
"""

import json
import os
import runpy
import select
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import deepspeed  # noqa: F401
from deepspeed import DeepSpeedEngine  # noqa: F401

import spacetime_gr.training.data
import spacetime_gr.training.engine
import spacetime_gr.training.exporting
import spacetime_gr.training.model
import spacetime_gr.training.pretrain
import spacetime_gr.training.trainer  # noqa: F401


def become_rank(request: dict[str, Any]) -> NoReturn:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(0)
    os.environ.update(request["environment"])
    sys.argv = request["command"]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    exits: dict[int, Path] = {}
    while True:
        if select.select([sys.stdin], [], [], 0.02)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            pid = os.fork()
            if pid == 0:
                become_rank(request)
            exits[pid] = Path(request["exits"])
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
        for pid in list(exits):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                folder = exits.pop(pid)
                partial = folder / f".{pid}"
                partial.write_text(str(os.waitstatus_to_exitcode(status)))
                partial.rename(folder / str(pid))


if __name__ == "__main__":
    main()
