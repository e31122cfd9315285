"""Programs that stand in for those of a cluster, and a training script that notes what it was given."""

import json
import os
import sys
from pathlib import Path

from tests.launch.two_hosts import ROOT

# Notes arguments and environment of its rank; leaves with the code that CODE names.
REPORT = """
import json, os, pathlib, sys
rank = os.environ["RANK"]
note = {"arguments": sys.argv[1:], "environment": dict(os.environ)}
pathlib.Path(os.environ["REPORTS"], f"rank-{rank}.json").write_text(json.dumps(note))
sys.exit(int(os.environ.get("CODE", "0")))
"""
# Runs its command for every host on this machine, in a shell as sshd would, and notes it.
PDSH = """
import os, pathlib, subprocess, sys
hosts = sys.argv[sys.argv.index("-w") + 1].split(",")
command = " ".join(sys.argv[sys.argv.index("-w") + 2 :])
pathlib.Path(os.environ["REPORTS"], "pdsh.txt").write_text(command)
bare = {name: os.environ[name] for name in ("PATH", "HOME", "REPORTS") if name in os.environ}
started = [
    subprocess.Popen(["bash", "-c", command.replace("%n", str(index)).replace("%h", host)], env=bare)
    for index, host in enumerate(hosts)
]
sys.exit(max(process.wait() for process in started))
"""
# DeepSpeed asks the first host for its name and its addresses.
SSH = "print('127.0.0.1')"
# Two nodes with one task each, as srun would tell them.
SRUN = """
import os, pathlib, subprocess, sys
pathlib.Path(os.environ["REPORTS"], "srun.txt").write_text(" ".join(sys.argv[1:]))
command = sys.argv[1:]
while command[0].startswith("--"):
    command.pop(0)
started = []
for task in range(2):
    told = {"SLURM_PROCID": str(task), "SLURM_LOCALID": "0", "SLURM_NODEID": str(task), "SLURM_NTASKS": "2"}
    started.append(subprocess.Popen(command, env={**os.environ, **told}))
sys.exit(max(process.wait() for process in started))
"""
SCONTROL = """
import os, pathlib, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    print("node7\\nnode8")
else:
    pathlib.Path(os.environ["REPORTS"], "scontrol.txt").write_text(" ".join(sys.argv[1:]))
"""


def install(folder: Path, **programs: str) -> dict[str, str]:
    """Write Python `programs` into `folder`; an environment with them first on PATH and REPORTS=folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in programs.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
    (folder / "report.py").write_text(REPORT)
    search = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": search, "PYTHONPATH": str(ROOT), "REPORTS": str(folder), "DS_ACCELERATOR": "cpu"}


def reports(folder: Path) -> list[dict]:
    """What each rank noted, in rank order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("rank-*.json"))]
