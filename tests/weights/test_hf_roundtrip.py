"""Hugging Face folders in and out: byte-equal tensors, both styles of config.json, refusals, and damaged files."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from conftest import ARCHITECTURES
from flax import nnx
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from socialr1_jax import load_hf, save_hf

COMPANIONS = {
    "tokenizer.json": '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": []}',
    "tokenizer_config.json": '{"model_max_length": 64}',
    "vocab.json": '{"a": 0}',
    "merges.txt": "#version: 0.2\na b\n",
    "special_tokens_map.json": '{"eos_token": "<|im_end|>"}',
    "added_tokens.json": '{"<|im_end|>": 5}',
    "chat_template.jinja": "{{ messages }}\n",
    "generation_config.json": '{\n  "do_sample": true,\n  "temperature": 0.6\n}\n',
}


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for file in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(file, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118 (safe_open is not a mapping)
                assert name not in tensors, f"{name} is in two files"
                tensors[name] = handle.get_tensor(name)
    return tensors


def tensor_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def assert_same_tensors(folder, expected: dict[str, torch.Tensor]):
    found = read_tensors(folder)
    assert sorted(found) == sorted(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert tensor_bytes(found[name]) == tensor_bytes(tensor), name


def assert_same_logits(folder, tiny, row):
    model = load_hf(folder)
    logits_btv = model(jnp.asarray(row[None], jnp.int32), jnp.array([len(row)], jnp.int32))
    np.testing.assert_allclose(np.asarray(logits_btv[0]), tiny.logits(row), rtol=0, atol=2e-4)


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of `tiny`'s folder that a test may damage."""
    return Path(shutil.copytree(tiny.folder, tmp_path / "source"))


def edit_config(folder, remove=(), **fields):
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if name not in remove} | fields
    (folder / "config.json").write_text(json.dumps(config))


