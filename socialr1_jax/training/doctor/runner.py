"""Whether a run can start on this machine: what is there, what is wrong, and what to do about it.

Each check stands alone and imports what it needs itself: a package that cannot be imported is one line, not the end.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from socialr1_jax.config import ConfigError, RunConfig

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from jax.sharding import Mesh

    from socialr1_jax.models.qwen3_config import Qwen3Config

Status = Literal["ok", "warning", "problem", "skipped"]
_JUDGE_SECONDS = 20.0  # that a judge gets for one answer
_HUB_SECONDS = 5.0
_LONGEST_CHECK = 600.0  # seconds between two lines, the compilation of the tiny step included
_STATE_BYTES = 12  # of a parameter: float32 master weight and two moments
_GRADIENT_BYTES = 4
_TPU_CHIPS = {
    "0x0027",
    "0x0056",
    "0x005e",
    "0x0062",
    "0x0063",
    "0x006f",
    "0x0076",
}  # PCI devices of Google's, as in JAX
_PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")
_KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_STORY = "Ann puts the ball into the box and leaves. Ben moves the ball to the bag."
_QUESTION, _OPTIONS = "Where will Ann look for the ball?", "A. the box, B. the bag"
_THOUGHTS = "Ann saw the ball go into the box. She did not see Ben move it, so she still believes it is there."


class DoctorConfig(RunConfig):
    """A run, and how far its environment is looked at."""

    required: ClassVar[tuple[str, ...]] = ()

    no_step: bool = Field(False, description="leave out the tiny GRPO step, most of the doctor's time")


@dataclass(frozen=True)
class Line:
    """What one check found. `fix` says what to do, "" where nothing is to be done."""

    name: str
    status: Status
    found: str
    fix: str = ""


class _NotChecked(Exception):
    """A check that means nothing here; the message says why."""


def examine(config: DoctorConfig) -> Iterator[Line]:
    """The lines of all checks, each as soon as it is there. Never raises; keys of services are in no line."""
    for name in _CHECKS:
        yield from _checked(name, config)


def examine_apart(config: DoctorConfig) -> Iterator[Line]:
    """The same from a process of its own: a compiler that aborts or a device that hangs is a line, too."""
    ours, theirs = (context := multiprocessing.get_context("spawn")).Pipe(duplex=False)
    process = context.Process(target=_send, args=(config, theirs), daemon=True)
    process.start()
    theirs.close()  # so that its end is ours to see
    left, name = list(_CHECKS), next(iter(_CHECKS))
    ended = ""
    try:
        while not ended:
            try:
                if not ours.poll(_LONGEST_CHECK):
                    ended = f"nothing after {_LONGEST_CHECK:.0f} s: the check hangs"
                elif (told := ours.recv()) is None:
                    return
                elif isinstance(told, Line):
                    yield told
                else:
                    left.remove(name := told)
            except EOFError:
                process.join()
                code = process.exitcode or 0
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
                ended = f"the process {how} in this check; above is what it said"
    finally:
        process.kill()
        process.join()
    yield Line(name, "problem", ended, _CHECKS[name][1])
    yield from (Line(other, "skipped", "not checked: the checks ended before") for other in left)


def _send(config: DoctorConfig, pipe: Connection) -> None:
    """The name of each check as it begins, its lines, and None at the end."""
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        for name in _CHECKS:
            pipe.send(name)
            for line in _checked(name, config):
                pipe.send(line)
        pipe.send(None)


def _checked(name: str, config: DoctorConfig) -> Iterator[Line]:
    """The lines of a check without the keys of services."""
    check, fix = _CHECKS[name]
    keys = [os.environ.get(key, "").strip() for key in (*_KEYS, config.rewards.structure.api_key_env)]
    for line in _guarded(name, check, fix, config):
        found, advice = line.found, line.fix
        for key in keys:
            if len(key) >= 8:  # a shorter one ("none", "EMPTY") is no secret
                found, advice = found.replace(key, "[key]"), advice.replace(key, "[key]")
        yield replace(line, found=found, fix=advice)


def show(line: Line) -> None:
    """Prints a line, its fix indented beneath it; wrapped in a terminal, whole elsewhere."""
    from rich.text import Text

    from socialr1_jax.training.console import console

    style = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}[line.status]
    head = f"{line.status:<8} {line.name:<14} "
    width = max(40, console.width - len(head)) if console.is_terminal else 10**6
    texts = [(line.found, ""), *((f"fix: {text}", "bold") for text in line.fix.splitlines())]
    parts = [(part, look) for text, look in texts for part in textwrap.wrap(text, width, break_on_hyphens=False)]
    out = Text.assemble((head[:9], style), head[9:])
    for number, (part, look) in enumerate(parts):
        out.append("\n" + " " * len(head) if number else "").append(part, look)
    console.print(out, soft_wrap=True)


def say_sum(lines: Sequence[Line]) -> None:
    """Prints how many problems and warnings there are."""
    from socialr1_jax.training.console import console

    counts = {status: sum(line.status == status for line in lines) for status in ("problem", "warning", "skipped")}
    words = [f"{count} {status}{'s' * (count != 1)}" for status, count in counts.items() if status != "skipped"]
    console.print(f"{', '.join(words)}, {counts['skipped']} not checked", soft_wrap=True)


def _guarded(
    name: str, check: Callable[[DoctorConfig], Iterator[Line]], fix: str, config: DoctorConfig
) -> Iterator[Line]:
    """The check's lines; what it raises is a line too."""
    try:
        yield from check(config)
    except _NotChecked as reason:
        yield Line(name, "skipped", f"not checked: {reason}")
    except Exception as error:  # of whatever is broken here: that is what the doctor is for
        yield Line(name, "problem", _short(error), fix)


