"""All checks in their order, and the process of its own that they run in."""

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection

from socialr1_jax.terminal import keep_streams
from socialr1_jax.training.doctor.data import check_data
from socialr1_jax.training.doctor.devices import WHOLE_ERROR, check_attention, check_devices, check_mesh
from socialr1_jax.training.doctor.folder import check_disk, check_folder
from socialr1_jax.training.doctor.judge import check_functions, check_judge
from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, short
from socialr1_jax.training.doctor.memory import check_memory
from socialr1_jax.training.doctor.model import check_models
from socialr1_jax.training.doctor.packages import check_packages
from socialr1_jax.training.doctor.step import check_step
from socialr1_jax.training.doctor.tokenizer import check_tokenizer

LONGEST_CHECK = 600.0  # seconds between two lines, the compilation of the tiny step included
_KEYS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
_MESH = (
    "set mesh.replica, mesh.fsdp (0 = all that is left) and mesh.tensor so that they multiply to the devices and "
    "divide the model's sizes"
)
# Each check imports what it needs itself, so that a package that is broken is one line. With what to do when it raises.
CHECKS: dict[str, tuple[Callable[[DoctorConfig], Iterator[Line]], str]] = {
    "packages": (check_packages, "in the repository: pip install -e ."),
    "devices": (check_devices, WHOLE_ERROR),
    "mesh": (check_mesh, _MESH),
    "attention": (check_attention, "model.attention=auto takes what this machine has"),
    "output_dir": (check_folder, "give another output_dir"),
    "disk": (check_disk, "give another output_dir"),
    "model": (check_models, "set model.path to a Qwen3 folder or hub id, or model.random to a shape"),
    "memory": (check_memory, "scripts/plan.py says what the run takes"),
    "tokenizer": (check_tokenizer, "put the tokenizer files of the model beside its weights"),
    "data": (check_data, "set data.train to a question file"),
    "judge": (check_judge, "correct rewards.structure, or take rewards.structure.judge=rules"),
    "own rewards": (check_functions, "correct the file, or rewards.extra"),
    "tiny step": (check_step, "this is the installation, not the run: pip install -U -e . in the repository"),
}


def examine(config: DoctorConfig) -> Iterator[Line]:
    """The lines of all checks, each as soon as it is there. Never raises; keys of services are in no line."""
    for name in CHECKS:
        yield from _without_keys(_guarded(name, config), config)


def examine_apart(config: DoctorConfig) -> Iterator[Line]:
    """The same from a process of its own: a compiler that aborts or a device that hangs is a line, too."""
    ours, theirs = (context := multiprocessing.get_context("spawn")).Pipe(duplex=False)
    process = context.Process(target=_send, args=(config, theirs), daemon=True)
    process.start()
    theirs.close()  # so that its end is ours to see
    left = list(CHECKS)  # the first of them is running
    try:
        while left and ours.poll(LONGEST_CHECK):
            if (told := ours.recv()) is None:
                left.pop(0)
            else:
                yield told
        ended = f"nothing after {LONGEST_CHECK:.0f} s: the check hangs"
    except EOFError:
        process.join()
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"
        ended = f"the process {how} in this check; above is what it said"
    finally:
        process.kill()
        process.join()
    if left:
        yield Line(left[0], "problem", ended, CHECKS[left[0]][1])
        yield from (Line(other, "skipped", "not checked: the checks ended before") for other in left[1:])


def _send(config: DoctorConfig, pipe: Connection) -> None:
    """The lines of each check, and None at its end."""
    keep_streams()
    logging.getLogger("socialr1_jax").setLevel(logging.CRITICAL)  # what a check found is in its lines
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        for name in CHECKS:
            for line in _without_keys(_guarded(name, config), config):
                pipe.send(line)
            pipe.send(None)


def _guarded(name: str, config: DoctorConfig) -> Iterator[Line]:
    """The check's lines; what it raises is a line too."""
    check, fix = CHECKS[name]
    try:
        yield from check(config)
    except NotChecked as reason:
        yield Line(name, "skipped", f"not checked: {reason}")
    except Exception as error:  # of whatever is broken here: that is what the doctor is for
        yield Line(name, "problem", short(error), fix)


def _without_keys(lines: Iterator[Line], config: DoctorConfig) -> Iterator[Line]:
    keys = [os.environ.get(key, "").strip() for key in (*_KEYS, config.rewards.structure.api_key_env)]
    for line in lines:
        for key in keys:
            if len(key) >= 8:  # a shorter one ("none", "EMPTY") is no secret
                line = replace(line, found=line.found.replace(key, "[key]"), fix=line.fix.replace(key, "[key]"))
        yield line
