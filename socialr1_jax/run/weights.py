"""Load a model from a run's checkpoint."""

import os
from functools import partial
from pathlib import Path

import orbax.checkpoint as ocp
from jax.sharding import Mesh

from socialr1_jax.models.qwen3 import Qwen3, check_mesh
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.run.checkpoints import CheckpointError, differences, fault, read_run, whole_steps
from socialr1_jax.weights.declared import abstract_weight, map_weights
from socialr1_jax.weights.tokenizer_files import count_tokens


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Return True for the folder of a run or of one of its checkpoints."""
    folder = Path(os.path.expanduser(folder))
    return (folder / "checkpoints").is_dir() or (folder / "run" / "metadata").is_file()


def find_checkpoint(folder: str | os.PathLike[str], which: str = "latest") -> Path:
    """Return the folder of a checkpoint: `which` is latest, best (by `checkpoint.best`) or a number of steps.

    The folder of a checkpoint is returned unchanged. Raises CheckpointError with the available checkpoints.
    """
    folder = Path(os.path.expanduser(folder)).absolute()
    if (folder / "run" / "metadata").is_file():
        return folder
    steps = sorted(whole_steps(folder / "checkpoints"))
    if not steps:
        raise CheckpointError(f"{folder} holds no whole checkpoint")
    step = str(steps[-1]) if which == "latest" else which
    if which == "best":
        step = str(read_run(folder / "checkpoints" / str(steps[-1]))["best"].get("step", "best"))
    if step not in map(str, steps):
        base = "; its starting weights are its model.path (in its config.yaml)" if step == "0" else ""
        raise CheckpointError(f"{folder} has no checkpoint {step}; it has {', '.join(map(str, steps))}{base}")
    return folder / "checkpoints" / step


def load_policy(checkpoint: Path, mesh: Mesh | None = None, *, tokenizer: bool = True) -> Qwen3:
    """Load the float32 weights of a run's checkpoint, on the first device or in a mesh's layout "train".

    The tokenizer is the one that the run used; its tokens are counted unless `tokenizer` is false. Raises
    CheckpointError if the checkpoint is damaged.
    """
    if problem := fault(checkpoint):
        raise CheckpointError(f"{checkpoint} is damaged: {problem}")
    about = read_run(checkpoint)["about"]
    if not isinstance(about.get("model"), dict) or not isinstance(about.get("source"), str | None):
        raise CheckpointError(f"{checkpoint}: its about has no model, or a source that is not text: give another one")
    config = Qwen3Config.from_hf(about["model"], source=str(checkpoint))
    if mesh is not None:
        check_mesh(config, mesh)
    source = Path(about["source"]) if about.get("source") and os.path.isdir(about["source"]) else None
    num_tokens = count_tokens(source, config.vocab_size) if source and tokenizer else config.vocab_size

    wanted = {"params": map_weights(config, partial(abstract_weight, mesh=mesh, dtype="float32"))}
    restore_args = ocp.checkpoint_utils.construct_restore_args(wanted)
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    stored = handler.metadata(checkpoint / "state").tree
    if problems := differences(wanted, {"params": stored.get("params", {})}):
        raise CheckpointError(f"{checkpoint} does not fit the model that its about describes: {problems}")
    with ocp.Checkpointer(handler) as checkpointer:
        restored = checkpointer.restore(
            checkpoint / "state", args=ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
        )
    return Qwen3(config, restored["params"], source=str(source) if source else None, num_tokens=num_tokens)
