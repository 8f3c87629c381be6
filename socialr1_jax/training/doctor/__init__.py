"""Whether a run can start on this machine: what is there, what is wrong, and what to do about it."""

from socialr1_jax.training.doctor.line import DoctorConfig, Line, say_sum, show
from socialr1_jax.training.doctor.runner import examine, examine_apart

__all__ = ["DoctorConfig", "Line", "examine", "examine_apart", "say_sum", "show"]
