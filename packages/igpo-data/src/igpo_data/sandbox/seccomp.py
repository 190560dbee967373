"""The system calls that a program in bubblewrap may make: those on this list, and no other.

A list of what is allowed, not of what is forbidden: no socket, fork, thread, signal, mount, ptrace, bpf, io_uring or
whatever a later kernel brings. What is not listed fails with EPERM, which Python raises as PermissionError.
"""

from __future__ import annotations

import errno
import tempfile
from functools import cache

from igpo_data.sandbox.executor import UnavailableError

MEMORY = "brk mmap mprotect mremap munmap madvise"
FILES = (
    "access chdir close dup dup2 dup3 faccessat faccessat2 fchdir fcntl fdatasync fstat fstatfs fsync ftruncate getcwd "
    "getdents64 link linkat lseek lstat mkdir mkdirat newfstatat open openat pread64 pwrite64 read readlink readlinkat readv "
    "rename renameat renameat2 rmdir stat statfs statx symlink symlinkat truncate umask unlink unlinkat utimensat write writev"
)
TIME = "clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep poll ppoll pselect6 select time times"
ITSELF = (
    "arch_prctl exit exit_group futex getegid geteuid getgid getgroups getpid getppid getpriority getrandom getrlimit getrusage "
    "gettid getuid prlimit64 restart_syscall rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn sched_getaffinity "
    "sched_yield set_robust_list set_tid_address sigaltstack sysinfo uname"
)
BUBBLEWRAP = "execve wait4"
# It starts Python under the filter and waits for it. A program that starts another one is still under the filter.


@cache
def program_filter() -> bytes:
    """The filter as BPF for this machine's architecture; UnavailableError without pyseccomp or libseccomp."""
    try:
        import pyseccomp
    except ModuleNotFoundError as error:
        raise UnavailableError("pyseccomp is not installed (pip install 'igpo-data[code]')") from error
    except RuntimeError as error:
        raise UnavailableError("libseccomp is not installed (Debian, Ubuntu: apt install libseccomp2)") from error

    rules = pyseccomp.SyscallFilter(defaction=pyseccomp.ERRNO(errno.EPERM))
    for name in " ".join((MEMORY, FILES, TIME, ITSELF, BUBBLEWRAP)).split():
        # Some are not on every architecture.
        if pyseccomp.resolve_syscall(pyseccomp.system_arch(), name) >= 0:
            rules.add_rule(pyseccomp.ALLOW, name)
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()