def _line(name: str, good: bool, found: str, fix: str, bad: Status = "problem") -> Line:
    return Line(name, "ok", found) if good else Line(name, bad, found, fix)


def _short(error: BaseException) -> str:
    """The error in one line of at most 300 characters; its type where the text alone may say little."""
    text = " ".join(str(error).split())
    if not isinstance(error, ValueError | OSError) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return textwrap.shorten(text, 300, placeholder=" ...")


# ------------------------------------------------------------------------------------------------------------ packages


def _versions(config: DoctorConfig) -> Iterator[Line]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata.metadata("socialr1_jax")["Requires-Python"] or ""
    fits = SpecifierSet(wanted).contains(python)
    fix = f"make a virtual environment with Python {wanted}, and there: pip install -e ."
    yield _line("python", fits, f"Python {python}, {wanted} is needed", fix)
    needed = [Requirement(text) for text in metadata.requires("socialr1_jax") or ()]
    good = []
    for one in needed:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        version = _version(one.name)
        if version is not None and one.specifier.contains(version, prereleases=True):
            good.append(f"{one.name} {version}")
        else:
            found = f"{one.name} {version}, but {one.specifier} is needed" if version else f"{one.name} is missing"
            yield Line("packages", "problem", found, f"pip install -U '{one}'")
    if good:
        yield Line("packages", "ok", ", ".join(good))
    yield from _jax_parts()
    for extra, name, reason in _extras(config):
        option = [one for one in needed if one.name == name and one.marker and one.marker.evaluate({"extra": extra})]
        version, specifier = _version(name), option[0].specifier if option else SpecifierSet()
        if version is not None and specifier.contains(version, prereleases=True):
            yield Line("extras", "ok", f"{name} {version}, for {reason}")
            continue
        found = f"{name} {version}, but {specifier} is needed" if version else f"{name} is missing"
        fix = f"pip install -U '{name}{specifier}'" if extra == "test" else f"pip install -U -e '.[{extra}]'"
        yield Line("extras", "problem", f"{found}, for {reason}", fix)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extras(config: DoctorConfig) -> Iterator[tuple[str, str, str]]:
    """(extra, package, what the configuration needs it for)."""
    if config.tracking.wandb:
        yield "wandb", "wandb", "tracking.wandb"
    structure = config.rewards.structure
    if config.rewards.uses.structure and structure.judge == "endpoint" and not structure.offline:
        yield "judge", "openai", "rewards.structure.judge endpoint"
    tables = [path for path in (*config.data.train, *config.data.eval) if path.lower().endswith(".parquet")]
    if tables:
        yield "test", "pyarrow", " and ".join(tables)


def _jax_parts() -> Iterator[Line]:
    """jaxlib within what jax asks for, and plugins of jaxlib's version: JAX passes over others in silence."""
    from packaging.requirements import Requirement

    jax, jaxlib = _version("jax"), _version("jaxlib")
    if jax is None:  # said above
        return
    asked = next((one for one in map(Requirement, metadata.requires("jax") or ()) if one.name == "jaxlib"), None)
    if jaxlib is None or (asked is not None and not asked.specifier.contains(jaxlib, prereleases=True)):
        found = f"jax {jax} with {f'jaxlib {jaxlib}' if jaxlib else 'no jaxlib'}"
        fix = f"pip install -U 'jax=={jax}' 'jaxlib{asked.specifier if asked else f'=={jax}'}'"
        yield Line("jaxlib", "problem", found, fix)
        return
    parts = {name: version for name in _PLUGINS if (version := _version(name))}
    for name, version in parts.items():
        fix = f"pip install -U 'jax[{name.split('-')[1]}]=={jax}'"
        yield _line("jaxlib", version == jaxlib, f"{name} {version} with jaxlib {jaxlib}", fix)
    if not parts:
        yield Line("jaxlib", "ok", f"jaxlib {jaxlib}")


