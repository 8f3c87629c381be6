"""The output folder: whether it can be written to, what it holds already, and room on its disk."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from socialr1_jax.config import ConfigError
from socialr1_jax.ownership import ForeignFile, refuse_foreign_folder
from socialr1_jax.terminal import counted
from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, gib, good_or, short
from socialr1_jax.training.doctor.memory import GRADIENT_BYTES, STATE_BYTES
from socialr1_jax.training.doctor.model import model_shape, parameters
from socialr1_jax.training.epochs import in_steps


def check_folder(config: DoctorConfig) -> Iterator[Line]:
    folder, above = _folders(config)
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        reason = f"{above} is not a folder" if not above.is_dir() else (error.strerror or str(error))
        fix = f"give another output_dir, or make {above} a folder that you may write to"
        yield Line("output_dir", "problem", f"{folder} cannot be written to: {reason}", fix)
        return
    if not folder.exists():
        yield Line("output_dir", "ok", f"{folder} is not there yet and can be made")
        return
    from socialr1_jax.training.checkpoints import whole_steps
    from socialr1_jax.training.run_folder import own_folder, refuse_another_run, refuse_foreign_files
    from socialr1_jax.training.run_questions import read_run_questions

    if config.epochs and (folder / "config.yaml").exists():
        try:
            questions, _ = read_run_questions(config)
            config, _ = in_steps(config, len(questions), config.grpo.prompts_per_step)
        except ValueError as error:
            raise NotChecked(f"the number of steps of epochs {config.epochs:g} is unknown: {short(error)}") from None
    try:
        refuse_foreign_files(folder)
        if (folder / ".lock").exists():
            with own_folder(folder):
                pass
        refuse_another_run(config.model_copy(update={"no_step": False}), folder / "config.yaml")
        refuse_foreign_folder(folder / "export", "config.json")
    except (ConfigError, ForeignFile) as error:
        yield Line("output_dir", "problem", short(error), "give another output_dir, or what else this names")
        return
    last = max(whole_steps(folder / "checkpoints"), default=None)
    after = "holds no checkpoint" if last is None else f"holds this run: it resumes after step {last} of {config.steps}"
    yield Line("output_dir", "ok", f"{folder} can be written to and {after}")


def check_disk(config: DoctorConfig) -> Iterator[Line]:
    folder, above = _folders(config)
    free = shutil.disk_usage(above).free
    try:
        weights = parameters(model_shape(config))
    except NotChecked as reason:
        raise NotChecked(f"{gib(free)} are free, but what the run needs is unknown: {reason}") from None

    def needed(keep: int) -> tuple[int, int]:
        # While a checkpoint is written, those that are kept lie beside it: the newest ones and the best.
        count = keep + bool(config.checkpoint.best) + 1
        return count, STATE_BYTES * weights * count + GRADIENT_BYTES * weights

    count, need = needed(config.checkpoint.keep)
    files = (file for name in ("checkpoints", "export") for file in (folder / name).rglob("*"))
    there = sum(file.stat().st_size for file in files if file.is_file())
    found = f"{gib(free)} free for up to {counted(count, 'checkpoint')} at a time and the export, {gib(need)}"
    found += f", of which {gib(there)} are there" if there else ""
    fix = f"free {gib(need - there - free)}, or give an output_dir on a larger disk"
    keeps = (keep for keep in range(config.checkpoint.keep - 1, 0, -1) if needed(keep)[1] - there <= free)
    if keep := next(keeps, None):
        fix += f", or set checkpoint.keep to {keep}, which needs {gib(needed(keep)[1])}"
    yield good_or("problem", "disk", need - there <= free, found, fix)


def _folders(config: DoctorConfig) -> tuple[Path, Path]:
    """The output folder, and itself or the nearest folder above it that is there."""
    folder = Path(config.output_dir).absolute()
    return folder, next(path for path in (folder, *folder.parents) if path.exists())
