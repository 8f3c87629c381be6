"""convert/: Hugging Face to Orbax and back, byte for byte; damaged folders are refused and nothing is half-written."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from socialr1_jax import Qwen3, Qwen3Config, load_hf, save_hf
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.hf import map_weights
from socialr1_jax.orbax_folder import load_orbax, save_orbax

CONVERT = Path(__file__).resolve().parents[1] / "convert"


def load_main(name):
    spec = importlib.util.spec_from_file_location(name, CONVERT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


hf_to_orbax, orbax_to_hf = load_main("hf_to_orbax"), load_main("orbax_to_hf")


def make_model(folder, *, tied, dtype, bias=False):
    """A random Qwen3 with a tokenizer as a Hugging Face folder."""
    tokenizer = build_tokenizer(["the drawer the shelf"] * 2, 300)
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "tokenizer" / "generation_config.json").write_text('{"temperature": 0.6}\n')
    config = Qwen3Config(
        vocab_size=320, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied, attention_bias=bias, rope_theta=5e6,
    )  # fmt: skip
    rng = np.random.default_rng(1)  # norms and biases too: weights that change places must show

    def draw(weight, layers, spec):
        return jnp.asarray(rng.normal(size=weight.shape if layers is None else (layers, *weight.shape)), dtype)

    params = map_weights(config, draw)
    save_hf(Qwen3(config, params, source=str(folder / "tokenizer")), folder / "hf")
    return folder / "hf"


@pytest.fixture
def source(tmp_path):
    return make_model(tmp_path, tied=True, dtype="float32")


@pytest.fixture
def orbax(source, tmp_path):
    save_orbax(load_hf(source, dtype=None), tmp_path / "orbax")
    return tmp_path / "orbax"


def contents(folder):
    """relative path -> bytes of every file, hidden and temporary ones too."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize(
    ("tied", "bias", "dtype"), [(True, False, "float32"), (False, True, "bfloat16"), (True, True, "float16")]
)
def test_there_and_back_is_byte_equal(tmp_path, capsys, tied, bias, dtype):
    source = make_model(tmp_path, tied=tied, bias=bias, dtype=dtype)
    before = contents(source)
    assert len(before) == 5 + ("chat_template.jinja" in before)  # weights, two configurations, two tokenizer files
    assert hf_to_orbax(["--src", str(source), "--dst", str(tmp_path / "orbax")]) == 0
    assert orbax_to_hf(["--src", str(tmp_path / "orbax"), "--dst", str(tmp_path / "back")]) == 0
    assert contents(tmp_path / "back") == before == contents(source)
    assert capsys.readouterr().out.count(": converted from ") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "hf", "orbax", "tokenizer"]


def test_load_orbax_gives_the_model_of_load_hf(source, orbax):
    model, expected = load_orbax(orbax), load_hf(source)
    assert model.config == expected.config
    assert model.num_tokens == expected.num_tokens < 320
    jax.tree.map(np.testing.assert_array_equal, model.params, expected.params)
    tokens_bt, lengths_b = np.arange(12).reshape(2, 6), np.array([6, 4])
    np.testing.assert_array_equal(model(tokens_bt, lengths_b)[0], expected(tokens_bt, lengths_b)[0])


def test_params_are_a_plain_orbax_checkpoint_of_the_training_tree(source, orbax):
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(orbax / "params")
    expected = load_hf(source).params
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    assert tree["layers"]["down_proj"].shape == (2, 16, 24)  # stacked layers, [out, in]
    jax.tree.map(np.testing.assert_array_equal, tree, expected)


# --- what is in the way


def test_an_earlier_folder_of_the_same_kind_is_replaced(tmp_path, source, orbax):
    (orbax / "left-over.txt").write_text("old")
    assert hf_to_orbax(["--src", str(source), "--dst", str(orbax)]) == 0
    assert not (orbax / "left-over.txt").exists()
    load_orbax(orbax)
    (tmp_path / "empty").mkdir()
    save_orbax(load_orbax(orbax), tmp_path / "empty")
    load_orbax(tmp_path / "empty")


