"""A real Slurm on one machine: a controller and two nodes, started and stopped by a test."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")

SLURM_CONF = """
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
ReturnToService=2
FirstJobId={first}
KillWait=30
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=64 RealMemory=64000 Gres=gpu:4
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=64 RealMemory=64000 Gres=gpu:4
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10
"""
"""Four pretended GPUs and 64 cores a node, so that scripts for large machines find room; urgent jobs pre-empt others.

``cred_expire`` is how long a job waits that is queued again; below 5 seconds Slurm takes its default of 120.
"""


class Unavailable(Exception):
    """There can be no cluster here; the message says why."""


class Cluster:
    """A running cluster, as its users see it.

    Args:
        environment: of the commands.
        start: starts the daemon of a node.
    """

    def __init__(self, environment: Mapping[str, str], start: Callable[[str], subprocess.Popen[bytes]]) -> None:
        self.environment, self.start = dict(environment), start
        self.daemons = {node: start(node) for node in NODES}

    def call(
        self, *words: str | Path, cwd: Path | None = None, check: bool = True, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command of Slurm, maybe with more variables in its environment."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env={**self.environment, **(more or {})},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def submit(self, *words: str | Path, cwd: Path, more: Mapping[str, str] | None = None) -> str:
        """Submits a job; its number."""
        return self.call("sbatch", "--parsable", *words, cwd=cwd, more=more).stdout.strip()

    def state(self, job: str) -> str:
        """The state of a job, such as ``RUNNING``, with the words of an array one after the other."""
        shown = self.call("scontrol", "show", "job", job).stdout.split()
        return " ".join(word.removeprefix("JobState=") for word in shown if word.startswith("JobState="))

    def field(self, job: str, name: str) -> str:
        """A field of a job, as ``scontrol show job`` prints it."""
        shown = self.call("scontrol", "show", "job", job).stdout.split()
        return next(word.removeprefix(f"{name}=") for word in shown if word.startswith(f"{name}="))

    def wait(self, job: str, *states: str, seconds: float) -> str:
        """Waits until a job is in one of the states, every element of an array.

        Raises:
            AssertionError: it is not in time.
        """
        wait_for(lambda: set(self.state(job).split()) <= set(states), seconds, lambda: f"{job}: {self.state(job)}")
        return self.state(job)

    def ended(self, job: str, seconds: float) -> str:
        """Waits until a job is over; the state in which it ended."""
        return self.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", seconds=seconds)

    def processes(self, *wanted: str) -> list[int]:
        """Processes of jobs with these lines in their environment, the oldest first."""
        lines = {*wanted, f"SLURM_CONF={self.environment['SLURM_CONF']}"}
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if lines <= set((process / "environ").read_bytes().decode(errors="replace").split("\0")):
                    found.append(int(process.name))
        return sorted(found)

    def lose(self, node: str) -> None:
        """Kills all that runs on a node, as if its power had gone; the controller need not wait to find out."""
        jobs = self.processes(f"SLURMD_NODENAME={node}")
        steps = {parent for parent in map(_parent, jobs) if _name(parent) == "slurmstepd"}
        for process in (self.daemons[node].pid, *steps, *jobs):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.daemons[node].wait(10)
        self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")

    def bring_back(self, node: str) -> None:
        """Starts a node again that was lost."""
        self.daemons[node] = self.start(node)
        self.call("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)

    def idle(self) -> bool:
        """Whether all nodes are there and have nothing to do."""
        found = self.call("sinfo", "-h", "-N", "-p", "all", "-o", "%t", check=False)
        return found.stdout.split() == ["idle"] * len(NODES)

    def clear(self, seconds: float = 30.0) -> None:
        """Cancels whatever is there and waits until it is gone."""
        self.call("scancel", "--user=root", check=False)
        wait_for(lambda: not self.call("squeue", "--noheader").stdout.strip(), seconds, lambda: "jobs remain")


def wait_for(what: Callable[[], bool], seconds: float, told: Callable[[], str], every: float = 0.1) -> None:
    """Looks until something is so.

    Raises:
        AssertionError: it is not in time.
    """
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, f"after {seconds:g} s: {told()}"
        time.sleep(every)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Starts a cluster and stops it afterwards, whatever happened.

    Raises:
        Unavailable: Slurm is not installed, we are not root, or it does not start here.
    """
    if os.geteuid() != 0:
        raise Unavailable("a Slurm of one's own needs root")
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    programs = {name: shutil.which(name, path=path) for name in (*DAEMONS, *CLIENTS)}
    if absent := [name for name, program in programs.items() if program is None]:
        raise Unavailable(f"Slurm is not installed: there is no {', '.join(absent)}")
    with ExitStack() as stack:
        # Not pytest's folder: a socket's path may have no more than 107 characters.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True)))
        environment = {**outside(os.environ), "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}
        # The nodes' names are no names of machines, so the ranks are told where to meet.
        environment |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"VENV": sys.prefix, "OMP_NUM_THREADS": "1"}
        _configure(folder)

        def start(*words: str) -> subprocess.Popen[bytes]:
            return stack.enter_context(_daemon(folder, environment, *words))

        control = [start(*_munged(folder)), start("slurmctld", "-D", "-c")]
        found = Cluster(environment, lambda node: start("slurmd", "-D", "-N", node))

        def up() -> bool:
            if any(daemon.poll() is not None for daemon in (*control, *found.daemons.values())):
                raise Unavailable(f"Slurm does not start: {_last_line(folder)}")
            return found.idle()

        try:
            wait_for(up, 60.0, lambda: _last_line(folder))
        except AssertionError as error:
            raise Unavailable(f"Slurm does not start: {error}") from error
        try:
            yield found
        finally:
            found.clear()