def edit_tensors(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# --- out again, byte for byte


@pytest.mark.parametrize("sharded", [False, True], ids=["one_file", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["tied_gqa4_bias", "untied_gqa2"])
def test_load_then_save_is_byte_equal(tiny_models, tmp_path, name, dtype, sharded):
    # A fresh torch model: casting the shared one would change the other tests' oracle.
    source = transformers.Qwen3ForCausalLM.from_pretrained(tiny_models(name).folder, dtype=getattr(torch, dtype))
    source.save_pretrained(tmp_path / "source", max_shard_size="60KB" if sharded else "1GB")
    assert (tmp_path / "source" / "model.safetensors.index.json").exists() == sharded
    expected = read_tensors(tmp_path / "source")
    save_hf(load_hf(tmp_path / "source", dtype=dtype), tmp_path / "export")
    assert_same_tensors(tmp_path / "export", expected)


def test_save_writes_live_weights_under_their_names(tiny, tmp_path):
    model = load_hf(tiny.folder)
    nnx.update(model, jax.tree.map(lambda weight: weight * 2, nnx.state(model, nnx.Param)))
    save_hf(model, tmp_path / "export")
    assert_same_tensors(tmp_path / "export", {n: 2 * t for n, t in read_tensors(tiny.folder).items()})


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_the_export_loads_in_transformers_without_a_warning(
    tiny_models, tmp_path, ragged_rows, load_without_a_warning, name
):
    tiny = tiny_models(name)
    save_hf(load_hf(tiny.folder), tmp_path / "export")
    loaded = load_without_a_warning(transformers.Qwen3ForCausalLM, tmp_path / "export")
    assert loaded.dtype == torch.float32
    with torch.no_grad():
        logits = loaded(torch.tensor(ragged_rows[-1][None])).logits[0].numpy()
    np.testing.assert_array_equal(logits, tiny.logits(ragged_rows[-1]))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_4_and_5_read_the_config(tiny, tmp_path, dtype):
    save_hf(load_hf(tiny.folder, dtype=dtype), tmp_path / "export")
    config = json.loads((tmp_path / "export" / "config.json").read_text())
    assert config["rope_theta"] == 5e6  # transformers 4 looks here
    assert config["torch_dtype"] == dtype
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["model_type"] == "qwen3"
    read = transformers.AutoConfig.from_pretrained(tmp_path / "export")
    assert read.rope_parameters["rope_theta"] == 5e6
    assert read.dtype == getattr(torch, dtype)
    for field, value in tiny.fields.items():
        if field != "rope_parameters":
            assert getattr(read, field) == value, field


def test_tokenizer_and_generation_files_are_copied(folder, tmp_path):
    for name, text in COMPANIONS.items():
        (folder / name).write_text(text)
    (folder / "modeling_custom.py").write_text("raise SystemExit('code from a model folder was run')")
    (folder / "training_args.bin").write_bytes(b"pickle")
    save_hf(load_hf(folder), tmp_path / "export")
    for name, text in COMPANIONS.items():
        assert (tmp_path / "export" / name).read_text() == text, name
    assert not list((tmp_path / "export").glob("*.py"))
    assert not list((tmp_path / "export").glob("*.bin"))


def test_save_leaves_nothing_beside_the_folder(tiny_jax, tmp_path):
    save_hf(tiny_jax, tmp_path / "out" / "export")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["export"]
    assert not [path.name for path in (tmp_path / "out" / "export").iterdir() if "tmp" in path.name.lower()]


def test_saving_over_a_sharded_export_is_safe(tiny, tiny_models, tmp_path, ragged_rows):
    other = tiny_models("tied_gqa1")
    other.torch_model.save_pretrained(tmp_path / "export", max_shard_size="60KB")
    try:
        save_hf(load_hf(tiny.folder), tmp_path / "export")
    except (FileExistsError, ValueError):
        assert_same_logits(tmp_path / "export", other, ragged_rows[-1])
    else:
        assert_same_logits(tmp_path / "export", tiny, ragged_rows[-1])


def test_saving_onto_a_file_is_refused(tiny_jax, tmp_path):
    (tmp_path / "taken").write_text("notes")
    with pytest.raises((OSError, ValueError), match="taken"):
        save_hf(tiny_jax, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "notes"
    assert len(list(tmp_path.iterdir())) == 1


# --- styles of config.json and of weights that must load


def hub_config(fields):
    """config.json as the hub's Qwen3 folders hold it (written by transformers 4.51)."""
    return {name: value for name, value in fields.items() if name != "rope_parameters"} | {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_window_layers": 2,
        "model_type": "qwen3",
        "rope_scaling": None,
        "rope_theta": int(fields["rope_parameters"]["rope_theta"]),
        "sliding_window": None,
        "torch_dtype": "float32",
        "transformers_version": "4.51.0",
        "use_cache": True,
        "use_sliding_window": False,
    }


@pytest.mark.parametrize("name", ["tied_gqa4_bias", "untied_gqa2"])
def test_a_hub_style_config_loads(tiny_models, tmp_path, ragged_rows, name):
    tiny = tiny_models(name)
    folder = Path(shutil.copytree(tiny.folder, tmp_path / "hub"))
    (folder / "config.json").write_text(json.dumps(hub_config(tiny.fields)))
    assert_same_logits(folder, tiny, ragged_rows[-1])


def test_a_transformers_5_config_loads(folder, tiny, ragged_rows):
    config = json.loads((folder / "config.json").read_text())
    assert "rope_theta" not in config  # else this test would show nothing beyond the one above
    assert config["rope_parameters"]["rope_theta"] == 5e6
    assert_same_logits(folder, tiny, ragged_rows[-1])


def test_tied_model_with_a_stored_head_loads(tiny_models, tmp_path, ragged_rows):
    """The hub's Qwen3-0.6B is tied and stores lm_head.weight all the same."""
    tiny = tiny_models("tied_gqa1")
    folder = Path(shutil.copytree(tiny.folder, tmp_path / "source"))
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    assert_same_logits(folder, tiny, ragged_rows[-1])


# --- what must be refused, by name


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 5e6, "factor": 4.0}}, "yarn"),
        ({"use_sliding_window": True, "sliding_window": 16}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"model_type": "llama"}, "llama"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"attn_logit_softcapping": 30.0}, "attn_logit_softcapping"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_config_that_changes_the_maths_is_refused(folder, fields, named):
    edit_config(folder, **fields)
    with pytest.raises(ValueError, match=named):
        load_hf(folder)


def test_one_message_has_every_tensor_fault(folder):
    def damage(tensors):
        del tensors["model.layers.1.self_attn.q_norm.weight"]
        del tensors["lm_head.weight"]
        tensors["model.layers.0.mlp.up_proj.weight"] = tensors["model.layers.0.mlp.up_proj.weight"].T.contiguous()
        tensors["model.norm.weight"] = torch.ones(63)
        tensors["model.layers.7.input_layernorm.weight"] = torch.ones(64)

    edit_tensors(folder, damage)
    with pytest.raises(ValueError, match="q_norm") as error:
        load_hf(folder)
    for name in (
        "model.layers.1.self_attn.q_norm.weight",
        "lm_head.weight",
        "model.layers.0.mlp.up_proj.weight",
        "model.norm.weight",
        "model.layers.7.input_layernorm.weight",
        str(folder),
    ):
        assert name in str(error.value), name