# ------------------------------------------------------------------------------------------------- devices and memory


def _devices(config: DoctorConfig) -> Iterator[Line]:
    present = _nvidia() or _tpu()
    advice = _open_it(*present) if present else ""
    try:
        import jax

        devices = jax.devices()
    except Exception as error:
        platforms = os.environ.get("JAX_PLATFORMS", "")
        set_to = f" (JAX_PLATFORMS is {platforms})" if platforms else ""
        if platforms and not present:
            extra = "tpu" if "tpu" in platforms else "cuda12"
            advice = f"unset JAX_PLATFORMS: no GPU or TPU is seen here; with one: pip install -e '.[{extra}]'"
        fix = advice or "python -c 'import jax; print(jax.devices())' shows the whole error"
        yield Line("devices", "problem", f"JAX does not start{set_to}: {_short(error)}", fix)
        return
    kind = f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})"
    if present and devices[0].platform == "cpu":
        chosen = os.environ.get("JAX_PLATFORMS") == "cpu"
        found = f"JAX computes on {kind}, although there is {present[1]}"
        yield Line("devices", "warning" if chosen else "problem", found, advice)
    else:
        yield Line("devices", "ok", kind)
    try:
        mesh = _mesh(config)
        sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
        try:
            from socialr1_jax.models.qwen3 import check_mesh

            check_mesh(_shape(config), mesh)
        except _NotChecked:
            pass
    except ValueError as error:
        fix = "set mesh.replica, mesh.fsdp (0 = all that is left) and mesh.tensor so that they multiply to the devices"
        yield Line("mesh", "problem", _short(error), f"{fix} and divide the model's sizes")
    except _NotChecked as reason:
        yield Line("mesh", "skipped", f"not checked: {reason}")
    else:
        yield Line("mesh", "ok", sizes)


def _nvidia() -> tuple[str, str] | None:
    """("cuda12", which NVIDIA GPU) where there is one."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=10, check=False).stdout
        if said.startswith("GPU "):
            return "cuda12", f"an NVIDIA GPU ({said.splitlines()[0].partition(' (UUID')[0]})"
    return ("cuda12", "an NVIDIA GPU (/dev/nvidia0)") if Path("/dev/nvidia0").exists() else None


def _tpu() -> tuple[str, str] | None:
    """("tpu", which TPU) where there is one."""
    for folder in Path("/sys/bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            vendor, device = ((folder / name).read_text().strip() for name in ("vendor", "device"))
            if vendor == "0x1ae0" and device in _TPU_CHIPS:
                return "tpu", f"a TPU (PCI {folder.name})"
    return None


def _open_it(extra: str, what: str) -> str:
    """What to do so that JAX computes on an accelerator that is here."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms == "cpu":
        return "unset JAX_PLATFORMS, which is cpu"
    if not any(map(_version, _PLUGINS if extra == "cuda12" else ("libtpu",))):
        return f"pip install -e '.[{extra}]'"
    name = "cuda" if extra == "cuda12" else "tpu"
    look = "nvidia-smi must list it (driver), and " if name == "cuda" else "no other process may hold it, and "
    return f"{look}JAX_PLATFORMS={name} python -c 'import jax; print(jax.devices())' says why {what} does not open"


def _mesh(config: DoctorConfig) -> Mesh:
    """The run's mesh; ConfigError when it does not fit the devices."""
    platform = _platform()
    from socialr1_jax.processes import in_cluster
    from socialr1_jax.training.programs import run_mesh

    if config.distributed.processes > 1 or in_cluster(os.environ):
        raise _NotChecked(
            f"this is one of several processes, and only its own devices ({platform}) are looked at; scripts/plan.py "
            "compiles the run for all of them"
        )
    return run_mesh(config)


def _platform() -> str:
    try:
        import jax

        return jax.default_backend()
    except Exception:
        raise _NotChecked("JAX does not start here") from None


def _attention(config: DoctorConfig) -> Iterator[Line]:
    platform, model = _platform(), config.model
    from socialr1_jax.models.attention import attention_backend

    asked = f"model.attention {model.attention}, model.dtype {model.dtype}, platform {platform}"
    try:
        backend = attention_backend(model.attention, model.dtype, platform)
    except ValueError as error:
        yield Line("attention", "problem", _short(error), "model.attention=auto takes what this machine has")
        return
    fix = "model.dtype=bfloat16 with model.attention=auto computes with cuDNN here"
    yield _line("attention", platform != "gpu" or backend == "cudnn", f"{backend}: {asked}", fix, "warning")