def _parent(process: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _name(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


def outside(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what belongs to a job that we may be in ourselves."""
    return {name: value for name, value in environment.items() if not name.startswith(("SLURM", "SBATCH", "SRUN"))}


def _configure(folder: Path) -> None:
    folder.chmod(0o755)
    for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(mode=0o700)
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    controller, n1, n2 = _free_ports(3)
    name = f"test{os.getpid()}"
    first = 1000 + os.getpid() % 8000  # Lightning takes a port from a job's number
    (folder / "slurm.conf").write_text(
        SLURM_CONF.format(cluster=name, host=host, folder=folder, controller=controller, n1=n1, n2=n2, first=first)
    )
    for number in range(4):
        (folder / f"gpu{number}").touch()
    (folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu File={folder}/gpu[0-3]\n")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _munged(folder: Path) -> Sequence[str]:
    files = {"key-file": "munge/key", "socket": "munge.socket", "pid-file": "munge/pid"}
    files |= {"seed-file": "munge/seed", "log-file": "munge/log"}
    return ("munged", "--foreground", "--force", *(f"--{option}={folder / file}" for option, file in files.items()))


@contextmanager
def _daemon(folder: Path, environment: Mapping[str, str], *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that ends with us, even where we are killed."""
    program = shutil.which(words[0], path=environment["PATH"])
    assert program is not None
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    with (folder / f"{words[0]}-{words[-1].rpartition('/')[2]}.log").open("wb") as log:
        daemon = subprocess.Popen([*guard, program, *words[1:]], env=dict(environment), stdout=log, stderr=log)
    try:
        yield daemon
    finally:
        for way in (signal.SIGTERM, signal.SIGKILL):
            daemon.send_signal(way)
            try:
                daemon.wait(timeout=10)
                break
            except subprocess.TimeoutExpired:
                continue


def _last_line(folder: Path) -> str:
    """What the daemons complained of."""
    lines = [line for log in sorted(folder.glob("*.log")) for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if "error" in line or "fatal" in line), "no reason was given")
