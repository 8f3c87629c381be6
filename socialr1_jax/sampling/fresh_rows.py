"""The state of rows that begin, in NumPy, before it is placed on the devices."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from socialr1_jax.models.temperature import LARGEST, SMALLEST
from socialr1_jax.runtime.mesh import place
from socialr1_jax.sampling.decode import LIVE, NO_BUDGET, DecodeState, free_rows

if TYPE_CHECKING:
    from socialr1_jax.sampling.batch import Group


class FreshRows:
    """The state of new rows in NumPy; rows that are not set are free.

    With `vocabulary` > 0 it records which tokens a row contains, for repetition penalties.
    """

    def __init__(self, rows: int, stops: int, vocabulary: int = 0) -> None:
        self.state: Any = jax.tree.map(np.copy, free_rows(np, rows, stops, vocabulary))  # fields share no array

    def set(self, at: int, group: "Group", sample: int) -> None:
        state, params = self.state, group.params
        state.last_b[at], state.positions_b[at] = group.prompt[-1], len(group.prompt) - 1
        state.left_b[at], state.ended_b[at] = params.max_new_tokens, LIVE
        state.thinking_b[at] = NO_BUDGET if params.thinking_budget is None else params.thinking_budget
        how = state.sampling
        how.keys_b[at] = group.keys[sample]
        # Clip before the cast to float32, which would turn tiny numbers into 0 and huge ones into inf. 0 stays 0.
        how.temperature_b[at] = params.temperature and np.clip(params.temperature, SMALLEST, LARGEST)
        how.top_k_b[at], how.top_p_b[at], how.min_p_b[at] = params.top_k, params.top_p, params.min_p
        how.penalty_b[at] = params.repetition_penalty
        if state.seen_bv is not None:
            state.seen_bv[at, list(group.prompt)] = True
        how.stops_bi[at, : len(set(params.stop_token_ids))] = sorted(set(params.stop_token_ids))
        how.think_end_b[at] = -1 if params.think_end_id is None else params.think_end_id

    def placed(self) -> DecodeState:
        return jax.tree.map(place, self.state)
