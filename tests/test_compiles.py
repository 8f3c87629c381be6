"""Compiled programs are kept between processes, where the settings of JAX do not say otherwise."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import jax, jax.numpy as jnp
from socialr1_jax.compiles import compile_count, keep_programs
keep_programs()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
print(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).sum())
print(sum(event.endswith("cache_hits") for event in hits), sum(event.endswith("cache_misses") for event in hits))
"""


def run(tmp_path, **environment) -> list[int]:
    """How many programs were read, and how many compiled."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    where = {"XDG_CACHE_HOME": str(tmp_path / "home"), "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=kept | where | environment, capture_output=True, text=True, check=True
    )
    return [int(number) for number in found.stdout.split()[-2:]]


@pytest.mark.parametrize("named", [False, True])
def test_the_second_process_reads_what_the_first_compiled(tmp_path, named):
    there = tmp_path / "named" if named else tmp_path / "home" / "socialr1_jax"
    settings = {"JAX_COMPILATION_CACHE_DIR": str(there)} if named else {}
    read, compiled = run(tmp_path, **settings)
    assert read == 0
    assert compiled > 0
    assert any(file.is_file() for file in there.rglob("*"))
    assert run(tmp_path, **settings) == [compiled, 0]
    assert (tmp_path / "home").exists() is not named


def test_nothing_is_kept_where_that_is_asked_for(tmp_path):
    run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "home").exists()