def test_tensors_twice_or_in_another_file_are_named(tiny, tmp_path):
    save_hf(load_hf(tiny.folder), tmp_path / "cut", max_file_bytes=60_000)
    index = json.loads((tmp_path / "cut" / "model.safetensors.index.json").read_text())
    first, last = sorted(set(index["weight_map"].values()))[::3][:2]
    doubled = next(name for name, file in index["weight_map"].items() if file == first)
    tensors = load_file(tmp_path / "cut" / last) | {doubled: load_file(tmp_path / "cut" / first)[doubled]}
    save_file(tensors, tmp_path / "cut" / last)
    with pytest.raises(ValueError, match=f"{doubled} is in both {first} and {last}"):
        load_hf(tmp_path / "cut")
    index["weight_map"][doubled] = last
    left = load_file(tmp_path / "cut" / first)
    del left[doubled]
    save_file(left, tmp_path / "cut" / first)
    (tmp_path / "cut" / "model.safetensors.index.json").write_text(json.dumps(index))
    load_hf(tmp_path / "cut")
    index["weight_map"][doubled] = first
    (tmp_path / "cut" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=f"{doubled} is in {last}, but model.safetensors.index.json looks for it in {first}"
    ):
        load_hf(tmp_path / "cut")


def test_absent_shard_hides_no_other_fault(tiny, tmp_path):
    save_hf(load_hf(tiny.folder), tmp_path / "cut", max_file_bytes=60_000)
    files = sorted((tmp_path / "cut").glob("*.safetensors"))
    tensors = load_file(files[-1])
    gone = sorted(tensors)[-1]
    save_file({name: x for name, x in tensors.items() if name != gone}, files[-1])
    lost = sorted(load_file(files[1]))
    files[1].unlink()
    with pytest.raises(ValueError, match=f"file {files[1].name} is named in .* but absent") as error:
        load_hf(tmp_path / "cut")
    assert f"missing tensor {gone}" in str(error.value)
    assert f"{gone} is listed in model.safetensors.index.json but in no file" in str(error.value)
    assert not any(name in str(error.value) for name in lost)  # the file says it once


@pytest.mark.parametrize("content", [{}, {"weight_map": None}, {"weight_map": {"model.norm.weight": 1}}])
def test_an_index_without_a_map_is_refused(folder, content):
    (folder / "model.safetensors").unlink()  # else the index is not read
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"index\.json has no weight_map from tensor names to file names"):
        load_hf(folder)


def test_tied_model_without_embedding_names_it(tiny_models, tmp_path):
    folder = Path(shutil.copytree(tiny_models("tied_gqa1").folder, tmp_path / "source"))
    edit_tensors(folder, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
    with pytest.raises(ValueError, match=r"missing tensor model\.embed_tokens\.weight"):
        load_hf(folder)


def test_blocks_of_a_few_rows_load_the_same(tiny, monkeypatch):
    expected = load_hf(tiny.folder).params
    monkeypatch.setattr("socialr1_jax.weights.hf_folder._BLOCK", 3 * 64 * 4)  # three rows of 64 float32
    jax.tree.map(np.testing.assert_array_equal, load_hf(tiny.folder).params, expected)


@pytest.mark.parametrize("kind", ["qwen3_moe", "llama", "qwen2"])
def test_another_architecture_is_refused_by_name(folder, kind):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))
    with pytest.raises(ValueError, match=f"model_type '{kind}' is not supported"):
        load_hf(folder)


def test_a_full_disk_leaves_the_old_folder(tiny_jax, tmp_path, monkeypatch):
    save_hf(tiny_jax, tmp_path / "export")
    before = {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("socialr1_jax.weights.hf_export.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_hf(tiny_jax, tmp_path / "export")
    assert {path.name: path.read_bytes() for path in (tmp_path / "export").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize("keep", [4, 200, 0.5, 0.999], ids=["length", "header", "half", "last_bytes"])
def test_a_truncated_file_is_named(folder, keep):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: keep if keep > 1 else int(keep * len(content))])
    with pytest.raises((ValueError, FileNotFoundError), match=r"model\.safetensors"):
        load_hf(folder)


def test_a_truncated_shard_is_named(tiny, tmp_path):
    tiny.torch_model.save_pretrained(tmp_path, max_shard_size="60KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-7])
    with pytest.raises((ValueError, FileNotFoundError), match=shard.name):
        load_hf(tmp_path)


def test_absent_shards_are_all_named(tiny, tmp_path):
    tiny.torch_model.save_pretrained(tmp_path, max_shard_size="60KB")
    absent = sorted(tmp_path.glob("*.safetensors"))[1:3]
    for shard in absent:
        shard.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=absent[0].name) as error:
        load_hf(tmp_path)
    assert absent[1].name in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_incomplete_folder_names_the_absent_file(folder, name):
    (folder / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=name.replace(".", r"\.")):
        load_hf(folder)


def test_a_broken_config_names_the_file(folder):
    (folder / "config.json").write_text('{"model_type": "qwen3",')
    with pytest.raises(ValueError, match=r"config\.json"):
        load_hf(folder)


def test_a_config_without_a_needed_field_names_it(folder):
    edit_config(folder, remove=["num_hidden_layers"])
    with pytest.raises(ValueError, match="num_hidden_layers"):
        load_hf(folder)
