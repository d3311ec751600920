"""How many threads compute, and how they wait for each other. Loads torch only where it is needed."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from fullrank.errors import UsageError

VARIABLE = "OMP_NUM_THREADS"
# Rounds of a waiting loop before a thread sleeps: a few microseconds. libgomp's own default is 300,000.
_SPINS = "1000"
# Seconds over which the load of the cores is measured.
_WINDOW = 0.5
_QUOTAS = (  # files of a container's limit on processor time, under cgroup 2 and 1: quota and period
    ("/sys/fs/cgroup/cpu.max",),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)
# Whether a user asked for the number of threads: a resumed run then keeps to it.
_asked: ContextVar[bool] = ContextVar("asked", default=False)


def sleep_while_waiting() -> None:
    """Let OpenMP's threads sleep while they wait for each other; call it before torch is imported.

    By default they spin, which is somewhat faster on idle cores and several times slower on busy ones: a
    spinning thread holds the core that the awaited one needs. Variables that are set already are kept.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ.update(OMP_WAIT_POLICY="PASSIVE", GOMP_SPINCOUNT=_SPINS)


@dataclass(frozen=True)
class Threads:
    """A number of threads, the cores that this process may use, and how many of them other programs leave.

    `free` is None where a user asked for the number of threads, so that nobody measured the load.
    """

    count: int
    cores: int
    free: float | None = None

    def __str__(self) -> str:
        number = "1 thread" if self.count == 1 else f"{self.count} threads"
        cores = "1 core" if self.cores == 1 else f"{self.cores} cores"
        return f"{number} on {cores}" + ("" if self.free is None else f", of which {self.free:.1f} are free")


class CoreLoad:
    """How busy other programs keep the cores of this process, from now on until `free` is read."""

    def __init__(self) -> None:
        self.cores = _own_cores()
        self.started, self.busy, self.own = time.monotonic(), _busy_seconds(self.cores), time.process_time()

    def free(self) -> float:
        """The cores that are left, measured over half a second or more; all where the load is unknown."""
        allowed = float(allowed_cores())
        if self.busy is None:
            return allowed
        time.sleep(max(0.0, _WINDOW - (time.monotonic() - self.started)))
        busy = (_busy_seconds(self.cores) or 0.0) - self.busy - (time.process_time() - self.own)
        others = max(0.0, busy / (time.monotonic() - self.started))
        return max(0.0, min(allowed, len(self.cores) - others))


def choose_threads(asked: int | None, load: CoreLoad, processes: int = 1) -> Threads:
    """The number asked for, else that of OMP_NUM_THREADS, else one for each free core.

    Args:
        asked: The number of threads that a user gave, or None.
        load: The load of the cores, measured from a moment before this call.
        processes: How many processes share the free cores.

    Returns:
        One thread or more.

    Raises:
        UsageError: Fewer than one thread is asked for.
    """
    cores = allowed_cores()
    if asked is not None and asked < 1:
        raise UsageError(f"threads must be 1 or more, but got {asked}; this process may use {cores}.")
    if (given := asked or _variable()) is not None:
        return Threads(given, cores)
    free = load.free()
    return Threads(max(1, round(free) // processes), cores, free)


@contextmanager
def limited_threads(count: int, asked: bool = True) -> Iterator[None]:
    """Compute with `count` threads meanwhile: torch, where it is loaded, and the libraries behind NumPy.

    A run that is resumed meanwhile keeps to that number if a user asked for it.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    token = _asked.set(asked)
    try:
        with threadpool_limits(count):
            if torch:
                torch.set_num_threads(count)
            yield
    finally:
        _asked.reset(token)
        if torch:
            torch.set_num_threads(before)


@contextmanager
def asked_threads(count: int | None) -> Iterator[None]:
    """Compute with the number of threads that a caller gave; None changes nothing."""
    if count is None:
        yield
        return
    if count < 1:
        raise UsageError(f"threads must be 1 or more, but got {count}; leave it out for torch's own number.")
    with limited_threads(count):
        yield


def follow_threads(first: int) -> None:
    """Compute with the threads of a run's first part, unless a user asked for another number.

    Another number of threads adds sums in another order. Training amplifies the difference in rounding.
    """
    import torch

    if were_asked() or torch.get_num_threads() == first:
        return
    torch.set_num_threads(first)
    print(f"This run began with {first} thread{'s' * (first > 1)} and continues with them.", file=sys.stderr)


def set_threads(count: int, asked: bool) -> None:
    """Compute with `count` threads from now on; `asked` says whether a user asked for that number."""
    import torch

    _asked.set(asked)
    torch.set_num_threads(count)


def were_asked() -> bool:
    """Whether a user asked for the number of threads, by an argument or with OMP_NUM_THREADS."""
    return _asked.get() or _variable() is not None


def allowed_cores() -> int:
    """How many cores this process may use: those of its affinity, within the limit of its container."""
    cores = len(_own_cores())
    for files in _QUOTAS:
        try:
            words = " ".join(Path(file).read_text() for file in files).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or the word `max`
            continue
        if quota > 0 and period > 0:
            return max(1, min(cores, quota // period))
    return cores


def _variable() -> int | None:
    """The number of threads in OMP_NUM_THREADS, if it holds one."""
    number = os.environ.get(VARIABLE, "").partition(",")[0].strip()
    return int(number) if number.isdecimal() and int(number) > 0 else None


def _own_cores() -> set[int]:
    """The numbers of the cores on which this process may run."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _busy_seconds(cores: set[int]) -> float | None:
    """Seconds that the cores have worked since the system started; None where it does not tell."""
    try:
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
    except OSError:
        return None
    names = {f"cpu{core}" for core in cores}
    # Columns: user, nice, system, idle, iowait, irq, softirq, steal; proc(5).
    counts = [list(map(int, words[1:])) for words in lines if words and words[0] in names]
    ticks = sum(sum(count[:3]) + sum(count[5:8]) for count in counts)
    return ticks / os.sysconf("SC_CLK_TCK")
