"""A real Slurm cluster of two nodes on this machine, for tests: slurmctld, two slurmd, munged."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
CONF = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the old credential has expired, two minutes by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
KillWait=60
MinJobAge=3600
SlurmdTimeout=60
InactiveLimit=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=120
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=2
"""


class Cluster:
    """Its commands are those of a user who has logged in to it."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def call(self, *command: str, cwd: Path | None = None, **more: str) -> str:
        """What a command of Slurm's, or one that submits, prints; it must succeed."""
        done = self.run(*command, cwd=cwd, **more)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def run(
        self, *command: str, cwd: Path | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=cwd,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def facts(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job, or of a task of an array such as 7_0."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).splitlines()[0].split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.facts(job)["JobState"]

    def wait(self, job: str, *states: str, seconds: float = 300) -> str:
        """The state in which `job` has ended, or that of `states` it has come to."""
        states = states or ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        deadline = time.monotonic() + seconds
        while (state := self.state(job)) not in states:
            assert time.monotonic() < deadline, f"{job} is {state} after {seconds} s"
            time.sleep(0.2)
        return state

    def log(self, job: str) -> str:
        with contextlib.suppress(FileNotFoundError):
            return Path(self.facts(job)["StdOut"]).read_text()
        return ""

    def wait_for_words(self, job: str, words: str, seconds: float = 300) -> None:
        """Until the log of `job` says `words`."""
        deadline = time.monotonic() + seconds
        while words not in self.log(job):
            assert time.monotonic() < deadline, f"{job}, {self.state(job)}:\n{self.log(job)}"
            time.sleep(0.1)

    def exit_code(self, job: str) -> int:
        return int(self.facts(job)["ExitCode"].split(":")[0])


@contextlib.contextmanager
def started_cluster(folder: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    """Two idle nodes, which end with the context. Skips where Slurm is not installed."""
    missing = [name for name in DAEMONS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("a cluster of one's own wants root")
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, ports=_free_ports(3)))
    environment = environment | {"SLURM_CONF": str(folder / "slurm.conf")}
    daemons = [_munged(folder)]
    try:
        for command in (
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", "n1"],
            ["slurmd", "-D", "-N", "n2"],
        ):
            daemons.append(
                subprocess.Popen(
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        cluster = Cluster(folder, environment)
        deadline = time.monotonic() + 60
        while "2 idle" not in cluster.run("sinfo", "-h", "-o", "%D %t").stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()[-2000:]
            time.sleep(0.1)
        yield cluster
        cluster.run("scancel", "--user", "root")
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=20)
            daemon.kill()


def _munged(folder: Path) -> subprocess.Popen[bytes]:
    """Of this cluster alone, with a key of its own."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    own = {"socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
    options = [f"--{name}={folder / file}" for name, file in own.items()]
    process = subprocess.Popen(
        ["munged", "--foreground", "--force", f"--key-file={key}", *options]
        + [f"--seed-file={folder / 'munged.seed'}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 20
    while not (folder / "munge.socket").exists():
        assert process.poll() is None and time.monotonic() < deadline, "munged does not start"
        time.sleep(0.05)
    return process


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as open_until_all_are_known:
        sockets = [open_until_all_are_known.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
