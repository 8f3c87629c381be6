"""The report of runs: one HTML page that needs no network or server."""

from socialr1_jax.report.page import write_report

__all__ = ["write_report"]
