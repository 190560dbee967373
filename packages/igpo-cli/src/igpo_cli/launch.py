"""Several processes: how a command starts them, and how each of them finds its place among the others.

torch's elastic launcher starts and watches the processes, accelerate's `launch` where a file of its options is given;
both tell a process its place by environment variables. Whoever dies takes the others along.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from igpo_cli.config import shipped
from igpo_cli.errors import RunError, StopError, UsageError
from igpo_rl import later

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState
else:
    torch = later.load("torch")

T = TypeVar("T")

Processes = Annotated[
    int | None, typer.Option(metavar="N", help="Start so many processes on this machine, one a GPU; without: one.")
]
Accelerate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Start processes as a file of accelerate's options says, or one by name (igpo config accelerate).",
    ),
]

ASKED = "IGPO_PROCESSES"
"""Environment variable in which a launching `igpo` says how many processes there should be."""
PATIENCE = 20.0
"""Seconds that a process with an error leaves to the one that is to speak of it."""
FAREWELL = 60
"""Seconds that processes have to end after a signal, before they are killed."""


def rank() -> int:
    """This process's number among those of the job, 0 where it is alone."""
    return int(os.environ.get("RANK", 0))


def ranks() -> int:
    """How many processes the job has."""
    return int(os.environ.get("WORLD_SIZE", 1))


# Starting --------------------------------------------------------------------------------------------------------------


def start(argv: Sequence[str], processes: int | None, file: Path | None, *, cpu: bool) -> int | None:
    """Run `igpo argv` in so many processes, or as accelerate's `file` says, and return the exit code.

    None: there is nothing to start, because this process is one of them already, or a single one was asked for.
    """
    if ASKED in os.environ or "WORLD_SIZE" in os.environ:
        if file is not None and ASKED not in os.environ:
            raise UsageError(
                "--accelerate starts processes, but these were started by torchrun or accelerate launch. "
                "Leave it out, or give the file to accelerate launch --config_file."
            )
        if processes not in (None, ranks()) and ASKED not in os.environ:
            raise UsageError(f"--processes {processes}, but {ranks()} were started. Leave it out.")
        return None
    if file is not None:
        return _supervised(lambda: _accelerate(argv, processes, file))
    if processes in (None, 1):
        return None
    assert processes is not None
    if processes < 1:
        raise UsageError(f"--processes {processes}: there must be at least one.")
    found = 0 if cpu else torch.cuda.device_count()
    if found and processes > found:
        raise UsageError(f"--processes {processes}, but there are {found} GPUs. Use --processes {found}.")
    return _supervised(lambda: _elastic(argv, processes))


def _elastic(argv: Sequence[str], processes: int) -> None:
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[ASKED] = str(processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=FAREWELL,
    )
    elastic_launch(settings, sys.executable)("-m", "igpo_cli", *argv)


def _accelerate(argv: Sequence[str], processes: int | None, file: Path) -> None:
    from accelerate.commands.launch import launch_command, launch_command_parser

    file = shipped("clusters", "yaml").get(str(file), file)
    chosen = read_accelerate(file)
    if chosen.distributed_type == "DEEPSPEED":
        raise UsageError(
            f"{file}: DeepSpeed's own engine is not supported. FSDP2 divides weights as ZeRO-2 and ZeRO-3 do: "
            "--accelerate fsdp2-8-grads, --accelerate fsdp2-8 (igpo config accelerate)."
        )
    count = processes or chosen.num_processes
    on_cpu = chosen.use_cpu or chosen.distributed_type == "MULTI_CPU"
    if on_cpu and chosen.distributed_type == "FSDP":
        raise UsageError(
            f"{file}: FSDP with use_cpu: accelerate would train without it, and say nothing. Use --processes alone on a CPU."
        )
    if on_cpu and chosen.num_machines == 1:  # accelerate launch would start a single process
        os.environ["ACCELERATE_USE_CPU"] = "true"
        _elastic(argv, count)
        return
    os.environ[ASKED] = str(count)
    words = ["--config_file", str(file), "--num_processes", str(count), "--module", "igpo_cli", *argv]
    launch_command(launch_command_parser().parse_args(words))