def _memory(config: DoctorConfig) -> Iterator[Line]:
    platform = _platform()
    host = _host_memory()
    shape, mesh = _shape(config), _mesh(config)
    import jax
    import jax.numpy as jnp

    from socialr1_jax.models.arithmetic import Arithmetic
    from socialr1_jax.models.attention import attention_backend
    from socialr1_jax.sampling.memory import free_memory, plan_batch

    free = free_memory()
    if free is None:
        raise _NotChecked(f"{platform} does not tell its memory; scripts/plan.py says what the run takes")
    if platform == "cpu" and host:
        free = min(free, host // jax.local_device_count())
    itemsize, tensor = jnp.dtype(config.model.dtype).itemsize, mesh.shape["tensor"]
    weights = Arithmetic(shape, itemsize, 1).parameters
    shards, rows = mesh.shape["fsdp"] * tensor, mesh.shape["replica"] * mesh.shape["fsdp"]
    parts = {"weights and moments": _STATE_BYTES * weights // shards}
    if config.grpo.kl_coefficient and config.grpo.reference_memory == "device":
        parts["reference"] = itemsize * weights // shards
    if config.rewards.uses.content:
        with contextlib.suppress(_NotChecked):
            other = Arithmetic(_shape_of(config.rewards.content.model), itemsize, 1).parameters
            parts["content model"] = itemsize * other // tensor
    if config.rewards.uses.structure and config.rewards.structure.judge == "local":
        with contextlib.suppress(_NotChecked):
            other = Arithmetic(_shape_of(config.rewards.structure.model), itemsize, 1).parameters
            parts["local judge"] = (4 if platform == "cpu" else 2) * other // shards
    if platform != "cpu" and host:
        yield _beside(config, host, weights, itemsize)
    kept = sum(parts.values())
    gradients = _GRADIENT_BYTES * weights // shards
    told = ", ".join(f"{name} {_gib(size)}" for name, size in (parts | {"gradients": gradients}).items())
    told = f"{told}; a device has {_gib(free)} to give"
    name = "memory" if platform == "cpu" else "device memory"
    fix = (
        "more devices under mesh.fsdp, grpo.reference_memory=host, model.dtype=bfloat16, shorter "
        "sampling.max_new_tokens, or a smaller model; scripts/plan.py says it to the byte"
    )
    if kept + gradients > free:
        found = f"{_gib(kept + gradients)} a device at least: {told}"
        yield Line(name, "problem", found, fix)
        return
    group, prompts = config.sampling.group_size, -(-config.grpo.prompts_per_step // rows)
    width, wanted = config.data.max_prompt_tokens, min(config.sampling.max_rows, prompts * group)
    backend = attention_backend("auto" if platform == "gpu" else "xla", config.model.dtype, platform)
    try:
        batch = plan_batch(
            shape, itemsize, rows=wanted, group=group, prompts=prompts, width=width,
            slots=width + config.sampling.max_new_tokens, backend=backend, tensor=tensor, memory=free - kept,
        )  # fmt: skip
    except ValueError as error:
        yield Line(name, "problem", f"{_short(error)} ({told})", fix)
        return
    found = f"{told}; decodes {batch.rows} of a step's {prompts * group} responses a device at once"
    yield Line(name, "ok", found)


def _beside(config: DoctorConfig, host: int, weights: int, itemsize: int) -> Line:
    """The host's memory where the run computes on accelerators."""
    parts = {"a checkpoint while it is written": _STATE_BYTES * weights}
    if config.grpo.kl_coefficient and config.grpo.reference_memory == "host":
        parts["reference"] = itemsize * weights
    told = ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())
    fix = "a host with more memory, grpo.reference_memory=device, or a smaller model"
    return _line("host memory", sum(parts.values()) <= host, f"{told}; {_gib(host)} are free", fix)


def _host_memory() -> int:
    """Bytes of RAM that this process may still take: the machine's, or its container's; 0 where nobody says."""
    free = 0
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    with contextlib.suppress(OSError, ValueError, KeyError):  # ValueError: "max", no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        free = min(free or limit, max(0, limit - used + int(cached)))
    return free


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


# --------------------------------------------------------------------------------------------------------- the folder


def _output_dir(config: DoctorConfig) -> Iterator[Line]:
    folder = Path(config.output_dir).absolute()
    above = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        reason = f"{above} is no folder" if not above.is_dir() else (error.strerror or str(error))
        fix = f"give another output_dir, or make {above} a folder that you may write to"
        yield Line("output_dir", "problem", f"{folder} cannot be written to: {reason}", fix)
        return
    yield _earlier_run(config, folder)
    free = shutil.disk_usage(above).free
    try:
        from socialr1_jax.models.arithmetic import Arithmetic

        weights = Arithmetic(_shape(config), 4, 1).parameters
    except _NotChecked as reason:
        yield Line("disk", "skipped", f"{_gib(free)} free; the run's need is not checked: {reason}")
        return
    # While a checkpoint is written, those that are kept lie beside it: the newest ones and the best.
    count = config.checkpoint.keep + bool(config.checkpoint.best) + 1
    need = _STATE_BYTES * weights * count + _GRADIENT_BYTES * weights
    there = sum(file.stat().st_size for name in ("checkpoints", "export") for file in _files(folder / name))
    found = f"{_gib(free)} free for up to {count} checkpoints at a time and the export, {_gib(need)}"
    found += f", of which {_gib(there)} are there" if there else ""
    fix = "free some space, give an output_dir on a larger disk, or lower checkpoint.keep"
    yield _line("disk", need - there <= free, found, fix)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []


def _earlier_run(config: DoctorConfig, folder: Path) -> Line:
    """What the output folder holds already."""
    if not folder.exists():
        return Line("output_dir", "ok", f"{folder} is not there yet and can be made")
    from socialr1_jax.training.checkpoints import whole_steps
    from socialr1_jax.training.run_folder import own_folder, refuse_another_run

    try:
        if (folder / ".lock").exists():
            with own_folder(folder):
                pass
        if (folder / "checkpoints").exists():
            refuse_another_run(config.model_copy(update={"no_step": False}), folder / "config.yaml")
    except ConfigError as error:
        fix = "give another output_dir, or go on with that run: python scripts/train_grpo.py --config "
        return Line("output_dir", "problem", _short(error), f"{fix}{folder}/config.yaml")
    last = max(whole_steps(folder / "checkpoints"), default=None)
    after = "holds no checkpoint" if last is None else f"holds this run: it goes on after step {last} of {config.steps}"
    return Line("output_dir", "ok", f"{folder} can be written to and {after}")


# ---------------------------------------------------------------------------------------------------------- the model


def _models(config: DoctorConfig) -> Iterator[Line]:
    from socialr1_jax.training.plan import shape_of

    if config.model.random:
        shape_of(config.model.path, config.model.random)
        yield Line("model", "ok", f"random weights of the shape {config.model.random}")
    elif not config.model.path:
        yield Line("model", "skipped", "not checked: model.path is not given")
    else:
        yield _weights("model", "model.path", config.model.path)
    rewards = config.rewards
    if rewards.uses.content:
        yield _weights("content model", "rewards.content.model", rewards.content.model, scalar_head=True)
    if rewards.uses.structure and rewards.structure.judge == "local":
        yield _weights("local judge", "rewards.structure.model", rewards.structure.model)


def _weights(name: str, key: str, path: str, *, scalar_head: bool = False) -> Line:
    """A model's folder with the headers of all its weight files, which are not read."""
    folder = _local(path)
    if folder is None:
        return _at_the_hub(name, path)
    from socialr1_jax.hf import open_hf
    from socialr1_jax.models.arithmetic import Arithmetic

    try:
        shape = open_hf(folder, scalar_head=scalar_head).config
    except (ValueError, OSError) as error:
        fix = f"set {key} to a whole Qwen3 folder or hub id"
        if str(folder) != path:
            fix = f"hf download {path}"
        return Line(name, "problem", _short(error), fix)
    size = Arithmetic(shape, 4, 1).parameters / 1e6
    told = f"{size / 1000:.2f} billion" if size >= 1000 else f"{size:.2f} million"
    return Line(name, "ok", f"Qwen3 of {told} parameters, all tensors there, in {folder}")


def _local(path: str) -> Path | None:
    """A model's folder on this machine: itself, or the cached snapshot of a hub id; None when there is none."""
    if Path(path).is_dir() or path.count("/") != 1 or path.startswith((".", "/", "~")):
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _at_the_hub(name: str, path: str) -> Line:
    """Of a model that would have to be downloaded."""
    import huggingface_hub

    try:
        huggingface_hub.model_info(path, timeout=_HUB_SECONDS)
    except Exception as error:  # offline, no such model, no access: of many kinds
        found = f"no folder {path!r}, not in the hub's cache here, and the hub gave no such model: {_short(error)}"
        fix = f"give a folder that is here, or, with a network (and HF_TOKEN for a gated model): hf download {path}"
        return Line(name, "problem", found, fix)
    found = f"{path} is not on this machine yet: the run's start downloads it"
    return Line(name, "warning", found, f"hf download {path}")


def _shape(config: DoctorConfig) -> Qwen3Config:
    return _shape_of(config.model.path, config.model.random)


def _shape_of(path: str, named: str = "") -> Qwen3Config:
    """The sizes of a model. What is wrong with its folder is told by the check of the model alone."""
    if not path and not named:
        raise _NotChecked("model.path is not given, so the model's sizes are not known")
    from socialr1_jax.training.plan import shape_of

    try:
        return shape_of(path, named) if named else shape_of(str(_local(path) or path))
    except (ValueError, OSError):
        raise _NotChecked(f"the sizes of {named or path} are not known") from None


def _tokenizer(config: DoctorConfig) -> Iterator[Line]:
    path = config.model.path
    if not path:
        made = "it is made from the questions" if config.model.random else "model.path is not given"
        raise _NotChecked(made)
    folder = _local(path)
    if folder is None or not folder.is_dir():
        raise _NotChecked(f"{path} is not on this machine")
    mend = f"put tokenizer.json and tokenizer_config.json of the model that {path} comes from beside its weights"
    # transformers makes an empty tokenizer of a folder without one.
    if not any((folder / name).exists() for name in ("tokenizer.json", "vocab.json")):
        yield Line("tokenizer", "problem", f"{folder} holds no tokenizer", mend)
        return
    from transformers import AutoTokenizer

    from socialr1_jax.hf import count_tokens

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        known, rows = max(tokenizer.get_vocab().values()) + 1, None
        if not config.model.random:  # which gets a vocabulary that fits
            with contextlib.suppress(_NotChecked):
                rows = _shape(config).vocab_size
                count_tokens(folder, rows)
    except Exception as error:  # of the tokenizers library too, whose errors are plain Exceptions
        yield Line("tokenizer", "problem", f"{folder}: {_short(error)}", mend)
        return
    if rows is not None and known > rows:
        found = f"{folder}: the tokenizer has the id {known - 1}, but the model's vocabulary {rows} rows"
        yield Line("tokenizer", "problem", found, mend)
        return
    told = f"{type(tokenizer).__name__} of {known:,} ids" + (f", vocabulary of {rows:,} rows" if rows else "")
    yield Line("tokenizer", "ok", told)
    split = [token for token in ("<think>", "</think>") if len(tokenizer.encode(token, add_special_tokens=False)) != 1]
    found = f"{' and '.join(split)} not one token" if split else "<think> and </think> are one token each"
    fix = "take a Qwen3 tokenizer, whose tags are single tokens: the model has to learn to spell these"
    yield _line("thoughts", not split, found, fix, "warning")
    if not tokenizer.chat_template:
        fix = f"put chat_template.jinja, or a tokenizer_config.json with chat_template, into {folder}"
        yield Line("chat template", "problem", f"{folder} has no chat template", fix)
        return
    yield _end_of_turn(config, tokenizer, folder)
    yield _prompt(config, tokenizer)


def _end_of_turn(config: DoctorConfig, tokenizer: Any, folder: Path) -> Line:
    """Whether what the template puts behind a response stops the sampler."""
    from socialr1_jax.sampling.text import stop_token_ids

    shape: Any = SimpleNamespace(eos_token_id=None)
    with contextlib.suppress(_NotChecked):
        shape = _shape(config)
    model: Any = SimpleNamespace(config=shape, source=str(folder))
    stops = stop_token_ids(model, tokenizer)
    said = "Ann."
    turns = [{"role": "user", "content": _QUESTION}, {"role": "assistant", "content": said}]
    behind = tokenizer.apply_chat_template(turns, tokenize=False).rpartition(said)[2]
    ids = tokenizer.encode(behind, add_special_tokens=False)
    names = ", ".join(tokenizer.convert_ids_to_tokens(list(stops))) or "none"
    if ids and ids[0] in stops:
        return Line("chat template", "ok", f"there; a turn ends with a stop token ({names})")
    found = f"a turn ends with {behind.strip()!r}, but the stop tokens are: {names}; responses would not end"
    fix = f"name the token in {folder}/generation_config.json: eos_token_id {ids[:1]}"
    return Line("chat template", "problem", found, fix)


def _prompt(config: DoctorConfig, tokenizer: Any) -> Line:
    """A sample question as the run would put it, to ids and back."""
    from socialr1_jax.data.one_question import typed_question
    from socialr1_jax.data.prompts import encode_prompt, question_text

    example = typed_question(_QUESTION, story=_STORY, options=_OPTIONS)
    tokens, limit = encode_prompt(tokenizer, example), config.data.max_prompt_tokens
    told = f"a sample question of {len(question_text(example))} characters is {len(tokens)} tokens"
    if question_text(example) not in tokenizer.decode(tokens):
        fix = "this is another tokenizer than the template's, or one that drops text: take the model's own"
        return Line("prompt", "problem", f"{told}, and they do not give its text back", fix)
    if len(tokens) > limit:
        found = f"{told}, data.max_prompt_tokens is {limit}"
        return Line("prompt", "warning", found, "raise data.max_prompt_tokens")
    with contextlib.suppress(_NotChecked):
        most, new = _shape(config).max_position_embeddings, config.sampling.max_new_tokens
        if limit + new > most:
            found = f"data.max_prompt_tokens {limit} + sampling.max_new_tokens {new} pass the model's {most} positions"
            return Line("prompt", "warning", found, f"lower one of them: {most} together")
    return Line("prompt", "ok", f"{told} and comes back whole; data.max_prompt_tokens is {limit}")


# ------------------------------------------------------------------------------------------------------ data and judge


def _data(config: DoctorConfig) -> Iterator[Line]:
    from socialr1_jax.data.evaluation_sets import refuse_evaluation_sets
    from socialr1_jax.data.question_sources import open_questions
    from socialr1_jax.data.tables import DataError

    data = config.data
    if config.replay_rollouts:
        there = Path(config.replay_rollouts).is_file()
        found = f"{config.replay_rollouts} is {'there' if there else 'no file'}"
        yield _line("rollouts", there, found, "set replay_rollouts to a file that save_rollouts wrote")
    if not data.train:
        raise _NotChecked("data.train is not given")
    try:
        refuse_evaluation_sets(data.train, data.train_on_evaluation_set)
    except DataError as error:
        yield Line("data.train", "problem", _short(error), "train on other questions")
    counts = []
    for key, path in [("data.train", path) for path in data.train] + [("data.eval", path) for path in data.eval]:
        try:
            questions = open_questions(
                [path], columns=data.columns, where=data.where, allow_bad_rows=data.allow_bad_rows
            )
        except DataError as error:
            fix = f"mend the file, or set {key}, data.columns and data.where so that its rows are questions"
            yield Line(key, "problem", _short(error), fix)
            continue
        bad = f", {questions.dropped:,} bad rows are dropped" if questions.dropped else ""
        yield Line(key, "ok", f"{path}: {len(questions):,} questions{bad}")
        counts.append(len(questions))
    if not data.eval and len(counts) == len(data.train) and sum(counts) <= data.holdout:
        found = f"data.holdout {data.holdout} holds out all {sum(counts)} questions: none is left to train on"
        yield Line("data.train", "problem", found, "lower data.holdout, or give data.eval")


def _judge(config: DoctorConfig) -> Iterator[Line]:
    structure = config.rewards.structure
    if not config.rewards.uses.structure or structure.judge != "endpoint":
        judge = structure.judge if config.rewards.uses.structure else "none"
        raise _NotChecked(f"this run asks no server (judge {judge}, rewards.preset {config.rewards.preset})")
    if structure.offline:
        there = Path(structure.cache).is_dir()
        found = f"answers from the cache alone; {structure.cache} is {'there' if there else 'no folder'}"
        fix = "set rewards.structure.cache to a folder of answers, or rewards.structure.offline=false"
        yield _line("judge", there, found, fix)
        return
    from socialr1_jax.rewards.verdict import JudgeRefused

    address, variable = structure.base_url, structure.api_key_env
    seconds = min(_JUDGE_SECONDS, structure.call_timeout)
    key = f"{variable} is {'set' if os.environ.get(variable, '').strip() else 'not set'}"
    listed = f'curl -H "Authorization: Bearer ${variable}" {address}/models'
    try:
        with _heard() as said:
            score, cause, taken = _ask_judge(config, seconds)
    except ImportError as error:
        yield Line("judge", "problem", _short(error), "pip install -U -e '.[judge]'")
        return
    except JudgeRefused as error:
        fix = f"put a good key into {variable}, and set rewards.structure.model to one that this lists: {listed}"
        yield Line("judge", "problem", " ".join(str(error).split()), fix)
        return
    if not cause:
        found = f"{structure.model} at {address} graded a sample with {score:.2f} in {taken:.1f} s; {key}"
        yield Line("judge", "ok", found)
        return
    what, fix = _UNANSWERED.get(cause, ("", "look at the server's log, and mend rewards.structure by it"))
    detail = f" ({what})" if what else ""
    found = f"{structure.model} at {address} gave no grade in {taken:.1f} s: {cause}{detail}; {'; '.join([key, *said])}"
    yield Line("judge", "problem", found, fix.format(listed=listed))


def _ask_judge(config: DoctorConfig, seconds: float) -> tuple[float, str, float]:
    """(score, cause of having none, seconds that it took) of one call, as the run would make it."""
    from socialr1_jax.rewards.endpoint_judge import EndpointJudge

    once = {"retries": 0, "call_timeout": seconds, "deadline": seconds, "cache": ""}
    judge = EndpointJudge(config.rewards.structure.model_copy(update=once))
    started = time.monotonic()
    try:
        verdict = judge.submit(_STORY, _QUESTION, _THOUGHTS).result(timeout=seconds + 1)
    except TimeoutError:
        return float("nan"), "timeout", time.monotonic() - started
    finally:
        judge.close()
    return verdict.score, verdict.cause, time.monotonic() - started


_RUBRIC = (
    "it answered, but not as the rubric asks",
    "take a model that follows instructions, or raise rewards.structure.max_tokens so that its answer is whole",
)
_UNANSWERED = {
    "connection": (
        "nobody listens there, or hung up",
        "start the server, or mend rewards.structure.base_url; from here this must answer: {listed}",
    ),
    "timeout": (
        "no whole answer",
        "a server that is alive answers this at once: {listed}; a slow model needs a smaller "
        "rewards.structure.max_tokens, or less thinking (rewards.structure.options)",
    ),
    "html": ("a web page: a login, or a proxy's error", "rewards.structure.base_url must go up to /v1: {listed}"),
    "not_json": ("no chat completion", "rewards.structure.base_url must go up to /v1: {listed}"),
    "http_400": ("the server does not take the request", "mend rewards.structure.options and max_tokens"),
    "http_429": ("too many requests, or no credit left", "look at the account's limits; rewards.structure has its own"),
    "token_limit": ("one call passes the limit", "raise rewards.structure.tokens_per_minute"),
    **dict.fromkeys(("no_answer", "unreadable", "contradictory", "no_score", "out_of_range"), _RUBRIC),
    "refusal": ("the model declined", "take another judge"),
}


@contextlib.contextmanager
def _heard() -> Iterator[list[str]]:
    """Within, the package's warnings go into the list and nowhere else."""
    said: list[str] = []
    log, handler = logging.getLogger("socialr1_jax"), logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(" ".join(record.getMessage().split()))  # type: ignore[method-assign]
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


# ------------------------------------------------------------------------------------------------------- one tiny step


def _step(config: DoctorConfig) -> Iterator[Line]:
    if config.no_step:
        raise _NotChecked("--no-step")
    _platform()
    from socialr1_jax.processes import in_cluster

    if in_cluster(os.environ):
        raise _NotChecked("this is one of several processes, and the tiny step is run by one alone")
    from socialr1_jax.training.grpo import train_grpo

    quiet = io.StringIO()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        folder = Path(name) / "run"
        complete = train_grpo(_tiny_run(config, folder))
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = time.monotonic() - started
    if not complete:
        raise _NotChecked("interrupted")
    loss = next(row["loss"] for row in reversed(rows) if "loss" in row)
    told = f"a GRPO step of a tiny model in {config.model.dtype}, from sampling to export, in {seconds:.0f} s"
    if loss is None:  # how metrics.jsonl has what is not finite
        found, fix = f"{told}: the loss is not finite", "model.attention=xla or model.dtype=float32 tells where from"
        yield Line("tiny step", "problem", found, fix)
    else:
        yield Line("tiny step", "ok", f"{told}: loss {loss:.4f}")


def _tiny_run(config: DoctorConfig, folder: Path) -> RunConfig:
    """A run of one step on generated stories with random weights, computed as `config` says."""
    import jax

    from socialr1_jax.models.qwen3 import check_mesh
    from socialr1_jax.models.shapes import SHAPES

    mesh = config.mesh.model_dump()
    try:
        check_mesh(SHAPES["nano"], _mesh(config))
    except (ValueError, _NotChecked):  # whole copies fit any number of devices
        mesh = {"replica": jax.device_count(), "fsdp": 1, "tensor": 1}
    return RunConfig.model_validate(
        {
            "output_dir": str(folder),
            "steps": 1,
            "model": config.model.model_dump() | {"path": "", "random": "nano"},
            "mesh": mesh,
            "data": {"train": "stories:16", "holdout": 4, "max_prompt_tokens": 512},
            "sampling": {"group_size": 2, "max_new_tokens": 8},
            # Random text has no reward: it is the entropy that moves the weights.
            "grpo": {"prompts_per_step": 4, "mini_batch_prompts": 4, "entropy_coefficient": 0.01},
            "optimizer": {"name": config.optimizer.name, "learning_rate": 1e-3},
            "evaluation": {"every": 0, "questions": 4, "samples": 2},  # as large as the step's: no other programs
            "tracking": {"tensorboard": False},
        }
    )  # fmt: skip


# The checks in their order, each with what to do when it breaks in a way that it does not know.
_CHECKS: dict[str, tuple[Callable[[DoctorConfig], Iterator[Line]], str]] = {
    "packages": (_versions, "in the repository: pip install -e ."),
    "devices": (_devices, "python -c 'import jax; print(jax.devices())' shows the whole error"),
    "attention": (_attention, "in the repository: pip install -e ."),
    "output_dir": (_output_dir, "give another output_dir"),
    "model": (_models, "set model.path to a Qwen3 folder or hub id, or model.random to a shape"),
    "memory": (_memory, "scripts/plan.py says what the run takes"),
    "tokenizer": (_tokenizer, "put the tokenizer files of the model beside its weights"),
    "data": (_data, "set data.train to a question file"),
    "judge": (_judge, "mend rewards.structure, or take rewards.structure.judge=rules"),
    "tiny step": (_step, "this is the installation, not the run: pip install -U -e . in the repository, then again"),
}
