"""convert/: Hugging Face to Orbax and back, byte for byte; damaged folders are refused and nothing is half-written."""

import importlib.util
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from orbax_folders import save_orbax

from socialr1_jax import Qwen3, Qwen3Config, load_hf, save_hf
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.runtime.files import whole_folder
from socialr1_jax.weights.declared import map_weights
from socialr1_jax.weights.orbax_folder import load_orbax

CONVERT = Path(__file__).resolve().parents[2] / "convert"


def load_main(name):
    spec = importlib.util.spec_from_file_location(name, CONVERT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


hf_to_orbax, orbax_to_hf = load_main("hf_to_orbax"), load_main("orbax_to_hf")


def make_model(folder, *, tied, dtype, bias=False, seed=1):
    """A random Qwen3 with a tokenizer as a Hugging Face folder."""
    tokenizer = build_tokenizer(["the drawer the shelf"] * 2, 300)
    tokenizer.save_pretrained(folder / "tokenizer")
    (folder / "tokenizer" / "generation_config.json").write_text('{"temperature": 0.6}\n')
    config = Qwen3Config(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
        attention_bias=bias,
        rope_theta=5e6,
    )
    rng = np.random.default_rng(seed)  # norms and biases too: weights that change places must show

    def draw(weight, layers, spec):
        return jnp.asarray(rng.normal(size=weight.shape if layers is None else (layers, *weight.shape)), dtype)

    params = map_weights(config, draw)
    save_hf(Qwen3(config, params, source=str(folder / "tokenizer")), folder / "hf")
    return folder / "hf"


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A model as a Hugging Face folder and an Orbax folder, of which each test gets copies."""
    folder = tmp_path_factory.mktemp("originals")
    save_orbax(load_hf(make_model(folder, tied=True, dtype="float32"), dtype=None), folder / "orbax")
    return folder


@pytest.fixture
def source(originals, tmp_path):
    shutil.copytree(originals / "tokenizer", tmp_path / "tokenizer")
    return shutil.copytree(originals / "hf", tmp_path / "hf")


@pytest.fixture
def orbax(originals, source, tmp_path):
    return shutil.copytree(originals / "orbax", tmp_path / "orbax")


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


def test_each_weight_is_a_plain_orbax_checkpoint(source, orbax):
    expected = load_hf(source).params
    with ocp.StandardCheckpointer() as checkpointer:
        down = checkpointer.restore(orbax / "params" / "model.layers.mlp.down_proj.weight")["weight"]
        norm = checkpointer.restore(orbax / "params" / "model.norm.weight")["weight"]
    assert down.shape == (2, 16, 24)  # stacked layers, [out, in]
    np.testing.assert_array_equal(down, expected["layers"]["down_proj"])
    np.testing.assert_array_equal(norm, expected["norm"])


# --- what is in the way


def test_earlier_folder_of_equal_kind_is_replaced(tmp_path, source, orbax):
    before = (orbax / "manifest.json").stat().st_ino
    assert hf_to_orbax(["--src", str(source), "--dst", str(orbax)]) == 0
    assert (orbax / "manifest.json").stat().st_ino != before
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


def test_failed_conversion_leaves_the_old_folder(orbax, source, tmp_path, monkeypatch):
    before = contents(tmp_path)

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("socialr1_jax.weights.orbax_folder.copy_tokenizer_files", fail)
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
        (lambda o: (o / "manifest.json").write_text('{"version": 2'), "manifest.json is not JSON, or cut"),
        (
            lambda o: (o / "manifest.json").write_text('{"version": 1}'),
            "has version 1, this reads 2 and 3",
        ),
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
    [
        (hf_to_orbax, "no folder 'nowhere', and it is not a hub id"),
        (orbax_to_hf, "error: there is no folder nowhere: give"),
    ],
)
def test_a_source_that_is_not_there(convert, message, tmp_path, capsys):
    assert convert(["--src", "nowhere", "--dst", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- verification, interruption, numbers that are none


@pytest.mark.parametrize(("tied", "dtype"), [(True, "bfloat16"), (False, "float32")])
def test_several_files_and_verification(tmp_path, capsys, tied, dtype):
    source = make_model(tmp_path, tied=tied, dtype=dtype)
    save_hf(load_hf(source, dtype=None), tmp_path / "cut", max_file_bytes=4000)
    files = sorted((tmp_path / "cut").glob("*.safetensors"))
    assert len(files) > 3
    assert hf_to_orbax(["--src", str(tmp_path / "cut"), "--dst", str(tmp_path / "orbax"), "--verify"]) == 0
    assert orbax_to_hf(["--src", str(tmp_path / "orbax"), "--dst", str(tmp_path / "back"), "--verify"]) == 0
    assert capsys.readouterr().out.count(f"verified: the SHA-256 of all {24 + (not tied)} tensors agree") == 2
    assert contents(tmp_path / "back") == contents(source)


def test_verification_finds_a_tensor_that_differs(source, tmp_path, monkeypatch, capsys):
    real = load_orbax

    def other(folder, **options):
        model = real(folder, **options)
        model.norm.set_value(model.norm.get_value() + 1)
        return model

    monkeypatch.setattr("socialr1_jax.run.convert.load_orbax", other)
    assert hf_to_orbax(["--src", str(source), "--dst", str(tmp_path / "orbax"), "--verify"]) == 2
    assert "1 of 24 tensors differ: model.norm.weight" in capsys.readouterr().err


def test_another_dtype(source, tmp_path, orbax):
    assert orbax_to_hf(["--src", str(orbax), "--dst", str(tmp_path / "half"), "--dtype", "bfloat16", "--verify"]) == 0
    expected = load_hf(source, dtype="bfloat16")
    jax.tree.map(np.testing.assert_array_equal, load_hf(tmp_path / "half", dtype=None).params, expected.params)


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import {script} as script
from {module} import {function} as real
import {module} as module
calls = []
def killed(*arguments, **named):
    calls.append(1)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
module.{function} = killed
script.main(["--src", sys.argv[2], "--dst", sys.argv[3], *sys.argv[4:]])
"""


def killed_in_the_middle(script, module, function, *arguments):
    program = KILLED.format(script=script, module=module, function=function)
    done = subprocess.run([sys.executable, "-c", program, str(CONVERT), *map(str, arguments)], timeout=120, check=False)
    assert done.returncode == -9


def test_a_killed_conversion_to_orbax_goes_on(source, tmp_path):
    """That of another source, with the same files left behind, starts again."""
    target = tmp_path / "orbax"
    killed_in_the_middle("hf_to_orbax", "socialr1_jax.weights.orbax_folder", "_item", source, target)
    assert not target.exists()
    left = tmp_path / ".orbax.partial" / "params"
    stamps = {path.name: path.stat().st_mtime_ns for path in left.iterdir()}
    assert len(stamps) == 3
    (tmp_path / "other").mkdir()
    other = make_model(tmp_path / "other", tied=False, dtype="bfloat16", seed=2)
    shutil.copytree(tmp_path / ".orbax.partial", tmp_path / "other" / ".orbax.partial")
    assert hf_to_orbax(["--src", str(other), "--dst", str(tmp_path / "other" / "orbax"), "--verify"]) == 0
    assert load_orbax(tmp_path / "other" / "orbax").config.tie_word_embeddings is False
    assert hf_to_orbax(["--src", str(source), "--dst", str(target), "--verify"]) == 0
    assert {name: (target / "params" / name).stat().st_mtime_ns for name in stamps} == stamps
    assert not (tmp_path / ".orbax.partial").exists()


def test_a_killed_conversion_passes_no_nan_on(source, tmp_path, capsys):
    """The tensor is one of the three weights that the killed call wrote, or would have written."""
    model = load_hf(source)
    model.layers["q_norm"].set_value(model.layers["q_norm"].get_value().at[1, 3].set(np.nan))
    save_hf(model, source)
    target = tmp_path / "orbax"
    module = "socialr1_jax.weights.orbax_folder"
    killed_in_the_middle("hf_to_orbax", module, "_item", source, target, "--allow_nonfinite")
    assert len(list((tmp_path / ".orbax.partial" / "params").iterdir())) == 3
    assert hf_to_orbax(["--src", str(source), "--dst", str(target)]) == 2
    assert "NaN or infinities in model.layers.1.self_attn.q_norm.weight" in capsys.readouterr().err
    assert not target.exists()
    assert hf_to_orbax(["--src", str(source), "--dst", str(target), "--allow_nonfinite"]) == 0


def test_killed_export_leaves_the_old_folder(source, orbax, tmp_path):
    target = tmp_path / "back"
    save_hf(load_hf(source), target, max_file_bytes=4000)
    before = contents(target)
    killed_in_the_middle(
        "orbax_to_hf", "socialr1_jax.weights.hf_export", "save_file", orbax, target, "--max_file_bytes", 4000
    )
    assert contents(target) == before
    left = {file.name: file.stat().st_ino for file in (tmp_path / ".back.partial").glob("*.safetensors")}
    assert len(left) == 3
    arguments = ["--src", str(orbax), "--dst", str(target), "--max_file_bytes", "4000", "--verify"]
    assert orbax_to_hf(arguments) == 0
    assert {name: (target / name).stat().st_ino for name in left} == left
    assert contents(target) == before
    assert not (tmp_path / ".back.partial").exists()


def test_what_a_killed_save_left_is_cleared_away(source, tmp_path):
    leftover = tmp_path / ".out.partial-999999999"
    leftover.mkdir()
    aside = tmp_path / ".moved.old-999999999"
    save_hf(load_hf(source), aside)
    save_hf(load_hf(source), tmp_path / "out")
    assert not leftover.exists()
    with whole_folder(tmp_path / "moved", marker="config.json") as partial:
        load_hf(tmp_path / "moved")  # the one that was set aside is back
        (partial / "new.txt").write_text("new")
    assert list(contents(tmp_path / "moved")) == ["new.txt"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_loading_refuses_what_is_no_number(tmp_path, dtype):
    names = spoil(make_model(tmp_path, tied=True, dtype=dtype))
    with pytest.raises(ValueError, match=f"NaN or infinities in {', '.join(names)}; allow_nonfinite=True"):
        load_hf(tmp_path / "hf")


def spoil(source):
    """Writes NaN and infinities into three tensors; returns their names."""
    model = load_hf(source, dtype=None)
    for name, value in {"q_norm": np.nan, "k_norm": np.inf, "input_layernorm": -np.inf}.items():
        model.layers[name].set_value(model.layers[name].get_value().at[1, 3].set(value))
    save_hf(model, source)
    return [f"model.layers.1.{part}.weight" for part in ("input_layernorm", "self_attn.k_norm", "self_attn.q_norm")]


def test_numbers_that_are_none_are_refused_by_name(tmp_path, capsys):
    source = make_model(tmp_path, tied=True, dtype="bfloat16")
    names = spoil(source)
    with pytest.raises(ValueError, match=f"NaN or infinities in {', '.join(names)}; allow_nonfinite=True"):
        load_hf(source)
    assert hf_to_orbax(["--src", str(source), "--dst", str(tmp_path / "orbax")]) == 2
    assert "NaN or infinities in model.layers.1" in capsys.readouterr().err  # after the first weight with one
    assert not (tmp_path / "orbax").exists()
    assert not list(tmp_path.glob(".orbax*"))
    arguments = ["--src", str(source), "--dst", str(tmp_path / "orbax"), "--allow_nonfinite", "--verify"]
    assert hf_to_orbax(arguments) == 0
    load_hf(source, allow_nonfinite=True)
    back = ["--src", str(tmp_path / "orbax"), "--dst", str(tmp_path / "back")]
    assert orbax_to_hf(back) == 2
    error = capsys.readouterr().err
    assert "NaN or infinities in model.layers.1" in error
    assert all(name in error for name in names)
    assert not (tmp_path / "back").exists()
    assert orbax_to_hf([*back, "--allow_nonfinite", "--verify"]) == 0
    assert contents(tmp_path / "back") == contents(source)


def test_number_too_large_for_the_dtype_is_refused(source, tmp_path, capsys):
    model = load_hf(source, dtype=None)
    model.norm.set_value(model.norm.get_value().at[2].set(1e6))
    save_orbax(model, tmp_path / "orbax")
    save_hf(model, tmp_path / "large")
    for convert, name in ((orbax_to_hf, "orbax"), (hf_to_orbax, "large")):
        arguments = ["--src", str(tmp_path / name), "--dst", str(tmp_path / "half"), "--dtype", "float16"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert convert(arguments) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert "numbers too large for float16 in model.norm.weight: take bfloat16 or float32" in error
        assert convert([*arguments, "--allow_nonfinite", "--verify"]) == 0
        capsys.readouterr()
        shutil.rmtree(tmp_path / "half")


def test_a_weight_lies_in_chunks(source, tmp_path, monkeypatch):
    """A process of a mesh then reads the chunks that its devices need."""
    monkeypatch.setattr("socialr1_jax.weights.orbax_folder._CHUNK", 256)
    save_orbax(load_hf(source), tmp_path / "orbax")
    with ocp.StandardCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(tmp_path / "orbax/params/model.embed_tokens.weight")
    assert 4 * np.prod(metadata.item_metadata["weight"].storage.chunk_shape) <= 256
    jax.tree.map(np.testing.assert_array_equal, load_orbax(tmp_path / "orbax").params, load_hf(source).params)


@pytest.mark.parametrize("script", ["hf_to_orbax", "orbax_to_hf"])
def test_a_write_that_fails_leaves_the_old_folder(script, source, orbax, tmp_path):
    """The system refuses files above 2 kB, as a full disk would; nothing is patched."""
    old, src = (orbax, source) if script == "hf_to_orbax" else (source, orbax)
    target = tmp_path / "target"
    old.rename(target) if script == "hf_to_orbax" else save_hf(load_hf(source), target)
    before = contents(tmp_path)
    program = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
        f"sys.path.insert(0, {str(CONVERT)!r}); import {script} as s; sys.exit(s.main(sys.argv[1:]))"
    )
    arguments = [sys.executable, "-c", program, "--src", str(src), "--dst", str(target)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr.splitlines()[-1]
    assert contents(tmp_path) == before
