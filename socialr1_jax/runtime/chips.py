"""Accelerators by name: their peaks, the shares of them that kernels reach, and targets for compiling without one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

NODE = 8  # most GPUs of a node, which NVLink connects


@dataclass(frozen=True, kw_only=True)
class Chip:
    """Peaks of one device. Times derived from them are lower bounds: no program reaches all of them at once."""

    platform: Literal["cuda", "tpu", "cpu"]
    capability: int = 0  # NVIDIA's compute capability, its first digit
    flops: float = 0.0  # dense bfloat16 FLOP/s; 0 = unknown
    memory: int = 0  # bytes; 0 = the host's
    bandwidth: float = 0.0  # of memory, bytes/s
    link: float = 0.0  # to other devices of its node, bytes/s, one way, all links together
    network: float = 0.0  # to other nodes, bytes/s, one way: the network card of one device
    host: float = 0.0  # to the memory of its host, bytes/s, one way
    kind: str = ""  # of an NVIDIA GPU, in JAX's words
    cores: int = 0  # multiprocessors of an NVIDIA GPU

    @property
    def architecture(self) -> str:
        """The generation, whose kernels reach like shares of the peaks: ampere, hopper, tpu; "" for a CPU."""
        return "tpu" if self.platform == "tpu" else {8: "ampere", 9: "hopper"}.get(self.capability, "")

    @property
    def target(self) -> str:
        """The GpuTargetConfigProto for which XLA compiles without the NVIDIA GPU."""
        ampere = self.capability == 8
        fpus, l2, shared, clock = (64, 41_943_040, 166_912, 1.41) if ampere else (128, 52_428_800, 232_448, 1.98)
        return (
            "gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
            f"shared_memory_per_core: {shared + 1024} threads_per_core_limit: 2048 core_count: {self.cores} "
            f"fpus_per_core: {fpus} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 "
            f"block_dim_limit_z: 65535 memory_bandwidth: {int(self.bandwidth)} l2_cache_size: {l2} "
            f"clock_rate_ghz: {clock} device_memory_size: {self.memory} shared_memory_per_block_optin: {shared} "
            f"cuda_compute_capability {{ major: {self.capability} }} registers_per_core_limit: 65536 "
            'registers_per_block_limit: 65536 } platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } '
            f'device_description_str: "{self.kind}"'
        )


# NVIDIA's data sheets (dense bfloat16; NVLink one way; in DGX A100 and H100 a network card of 200 and 400 Gbit/s for
# each GPU; 16 lanes of PCIe 4 and 5 to the host) and Google's Cloud TPU pages (ICI, all axes, both directions; the link
# to the host, which they do not give, is assumed).
_A100 = Chip(
    platform="cuda",
    kind="NVIDIA A100",
    cores=108,
    capability=8,
    flops=312e12,
    memory=84_987_740_160,
    bandwidth=2.039e12,
    link=300e9,
    network=25e9,
    host=32e9,
)
_H100 = Chip(
    platform="cuda",
    kind="NVIDIA H100",
    cores=132,
    capability=9,
    flops=989e12,
    memory=84_987_740_160,
    bandwidth=3.35e12,
    link=450e9,
    network=50e9,
    host=64e9,
)
CHIPS: Mapping[str, Chip] = {
    "a100-80gb": _A100,
    "h100-80gb": _H100,
    "h200": replace(_H100, kind="NVIDIA H200", memory=150_000_000_000, bandwidth=4.8e12),
    "v5e": Chip(platform="tpu", flops=197e12, memory=17_179_869_184, bandwidth=8.19e11, link=1.8e11, host=16e9),
    "v5p": Chip(platform="tpu", flops=459e12, memory=102_005_473_280, bandwidth=2.765e12, link=5.4e11, host=16e9),
    "cpu": Chip(platform="cpu"),
}


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of a chip's peaks that kernels reach, by kind, and seconds that each kernel and collective adds.

    A masked attention kernel is cuDNN's with a bias, one of segments `models/segment_kernel.py`'s, at the share
    of JAX's own Triton kernel. Attention counts half the square as FLOP, that of segments the blocks it computes.
    """

    matmul: float  # of the FLOP/s, as the attention kernels
    attention: float
    attention_backward: float
    masked_attention: float
    masked_attention_backward: float
    segment_attention: float
    segment_attention_backward: float
    memory: float  # of the bandwidth
    links: float  # of the bandwidth between devices
    host: float  # of the bandwidth to the host, which two GPUs of a node often share
    launch: float  # seconds between two kernels
    latency: float  # seconds of the smallest collective


# Hopper's kernels as measured on one H200 (docs/performance.md); all others, links and latencies are assumed.
_ARCHITECTURES = ("ampere", "hopper", "tpu")
_RATES = {
    "matmul": (0.8, 0.65, 0.65),
    "attention": (0.6, 0.44, 0.3),
    "attention_backward": (0.5, 0.39, 0.3),
    "masked_attention": (0.35, 0.26, 0.3),
    "masked_attention_backward": (0.3, 0.19, 0.3),
    "segment_attention": (0.35, 0.17, 0.3),
    "segment_attention_backward": (0.3, 0.16, 0.3),
    "memory": (0.8, 0.72, 0.8),
    "links": (0.75, 0.75, 0.75),
    "host": (0.4, 0.4, 0.4),
    "launch": (2e-6, 2.3e-6, 0.5e-6),
    "latency": (25e-6, 15e-6, 5e-6),
}
RATES: Mapping[str, Rates] = {
    name: Rates(**{field: values[i] for field, values in _RATES.items()}) for i, name in enumerate(_ARCHITECTURES)
}


def parse_topology(text: str) -> tuple[Chip, tuple[int, ...]]:
    """Parse "a100-80gb:8", "a100-80gb:4x8" (four nodes) or "v5e:2x4" into chip and shape.

    Raises ValueError for an unknown chip or shape.
    """
    name, _, sizes = text.partition(":")
    if name not in CHIPS:
        raise ValueError(f"topology {text!r}: unknown chip {name!r}; known: {', '.join(CHIPS)}")
    try:
        shape = tuple(int(size) for size in sizes.split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ValueError(f"topology {text!r}: append the number of devices to the chip, as in a100-80gb:8, v5e:2x4")
    if CHIPS[name].platform == "cuda" and (len(shape) > 2 or shape[-1] > NODE):
        raise ValueError(f"topology {text!r}: a node has at most {NODE} GPUs; write {name}:4x{NODE} for four nodes")
    return CHIPS[name], shape


_KINDS = {"a100": "a100-80gb", "h100": "h100-80gb", "h200": "h200", "v5 lite": "v5e", "v5e": "v5e", "v5p": "v5p"}


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip of JAX's `device_kind` ("NVIDIA A100-SXM4-80GB", "TPU v5 lite"); None for others and CPUs."""
    kind = device_kind.lower()
    return next((CHIPS[name] for part, name in _KINDS.items() if part in kind), None)