def read_accelerate(file: Path) -> Any:
    """accelerate's own reading of a file of its options; UsageError where it cannot be read."""
    from accelerate.commands.config import config_args

    if not file.is_file():
        raise UsageError(f"there is no file '{file}'. igpo config accelerate lists those that come with igpo.")
    try:
        return config_args.load_config_from_file(str(file))
    except (config_args.yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{file} is no file of accelerate's options: {error}") from error


def _supervised(launch: Callable[[], None]) -> int:
    """Run a launcher to its end: 0, or the exit code of the process that ended first, with a line that names it."""
    from subprocess import CalledProcessError

    import torch.distributed.launcher.api  # noqa: F401 its loggers, to be silenced
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    for name in tuple(logging.root.manager.loggerDict):  # each has a level of its own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        launch()
    except SignalException as ended:  # the processes have it too, and the first one has spoken
        raise SystemExit(128 + int(ended.sigval)) from ended
    except CalledProcessError as ended:
        return ended.returncode if ended.returncode > 0 else 128 - ended.returncode
    except ChildFailedError as error:
        place, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return int(failure.exitcode)  # it said why
        name = signal.Signals(-failure.exitcode).name
        cause = ", often for lack of memory" if name == "SIGKILL" else ""
        message = (
            f"process {place} of {os.environ[ASKED]} was ended by {name}{cause}, and so the run. "
            "Go on with igpo train --resume and the run's folder."
        )
        raise RunError(message, exit_code=128 - failure.exitcode) from error
    return 0


# Taking part -----------------------------------------------------------------------------------------------------------


def join(device: str) -> PartialState:
    """Meet the other processes; UsageError where there are fewer than were asked for."""
    from accelerate import PartialState

    asked = os.environ.get(ASKED)
    if asked is None and "WORLD_SIZE" not in os.environ and {"MASTER_ADDR", "ACCELERATE_USE_CPU"} <= os.environ.keys():
        raise UsageError(
            "accelerate launch was asked for several processes and started one, as it does with --cpu. "
            "Use igpo train --processes N, or torchrun."
        )
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        raise UsageError(
            "DeepSpeed's own engine is not supported. FSDP2 divides weights as ZeRO does (igpo config accelerate)."
        )
    cpu = device == "cpu"
    if cpu and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise UsageError(
            "accelerate ignores FSDP on a CPU and would train with DDP instead, without a word. "
            "Launch without FSDP, or on GPUs."
        )
    if rank():
        import warnings

        warnings.filterwarnings("ignore")  # the first process has the same ones
    if "WORLD_SIZE" in os.environ and sys.platform == "linux":
        _die_with_parent()
    state = PartialState(cpu=cpu, **(_meeting_place() if restarted() else {}))
    if asked is not None and int(asked) != state.num_processes:
        raise UsageError(f"{asked} processes were asked for, but there are {state.num_processes}.")
    return state


def _meeting_place() -> dict[str, Any]:
    """A store of this attempt alone. torch keeps one for all attempts of a job, and there a process may find the address of
    one that is dead."""
    host, port, attempt = (os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT"))
    distributed: Any = torch.distributed
    store = distributed.TCPStore(host, int(port), is_master=False)
    return {
        "store": distributed.PrefixStore(f"attempt {attempt}", store),
        "rank": rank(),
        "world_size": ranks(),
    }


def _die_with_parent() -> None:
    """A launcher that is killed cannot end its processes; without it they would write into a run that goes on elsewhere."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def on_main(work: Callable[[], T]) -> T:
    """What the first process does alone; all get its result, or its error."""
    if ranks() == 1:
        return work()
    from accelerate.utils import broadcast_object_list

    found: list[Any] = [None, None]
    if rank() == 0:
        try:
            found[0] = work()
        except (UsageError, RunError, ValueError, OSError) as error:
            found[1] = error
    broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    result: T = found[0]
    return result


def require_shares(counts: Mapping[str, int], processes: int | None = None) -> None:
    """UsageError where a number of the configuration cannot be shared out equally, over this job's processes or so many."""
    processes = max(1, processes or ranks())
    for name, count in counts.items():
        if count % processes:
            fewer = next(some for some in range(processes - 1, 0, -1) if count % some == 0)
            raise UsageError(
                f"{name} = {count} cannot be shared by {processes} processes; "
                f"use {count + -count % processes}, or {fewer} process{'es' * (fewer > 1)}."
            )


def gather(value: T) -> list[T]:
    """What pickle can hold of this process -> the same of every process, by rank."""
    if ranks() == 1:
        return [value]
    from accelerate.utils import gather_object

    found: list[T] = gather_object([value])
    return found


def dealt(work: Sequence[T]) -> Sequence[T]:
    """This process's share: of every so many one, in turn."""
    return work[rank() :: ranks()]


def restarted() -> str | None:
    """The name of the job where the launcher has started its processes anew (`torchrun --max-restarts`)."""
    return job() if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) else None


def job() -> str | None:
    """The name of the launcher's job; all its restarts have the same."""
    return os.environ.get("TORCHELASTIC_RUN_ID")


def stand_back(error: BaseException) -> BaseException:
    """Before an error is shown: wait to be ended by the launcher where another process will speak, or should be blamed.

    An error that all have is the first process's to show, and one that lost contact to another is no cause. Returns
    the error to show.
    """
    if ranks() == 1 or isinstance(error, KeyboardInterrupt | StopError) or not (rank() or lost(error)):
        return error
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    time.sleep(PATIENCE)
    if not lost(error):
        return error
    return RunError(
        f"process {rank()} lost contact to another one, which has ended or hangs. Look for what that one said."
    )


def lost(error: BaseException) -> bool:
    """Whether the error says that another process is gone."""
    words = ("Connection closed by peer", "Connection reset by peer", "NCCL", "Gloo", "gloo")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
