"""What a script sets before JAX starts: programs and memory are kept, flags are added, settings of the user win."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import yaml

from socialr1_jax.runtime.startup import memory_share, set_xla_flags, take_memory, tune_compiler

CONFIGS = Path(__file__).parents[2] / "configs"
KEPT_PROGRAMS = """
import jax, jax.numpy as jnp
from socialr1_jax.runtime.startup import keep_programs
keep_programs()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
print(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).sum())
print(sum(event.endswith("cache_hits") for event in hits), sum(event.endswith("cache_misses") for event in hits))
"""
# A program with a result of 64 MiB, and the pages that its last ten of thirty calls had to be given. The first calls
# find the room that later ones take again.
KEPT_MEMORY = """
import resource, sys
from socialr1_jax.runtime.startup import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
import jax, jax.numpy as jnp
program = jax.jit(lambda x: x + 1.0)
x = jnp.ones((4096, 4096))
for call in range(30):
    if call == 20:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    program(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


# The import of transformers where there is no PyTorch.
NO_TORCH = """
import importlib.util, socialr1_jax
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else find(name, package)
import transformers
assert not transformers.utils.is_torch_available()
"""


def run_program(text: str, *arguments: str, **environment: str) -> list[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    found = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        env=kept | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return found.stdout.split()


def reads_and_compilations(tmp_path, **environment) -> list[int]:
    """How many programs were read, and how many compiled."""
    where = {"XDG_CACHE_HOME": str(tmp_path / "home")}
    return [int(number) for number in run_program(KEPT_PROGRAMS, **where | environment)[-2:]]


@pytest.mark.parametrize("named", [False, True])
def test_the_second_process_reads_what_the_first_compiled(tmp_path, named):
    there = tmp_path / "named" if named else tmp_path / "home" / "socialr1_jax"
    settings = {"JAX_COMPILATION_CACHE_DIR": str(there)} if named else {}
    read, compiled = reads_and_compilations(tmp_path, **settings)
    assert read == 0
    assert compiled > 0
    assert any(file.is_file() for file in there.rglob("*"))
    assert reads_and_compilations(tmp_path, **settings) == [compiled, 0]
    assert (tmp_path / "home").exists() is not named


def test_nothing_is_kept_where_that_is_asked_for(tmp_path):
    reads_and_compilations(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false")
    assert not (tmp_path / "home").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_later_calls_take_hardly_any_new_pages():
    pages = {how: int(run_program(KEPT_MEMORY, how)[-1]) for how in ("kept", "left")}
    assert pages["left"] > 50_000  # or the program has become too small to tell
    assert pages["kept"] < pages["left"] / 4


def test_flags_are_added_before_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=1")
    set_xla_flags(("--xla_backend_optimization_level=0", "--xla_cpu_use_xnnpack=false"))
    assert os.environ["XLA_FLAGS"].split() == [
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_xnnpack=false",
        "--xla_backend_optimization_level=1",
    ]
    monkeypatch.delenv("XLA_FLAGS")
    set_xla_flags(())
    assert "XLA_FLAGS" not in os.environ


def test_the_last_flag_wins(tmp_path):
    """What `set_xla_flags` relies on: two values of one flag, and the dumped module says which was taken."""
    text = "import jax; jax.jit(lambda x: x * 2)(1.0).block_until_ready()"
    folders = [tmp_path / "first", tmp_path / "last"]
    run_program(text, XLA_FLAGS=" ".join(f"--xla_dump_to={folder}" for folder in folders))
    assert [folder.exists() for folder in folders] == [False, True]


@pytest.mark.parametrize(("asked", "lines"), [({}, 0), ({"TRANSFORMERS_NO_ADVISORY_WARNINGS": ""}, 1)])
def test_a_missing_pytorch_is_no_news_unless_asked(asked, lines):
    kept = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_NO_ADVISORY_WARNINGS"}
    done = subprocess.run([sys.executable, "-c", NO_TORCH], env=kept | asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("PyTorch was not found") == lines


OVERLAP = [(8.0, 8, "", "O1"), (8.9, 2, "", "O1"), (8.0, 1, "", "UNKNOWN"), (9.0, 8, "", "UNKNOWN")]
OVERLAP += [(0, 8, "", "UNKNOWN"), (8.0, 8, "O2", "UNKNOWN")]


@pytest.mark.parametrize(("capability", "devices", "users", "level"), OVERLAP)
def test_collectives_overlap_on_several_older_gpus(capability, devices, users, level, monkeypatch):
    """A user's own level stays what it is: here JAX's, which has started without it."""
    monkeypatch.delenv("JAX_OPTIMIZATION_LEVEL", raising=False)
    if users:
        monkeypatch.setenv("JAX_OPTIMIZATION_LEVEL", users)
    try:
        tune_compiler(capability, devices)
        assert jax.config.jax_optimization_level == level
        assert jax.config.jax_compiler_enable_remat_pass == (capability == 0)
        monkeypatch.setenv("JAX_COMPILER_ENABLE_REMAT_PASS", "true")
        jax.config.update("jax_compiler_enable_remat_pass", True)
        tune_compiler(capability, devices)
        assert jax.config.jax_compiler_enable_remat_pass
    finally:
        jax.config.update("jax_optimization_level", "UNKNOWN")
        jax.config.update("jax_compiler_enable_remat_pass", True)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_xla_knows_the_flags_of_configurations(file):
    flags = yaml.safe_load(file.read_text()).get("xla_flags", [])
    options = dict(flag.removeprefix("--").split("=") for flag in flags)
    jax.jit(lambda: 1).lower().compile(compiler_options=options)


@pytest.mark.parametrize(
    ("given", "share"),
    [({}, 0.92), ({"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, 0.5), ({"XLA_CLIENT_MEM_FRACTION": ".6"}, 0.6)],
)
def test_plans_know_the_memory_that_jax_takes(given, share, monkeypatch):
    monkeypatch.setattr("os.environ", given.copy())
    take_memory()
    assert memory_share() == share
    pinned = int(os.environ.pop("XLA_PJRT_GPU_HOST_MEMORY_LIMIT_GB"))  # of XLA, 64 without it
    assert pinned == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    assert len(os.environ) == 1
