"""The command of each way: what it says, and that the installed launchers take it."""

import shlex
from pathlib import Path

import pytest

from spacetime_gr.launching import commands, main
from tests.launch.two_hosts import ROOT

TRAINING = ["--config", "a b.yaml", "data.cleaning={min_actions: 5}", "model.x=$(id)"]


@pytest.fixture
def hostfile(tmp_path: Path) -> Path:
    path = tmp_path / "hostfile"
    path.write_text("# two nodes\nnode1 slots=8\n\nnode2 slots=4 # half of it\n")
    return path


def dry_run(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The last line of a dry run, as a shell would split it."""
    assert main.main(ROOT / "launch", [*words, "--dry-run", "--", *TRAINING]) == 0
    return shlex.split(capsys.readouterr().out.splitlines()[-1])


def test_deepspeed_takes_the_commands(
    hostfile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepspeed.launcher.runner import fetch_hostfile, parse_args

    monkeypatch.chdir(ROOT)
    program, *words = dry_run(capsys, "local", "--processes", "2")
    parsed = parse_args(words)
    assert program == "deepspeed"
    assert (parsed.num_gpus, parsed.user_script, parsed.user_args) == (2, "launch/pretrain.py", TRAINING)

    file = tmp_path / "launch.json"
    program, *words = dry_run(
        capsys, *["ssh", "--hostfile", str(hostfile), "--file", str(file), "--master-port", "29600", "--ssh-port", "23"]
    )
    parsed = parse_args(words)
    assert (parsed.hostfile, parsed.master_port, parsed.ssh_port) == (str(hostfile), 29600, 23)
    assert parsed.module
    assert parsed.no_local_rank
    assert (parsed.user_script, parsed.user_args) == (commands.RANK_MODULE, ["file", str(file)])
    assert not file.exists()
    assert fetch_hostfile(str(hostfile)) == commands.read_hostfile(hostfile) == {"node1": 8, "node2": 4}

    program, *words = dry_run(
        capsys, "no-ssh", "--hostfile", str(hostfile), "--node-rank", "1", "--master-addr", "10.0.0.1"
    )
    parsed = parse_args(words)
    assert (parsed.no_ssh, parsed.node_rank, parsed.master_addr, parsed.master_port) == (True, 1, "10.0.0.1", 29500)
    assert (parsed.user_script, parsed.user_args) == ("launch/pretrain.py", TRAINING)


def test_torchrun_takes_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from torch.distributed.run import get_args_parser

    program, *words = dry_run(capsys, "torchrun", "--processes", "8")
    parsed = get_args_parser().parse_args(words)
    assert program == "torchrun"
    assert (parsed.standalone, parsed.nproc_per_node, parsed.training_script_args) == (True, "8", TRAINING)
    several = ["--nodes", "4", "--rendezvous", "127.0.0.1:29400", "--job-id", "j7", "--restarts", "3"]
    program, *words = dry_run(capsys, "torchrun", "--processes", "8", *several)
    parsed = get_args_parser().parse_args(words)
    assert (parsed.nnodes, parsed.rdzv_backend, parsed.rdzv_endpoint) == ("4", "c10d", "127.0.0.1:29400")
    assert (parsed.rdzv_id, parsed.max_restarts, parsed.standalone) == ("j7", 3, False)
    assert (parsed.rdzv_conf, parsed.local_addr) == ("is_host=true,read_timeout=600", "127.0.0.1")


def test_the_rendezvous_is_hosted_by_the_node_whose_address_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the host name resolves to: torchrun itself would look no further."""
    monkeypatch.setattr("socket.gethostname", lambda: "elsewhere")
    assert commands._route_to("localhost:29400")[1]
    assert commands._route_to("127.0.0.2:29400") == ("127.0.0.1", False)
    for wrong in ("127.0.0.1", "127.0.0.1:x"):
        with pytest.raises(ValueError, match=f"--rendezvous {wrong}: no way there"):
            commands._route_to(wrong)


def test_sbatch_gets_sizes_before_the_script(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    words = dry_run(capsys, "slurm", "--nodes", "2", "--tasks-per-node", "8", "--option", "time=24:00:00")
    sizes = ["--nodes=2", "--ntasks-per-node=8", "--export=ALL", "--gpus-per-node=8", "--time=24:00:00"]
    assert words == ["sbatch", *sizes, "launch/slurm.sbatch", "launch/pretrain.py", *TRAINING]
    assert "--gpus-per-node=8" not in dry_run(capsys, "slurm", "--nodes", "2", "--tasks-per-node", "8", "--no-gpus")
    head = [line for line in (ROOT / "launch/slurm.sbatch").read_text().splitlines() if line.startswith("#SBATCH")]
    assert {"#SBATCH --signal=USR1@300", "#SBATCH --requeue"} <= set(head)


def test_dry_run_shows_no_secret(
    hostfile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123secret")
    monkeypatch.setenv("WANDB_PROJECT", "places")
    for way in (
        ["ssh", "--hostfile", str(hostfile), "--file", str(tmp_path / "launch.json")],
        ["kubernetes", "--image", "places:1", "--nodes", "2", "--gpus", "8"],
    ):
        assert main.main(ROOT / "launch", [*way, "--dry-run", "--", *TRAINING]) == 0
        said = capsys.readouterr().out
        assert "0123secret" not in said
        assert "places" in said
    assert list(tmp_path.iterdir()) == [hostfile]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no host"),
        ("node1\n", "line 1: 'node1'; expected HOST slots=PROCESSES"),
        ("node1 slots=0\n", "line 1: 'node1 slots=0'; expected"),
        ("node1 slots=1\n$(reboot) slots=1\n", "line 2: '$(reboot) slots=1'; expected"),
        ("a slots=1\na slots=1\n", "line 2: a is listed twice"),
        (None, "does not exist; one line per node"),
    ],
)
def test_a_wrong_hostfile_is_refused(text: str | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError) as error:  # noqa: PT011 (compared below, as it is no pattern)
        commands.read_hostfile(path)
    assert said in str(error.value)


def test_wrong_wishes_are_one_line(
    hostfile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*words: str) -> str:
        assert main.main(ROOT / "launch", [*words, "--", *TRAINING]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error

    nowhere = ["no-ssh", "--hostfile", str(hostfile), "--master-addr", "10.0.0.1", "--node-rank", "2"]
    assert "2 hosts, so 0 to 1" in said(*nowhere)
    assert "needs --rendezvous" in said("torchrun", "--processes", "1", "--nodes", "2")
    over_ssh = ["ssh", "--hostfile", str(hostfile), "--file"]
    assert "passes through shells" in said(*over_ssh, str(tmp_path / "a b"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sbatch is not on PATH" in said("slurm", "--nodes", "1", "--tasks-per-node", "1")

    monkeypatch.chdir(tmp_path)
    (tmp_path / ".deepspeed_env").write_text("NCCL_DEBUG=INFO\nWANDB_API_KEY=0123secret\n")
    refusal = said(*over_ssh, str(tmp_path / "launch.json"))
    assert "holds WANDB_API_KEY, which DeepSpeed would show" in refusal
    assert "0123secret" not in refusal


def test_nothing_for_the_training_script_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main.main(ROOT / "launch", ["local"])
    assert stop.value.code == 2
    assert "nothing for the training script" in capsys.readouterr().err