def test_any_other_folder_is_left_alone(source, tmp_path, capsys):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    before = contents(tmp_path)
    assert hf_to_orbax(["--src", str(source), "--dst", str(tmp_path / "notes")]) == 2
    error = capsys.readouterr().err
    assert "notes is not empty and has no manifest.json: choose another folder or empty it" in error
    assert contents(tmp_path) == before


@pytest.mark.parametrize("convert", [hf_to_orbax, orbax_to_hf])
@pytest.mark.parametrize("target", ["model", "model/", "model/../model", "."])
def test_the_source_is_never_replaced(convert, target, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        convert(["--src", "model", "--dst", target])
    assert stop.value.code == 2
    assert f"dst {target} would replace src model; give another dst" in capsys.readouterr().err


def test_a_failed_conversion_leaves_the_old_folder_and_no_other(orbax, source, tmp_path, monkeypatch):
    before = contents(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("socialr1_jax.orbax_folder.copy_tokenizer_files", fail)
    assert hf_to_orbax(["--src", str(source), "--dst", str(orbax)]) == 2
    assert contents(tmp_path) == before


# --- damaged or wrong sources


def data_file(orbax):
    """The largest file: it holds weights."""
    return max((f for f in (orbax / "params").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda o: data_file(o).unlink(), "is absent"),
        (lambda o: data_file(o).write_bytes(data_file(o).read_bytes()[:-1]), "is cut or altered"),
        (lambda o: flip(data_file(o)), "is cut or altered"),  # Orbax alone would load another number
        (lambda o: flip(o / "config.json"), "config.json is cut or altered"),
        (lambda o: (o / "tokenizer.json").unlink(), "tokenizer.json is absent"),
        (lambda o: (o / "manifest.json").unlink(), "has no manifest.json: not a folder of hf_to_orbax.py"),
        (lambda o: (o / "manifest.json").write_text('{"version": 1'), "manifest.json is not JSON, or cut"),
        (lambda o: (o / "manifest.json").write_text('{"version": 2}'), "manifest.json has version 2, this reads 1"),
    ],
)
def test_a_damaged_folder_is_refused(orbax, tmp_path, capsys, damage, message):
    damage(orbax)
    assert orbax_to_hf(["--src", str(orbax), "--dst", str(tmp_path / "back")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "back").exists()


def test_every_damage_is_named_at_once(orbax):
    (orbax / "tokenizer.json").unlink()
    flip(orbax / "tokenizer_config.json")
    with pytest.raises(ValueError, match=r"tokenizer\.json is absent; tokenizer_config\.json is cut or altered"):
        load_orbax(orbax)


def test_the_manifest_names_every_file_but_itself(orbax):
    listed = set(json.loads((orbax / "manifest.json").read_text())["files"])
    assert listed == set(contents(orbax)) - {"manifest.json"}


@pytest.mark.parametrize(
    ("convert", "message"),
    [(hf_to_orbax, "no folder 'nowhere', and it is not a hub id"), (orbax_to_hf, "nowhere has no manifest.json")],
)
def test_a_source_that_is_not_there(convert, message, tmp_path, capsys):
    assert convert(["--src", "nowhere", "--dst", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_and_an_unknown_key_do_not_wait_for_jax():
    """In a process of its own: both scripts' `--help`, then a misspelt key, then what has been imported."""
    program = f"""
import runpy, sys
for name in ("hf_to_orbax", "orbax_to_hf"):
    for arguments, status in ((["--help"], 0), (["--source", "m"], 2)):
        sys.argv = [name + ".py", *arguments]
        try:
            runpy.run_path({str(CONVERT)!r} + f"/{{name}}.py", run_name="__main__")
        except SystemExit as stop:
            assert stop.code == status, stop.code
heavy = {{"jax", "orbax", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("folder to write") == 2
    assert done.stderr.count("unknown key 'source'; did you mean 'src'?") == 2
