"""Set up a process before JAX starts: XLA flags, the allocator, and the compilation cache."""

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

GPU_MEMORY = 0.92  # share of an NVIDIA GPU's memory that plans use; the rest is for the driver and other libraries
_MEMORY_FRACTIONS = ("XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_CLIENT_MEM_FRACTION")
_HOST_MEMORY = "XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"


def prepare(xla_flags: Sequence[str] = (), *, programs: bool = True) -> None:
    """Apply all settings below in the required order. Call this before anything touches a device.

    `programs=False` disables the compilation cache, for measurements.
    """
    set_xla_flags(xla_flags)
    take_memory()
    keep_memory()
    if programs:
        keep_programs()


def describe_devices(topology: str, xla_flags: Sequence[str] = ()) -> None:
    """Set up a process that only compiles, for devices that need not be present."""
    set_xla_flags(xla_flags)
    kind, _, count = topology.partition(":")
    os.environ["JAX_PLATFORMS"] = "cpu"  # the topology is described, not opened
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    if kind == "cpu" and count.isdigit():
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}".strip()


def set_xla_flags(flags: Sequence[str]) -> None:
    """Add the flags to XLA_FLAGS; flags already set there win."""
    if flags:
        os.environ["XLA_FLAGS"] = " ".join([*flags, os.environ.get("XLA_FLAGS", "")]).strip()


def take_memory() -> None:
    """Let JAX use the share `GPU_MEMORY` of an NVIDIA GPU's memory, and all of its host's; by default 0.75 and 64 GiB.

    Environment variables (XLA_CLIENT_MEM_FRACTION, XLA_PYTHON_CLIENT_MEM_FRACTION, XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB)
    win.
    """
    os.environ.setdefault(_HOST_MEMORY, str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30))
    if not any(map(os.environ.get, _MEMORY_FRACTIONS)):
        os.environ[_MEMORY_FRACTIONS[0]] = str(GPU_MEMORY)


def memory_share() -> float:
    """Return the share of an NVIDIA GPU's memory that JAX takes after `take_memory`."""
    return float(next(filter(None, map(os.environ.get, _MEMORY_FRACTIONS)), GPU_MEMORY))


def tune_compiler(capability: float, devices: int) -> None:
    """Set XLA's optimization level and rematerialization for NVIDIA GPUs of a compute capability (0: there are none).

    On several GPUs below 9, level O1 lets collectives run beside kernels, as Hopper's schedule does by itself: without
    it each collective of an update would wait for its end at once. What a backward pass recomputes is `model.remat`
    alone; XLA's own pass recomputes matrix products of an 8B's layers that fit (docs/hardware.md). The environment
    variables JAX_OPTIMIZATION_LEVEL and JAX_COMPILER_ENABLE_REMAT_PASS win.
    """
    import jax

    if "JAX_OPTIMIZATION_LEVEL" not in os.environ:
        jax.config.update("jax_optimization_level", "O1" if devices > 1 and 0 < capability < 9 else "UNKNOWN")
    if "JAX_COMPILER_ENABLE_REMAT_PASS" not in os.environ:
        jax.config.update("jax_compiler_enable_remat_pass", not capability)


def keep_memory() -> None:
    """Let glibc's allocator keep the memory that XLA frees, unless an accelerator's plugin is installed.

    On a CPU, XLA allocates its temporaries in every call. By default glibc maps and unmaps blocks above 32 MiB each
    time, and page faults take a sixth of the time of an update of the `tiny` shape (docs/notebook.md). Blocks of 2 GiB
    and more are still returned to the system.
    """
    if platform.libc_ver()[0] != "glibc" or not _cpu_only():
        return
    allocator = ctypes.CDLL(None)
    allocator.mallopt(_MMAP_THRESHOLD, _LARGEST)
    allocator.mallopt(_TRIM_THRESHOLD, _LARGEST)
    allocator.mallopt(_ARENA_MAX, 1)  # the heaps of other arenas have 64 MiB and are unmapped


def keep_programs() -> None:
    """Enable JAX's persistent compilation cache for all programs.

    It is in `~/.cache/socialr1_jax`, with a subfolder for each set of CPU features, and may be deleted at any time. It
    is off for users without a home directory. Environment variables of JAX (JAX_COMPILATION_CACHE_DIR,
    JAX_ENABLE_COMPILATION_CACHE, JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS) win. On GPUs it includes XLA's autotuning
    results.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        if cache.startswith("~"):  # no home directory
            return
        jax.config.update("jax_compilation_cache_dir", f"{cache}/socialr1_jax/compiled-{_processor()}")
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _cpu_only() -> bool:
    """Return whether JAX will find only the CPU, from the packages installed: asking JAX would initialise it."""
    return os.environ.get("JAX_PLATFORMS") == "cpu" or not any(map(find_spec, ("jax_plugins", "libtpu")))


def _processor() -> str:
    """Return an 8-digit hash of the CPU's features: programs compiled for other features may not run."""
    features, cpuinfo = platform.machine(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:8]
