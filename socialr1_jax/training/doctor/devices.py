"""Checks of the devices that JAX computes on, of the mesh over them, and of the attention that they run."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, good_or, short
from socialr1_jax.training.doctor.model import model_shape
from socialr1_jax.training.doctor.packages import PLUGINS, installed

if TYPE_CHECKING:
    from jax.sharding import Mesh

WHOLE_ERROR = "python -c 'import jax; print(jax.devices())' shows the whole error"
_CUDA_13 = "with an NVIDIA driver of 580 or newer also '.[cuda13]', but not both"
_TPU_CHIPS = ("0027", "0056", "005e", "0062", "0063", "006f", "0076")  # PCI devices of Google's, as in JAX


def check_devices(config: DoctorConfig) -> Iterator[Line]:
    platforms = os.environ.get("JAX_PLATFORMS", "")
    extra, what = accelerator()
    try:
        import jax

        devices = jax.devices()
    except Exception as error:
        found = f"JAX does not start{f' (JAX_PLATFORMS is {platforms})' if platforms else ''}: {short(error)}"
        fix = "unset JAX_PLATFORMS: no GPU or TPU is seen here" if platforms else WHOLE_ERROR
        yield Line("devices", "problem", found, _open_it(extra) if extra else fix)
        return
    kind = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if extra and devices[0].platform == "cpu":
        chosen = platforms == "cpu"
        found = f"JAX computes on {kind}, although there is {what}"
        yield Line("devices", "warning" if chosen else "problem", found, _open_it(extra))
    else:
        yield Line("devices", "ok", kind)


def check_mesh(config: DoctorConfig) -> Iterator[Line]:
    from socialr1_jax.models import qwen3

    mesh = run_mesh(config)
    with contextlib.suppress(NotChecked):
        qwen3.check_mesh(model_shape(config), mesh)
    yield Line("mesh", "ok", " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items()))


def check_attention(config: DoctorConfig) -> Iterator[Line]:
    where, model = platform(), config.model
    from socialr1_jax.models.attention import attention_backend
    from socialr1_jax.models.attention_trial import cudnn_fault

    backend = attention_backend(model.attention, model.dtype, where)
    if backend == "cudnn" and (fault := cudnn_fault(model.dtype)):
        found, fix = f"xla: cuDNN does not compute here: {fault}", "another version of JAX or of cuDNN may do it"
        yield Line("attention", "problem" if model.attention == "cudnn" else "warning", found, fix)
        return
    found = f"{backend}: model.attention {model.attention}, model.dtype {model.dtype}, platform {where}"
    fix = "model.dtype=bfloat16 with model.attention=auto computes with cuDNN here"
    yield good_or("warning", "attention", where != "gpu" or backend == "cudnn", found, fix)


def platform() -> str:
    """Return JAX's platform: cpu, gpu or tpu."""
    try:
        import jax

        return jax.default_backend()
    except Exception:
        raise NotChecked("JAX does not start here") from None


def run_mesh(config: DoctorConfig) -> Mesh:
    """Return the run's mesh. Raises ConfigError when it does not fit the devices."""
    found = platform()
    from socialr1_jax.processes import in_cluster
    from socialr1_jax.training.run import run_mesh as mesh_of_run

    if config.distributed.processes > 1 or in_cluster(os.environ):
        raise NotChecked(
            f"this is one of several processes, and only its own devices ({found}) are looked at; scripts/plan.py "
            "compiles the run for all of them"
        )
    return mesh_of_run(config)


def accelerator() -> tuple[str, str]:
    """Return (the extra that JAX needs, what it is) of this machine's accelerator, seen by JAX or not; "" for none."""
    for file in Path("/dev").glob("nvidia[0-9]*"):
        return "cuda12", f"an NVIDIA GPU ({file})"
    for folder in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            vendor, device = ((folder / name).read_text().strip() for name in ("vendor", "device"))
            if vendor == "0x1ae0" and device[2:] in _TPU_CHIPS:
                return "tpu", f"a TPU (PCI {folder.name})"
    return "", ""


def _open_it(extra: str) -> str:
    """Return what to do so that JAX computes on this machine's accelerator."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return "unset JAX_PLATFORMS, which is cpu"
    is_gpu = extra.startswith("cuda")
    if not any(map(installed, PLUGINS if is_gpu else ("libtpu",))):
        return f"pip install -e '.[{extra}]'" + (f"; {_CUDA_13}" if is_gpu else "")
    return f"JAX_PLATFORMS={'cuda' if is_gpu else extra} {WHOLE_ERROR}; a GPU must be in nvidia-smi's list"
