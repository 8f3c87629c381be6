"""Settings of a script's process before JAX starts: XLA's flags, kept memory, kept programs."""

import ctypes
import hashlib
import os
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

# glibc's parameters of mallopt (malloc.h)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_LARGEST = 2**31 - 1

GPU_MEMORY = 0.92  # share of an NVIDIA GPU's memory that plans count on; the rest is the driver's and other libraries'


def prepare(xla_flags: Sequence[str] = (), *, programs: bool = True) -> None:
    """Make all settings below, in the order they need. Call it before anything touches a device.

    `programs=False` is for measurements in which everything is compiled.
    """
    set_xla_flags(xla_flags)
    take_memory()
    keep_memory()
    if programs:
        keep_programs()


def describe_devices(topology: str) -> None:
    """Make the settings of a process that compiles for devices which need not be here, and computes nothing."""
    kind, _, count = topology.partition(":")
    os.environ["JAX_PLATFORMS"] = "cpu"  # the topology is described, not opened
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    if kind == "cpu" and count.isdigit():
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}".strip()


def set_xla_flags(flags: Sequence[str]) -> None:
    """Add the flags to XLA_FLAGS; those that are there already win."""
    if flags:
        os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()


def take_memory() -> None:
    """Let JAX take as much of an NVIDIA GPU's memory as plans count on: its own default is 0.75.

    JAX's settings (XLA_CLIENT_MEM_FRACTION, XLA_PYTHON_CLIENT_MEM_FRACTION) win.
    """
    if not any(os.environ.get(f"XLA_{name}CLIENT_MEM_FRACTION") for name in ("", "PYTHON_")):
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = str(GPU_MEMORY)


def keep_memory() -> None:
    """Let glibc's allocator keep the memory that XLA frees, unless an accelerator's plugin is installed.

    XLA allocates its temporaries on a CPU in every call. By default glibc maps and unmaps blocks above 32 MiB each
    time, and each page costs a fault when it is first touched: a sixth of the time of an update of the `tiny`
    shape (docs/notebook.md). Blocks of 2 GiB and more are still given back.
    """
    if platform.libc_ver()[0] != "glibc" or not _cpu_only():
        return
    allocator = ctypes.CDLL(None)
    allocator.mallopt(_MMAP_THRESHOLD, _LARGEST)
    allocator.mallopt(_TRIM_THRESHOLD, _LARGEST)
    allocator.mallopt(_ARENA_MAX, 1)  # the arenas of threads are cut into heaps of 64 MiB that come and go


def keep_programs() -> None:
    """Keep every compiled program on disk, so that the next call of a script reads it instead of compiling it.

    They are in `~/.cache/socialr1_jax`, apart for processors of other abilities, and may be removed at any time. A user
    without a home directory keeps none.
    JAX's own settings (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE,
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS) win. On GPUs XLA's choices of kernels are kept with them.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if cache.startswith("~"):  # a user without a home
            return
        jax.config.update("jax_compilation_cache_dir", f"{cache}/socialr1_jax/compiled-{_processor()}")
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cpu_only() -> bool:
    """Return True if JAX will find only the CPU, judged by what is installed: asking JAX would start it."""
    return os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(find_spec, ("jax_plugins", "libtpu")))


def _processor() -> str:
    """Return eight digits for what the processor can do: a program for another one may not run here."""
    abilities, listed = platform.machine(), Path("/proc/cpuinfo")
    if listed.exists():
        lines = listed.read_text().splitlines()
        abilities += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(abilities.encode()).hexdigest()[:8]
