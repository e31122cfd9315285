"""Entry of one rank where the launcher speaks another language than torch.

`python -m spacetime_gr.launching.rank slurm launch/pretrain.py …` (under srun), the same with `openmpi` (under mpirun),
or `… rank file LAUNCH_FILE` (under deepspeed over ssh). The rank then becomes the training script: same process, so
that signals reach the training itself.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from spacetime_gr.launching.forwarding import read_launch_file

# What torch wants to know, and where each launcher says it.
_NAMES = {
    "slurm": {
        "RANK": "SLURM_PROCID",
        "WORLD_SIZE": "SLURM_NTASKS",
        "LOCAL_RANK": "SLURM_LOCALID",
        "LOCAL_WORLD_SIZE": "SLURM_NTASKS_PER_NODE",
    },
    "openmpi": {
        "RANK": "OMPI_COMM_WORLD_RANK",
        "WORLD_SIZE": "OMPI_COMM_WORLD_SIZE",
        "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK",
        "LOCAL_WORLD_SIZE": "OMPI_COMM_WORLD_LOCAL_SIZE",
    },
}
_STARTERS = {"slurm": "srun", "openmpi": "mpirun"}
USAGE = "usage: python -m spacetime_gr.launching.rank (slurm | openmpi) SCRIPT [ARGUMENT ...] | file LAUNCH_FILE"


def rank_variables(launcher: str, environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE from what `launcher` (slurm or openmpi) has set.

    Raises:
        ValueError: a variable is missing: the launcher did not start this process, or not all was said to it.
    """
    starter = _STARTERS[launcher]
    for name in (*_NAMES[launcher].values(), "MASTER_ADDR", "MASTER_PORT"):
        if name not in environment:
            remedy = "set it to that of rank 0's node" if name.startswith("MASTER") else f"start this under {starter}"
            if name == "SLURM_NTASKS_PER_NODE":
                remedy = "give sbatch --ntasks-per-node"
            raise ValueError(f"{name} is not set, which a rank under {starter} needs; {remedy}, see docs/cluster.md")
    return {name: environment[source] for name, source in _NAMES[launcher].items()}


def main(arguments: Sequence[str]) -> int:
    """Become the training script; returns on an error only, with 2."""
    launcher, *rest = arguments or [""]
    if launcher not in (*_NAMES, "file") or not rest or (launcher == "file" and len(rest) != 1):
        sys.stderr.write(f"{USAGE}\n")
        return 2
    try:
        if launcher == "file":
            content = read_launch_file(Path(rest[0]))
            variables, command = content.environment, content.command
        else:
            variables, command = rank_variables(launcher, os.environ), rest
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    # The list goes to the kernel as it is; no shell reads it.
    return os.execve(sys.executable, [sys.executable, "-u", *command], {**os.environ, **variables})  # noqa: S606


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
