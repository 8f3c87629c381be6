"""Check the models of the run: its own, the content reward's and a local judge. No weight is read."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from socialr1_jax.config import ConfigError
from socialr1_jax.hub import find_snapshot, is_hub_id
from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, short


def check_models(config: DoctorConfig) -> Iterator[Line]:
    from socialr1_jax.training.plan import shape_of

    model, rewards = config.model, config.rewards
    if model.random:
        shape_of("", model.random)
        yield Line("model", "ok", f"random weights of the shape {model.random}")
    elif model.path:
        yield _weights("model", "model.path", model.path, ignore_fields=model.ignore_fields)
    else:
        yield Line("model", "skipped", "not checked: model.path is not given")
    if rewards.uses.content:
        yield _weights("content model", "rewards.content.model", rewards.content.model, scalar_head=True)
    if rewards.uses.structure and rewards.structure.judge == "local":
        yield _weights("local judge", "rewards.structure.model", rewards.structure.model)


def model_shape(config: DoctorConfig) -> Qwen3Config:
    """Returns the sizes of the run's model; see `shape_at`."""
    return shape_at(config.model.path, config.model.random, config.model.ignore_fields)


def shape_at(path: str, named: str = "", ignore_fields: Sequence[str] = ()) -> Qwen3Config:
    """Returns the sizes of a model. Faults of its folder are reported by the check of the models alone."""
    if not path and not named:
        raise NotChecked("model.path is not given, so the model's sizes are not known")
    from socialr1_jax.training.plan import shape_of

    try:
        return shape_of(path, named) if named else shape_of(str(local(path) or path), "", ignore_fields)
    except (ValueError, OSError):
        raise NotChecked(f"the sizes of {named or path} are not known") from None


def parameters(shape: Qwen3Config) -> int:
    return Arithmetic(shape, 4, 1).parameters


def local(path: str, key: str = "model.path") -> Path | None:
    """Returns a model's folder on this machine: itself, or the cached snapshot of a hub id; None if there is none.

    Raises ConfigError naming the setting `key` if `path` can be neither.
    """
    if Path(path).is_dir() or not is_hub_id(path):
        return Path(path)
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return find_snapshot(path, local_files_only=True)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ConfigError(f"{key} {path!r} is not a folder and cannot be a hub id: {short(error)}") from error


def _weights(name: str, key: str, path: str, *, scalar_head: bool = False, ignore_fields: Sequence[str] = ()) -> Line:
    """Checks a model's folder with the headers of all its weight files."""
    fix = f"set {key} to a whole Qwen3 folder or hub id"
    try:
        folder = local(path, key)
    except ConfigError as error:
        return Line(name, "problem", str(error), fix)
    if folder is None:
        found = f"{path} is not on this machine yet: the run's start downloads it"
        return Line(name, "warning", found, f"hf download {path} (with HF_TOKEN for a gated model)")
    from socialr1_jax.hf import open_hf

    try:
        source = open_hf(folder, dtype="float32", scalar_head=scalar_head, ignore_fields=ignore_fields)
        size = parameters(source.config) / 1e6
    except (ValueError, OSError) as error:
        cached = str(folder) != path
        return Line(name, "problem", short(error), f"hf download {path}" if cached else fix)
    count = f"{size / 1000:.2f} billion" if size >= 1000 else f"{size:.2f} million"
    return Line(name, "ok", f"Qwen3 of {count} parameters, all tensors there, in {folder}")
