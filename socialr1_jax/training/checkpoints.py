"""Checkpoints of a run through orbax: weights, moments and the step; the newest few are kept."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from socialr1_jax.config import CheckpointConfig
from socialr1_jax.grpo.update import TrainState


class Checkpoints:
    """Saves and restores a TrainState. A checkpoint's number is the count of finished steps."""

    def __init__(self, folder: Path, config: CheckpointConfig) -> None:
        options = ocp.CheckpointManagerOptions(max_to_keep=config.keep, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    @property
    def latest(self) -> int | None:
        """Steps finished at the newest checkpoint; None when there is none."""
        return self._manager.latest_step()

    def save(self, finished: int, state: TrainState) -> None:
        if finished != self.latest:
            self._manager.save(finished, args=ocp.args.StandardSave(state._asdict()))

    def restore(self, state: TrainState) -> TrainState:
        """The newest checkpoint, laid out as `state`, whose values are not used."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state._asdict())
        return TrainState(**self._manager.restore(self.latest, args=ocp.args.StandardRestore(abstract)))

    def close(self) -> None:
        self._manager.close()
