"""Checkpoints as other tools leave them: what transformers reads is read alike, the rest is refused in one line."""

import importlib.util
import json
import logging
import os
import re
import shutil
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)
from orbax_folders import save_orbax
from pydantic import Field
from safetensors.torch import load_file, save_file

from socialr1_jax import load_hf, save_hf
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.sections import FreeText, Section, Sources, TextMap
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.files import whole_folder
from socialr1_jax.sampling.text import stop_token_ids
from socialr1_jax.weights.hf import load_reward_model, random_model
from socialr1_jax.weights.hf_folder import files_dtype, local_folder, open_hf
from socialr1_jax.weights.hub import cached_folder, find_snapshot
from socialr1_jax.weights.orbax_folder import load_orbax
from socialr1_jax.weights.tokenizer_files import count_tokens, load_tokenizer

ROW = np.array([3, 1, 4, 1, 5, 9, 2, 6])


@pytest.fixture
def folder(tiny, tmp_path):
    return Path(shutil.copytree(tiny.folder, tmp_path / "model"))


@pytest.fixture
def tied(tiny_models, tmp_path):
    return Path(shutil.copytree(tiny_models("tied_gqa1").folder, tmp_path / "tied"))


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def write_config(folder, fields, remove=()):
    (folder / "config.json").write_text(json.dumps({k: v for k, v in fields.items() if k not in remove}))


def edit_tensors(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def our_logits(folder, **options):
    return np.asarray(load_hf(folder, **options)(ROW[None], np.array([len(ROW)]))[0])


def their_logits(folder):
    model = transformers.Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(ROW[None])).logits[0].numpy()


def script(name):
    file = Path(__file__).resolve().parents[2] / "convert" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


hf_to_orbax, orbax_to_hf = script("hf_to_orbax"), script("orbax_to_hf")


def one_line(error):
    assert len(str(error.value).splitlines()) == 1, str(error.value)
    return str(error.value)


# --- config.json

HARMLESS = (
    {"unsloth_fixed": True, "unsloth_version": "2025.9.7"},
    {"_attn_implementation_autoset": True, "attn_implementation": "eager", "_attn_implementation": "flash_attention_2"},
    {"auto_map": {"AutoConfig": "configuration_other.OtherConfig"}},
    {"quantization_config": None, "use_mrope": False, "pretraining_tp": 2, "pruned_heads": {}, "torchscript": False},
    transformers.GenerationConfig(temperature=0.6, top_p=0.95, do_sample=True, bad_words_ids=[[1]]).to_dict(),
    {"task_specific_params": None, "finetuning_task": None, "tokenizer_class": "Qwen2Tokenizer", "prefix": None},
    {"sep_token_id": None, "decoder_start_token_id": 3, "use_bfloat16": False, "tf_legacy_loss": False},
    {"name_or_path": "x", "_name_or_path": "y", "_commit_hash": "0" * 40, "model_name": "z", "use_cache": False},
    {"is_decoder": True, "chunk_size_feed_forward": 0, "output_attentions": None, "torch_dtype": None},
)
# Null, and other values, as transformers takes them. The source has 2 layers, 4 heads and theta 5e6.
AS_TRANSFORMERS = (
    {"rope_theta": None},
    {"rope_parameters": None},
    {"rope_parameters": None, "rope_theta": 123.0},
    {"rope_parameters": {}},
    {"rope_parameters": {"rope_type": "default"}, "rope_theta": 77},
    {"rope_parameters": {"rope_theta": 99.0}, "rope_theta": 77.0, "rope_scaling": None},
    {"rope_scaling": {"type": "default"}, "rope_theta": 44.0},
    {"rope_scaling": {"rope_type": "default", "rope_theta": 55.0}},
    {"rope_parameters": {"rope_theta": 1e4, "rope_type": "default", "partial_rotary_factor": 1.0, "factor": None}},
    {"sliding_window": None, "layer_types": None, "bos_token_id": None, "eos_token_id": [1, 2], "pad_token_id": None},
    {"sliding_window": 4096, "max_window_layers": 1},
    {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0, "layer_types": None},
    {"layer_types": ["attention", "full_attention"]},
    {"architectures": None, "id2label": None},
    {"architectures": "Qwen3ForCausalLM"},
    {"per_layer_config": {}, "attention_dropout": 0, "attribute_map": {}, "return_dict": True},
    {"bos_token_id": -1, "eos_token_id": [-1, 900], "pad_token_id": -1},
    {"bos_token_id": 900, "eos_token_id": -1},
)


def test_null_fields_mean_what_transformers_means(folder, caplog):
    good = config_of(folder)
    plain = our_logits(folder)
    for fields in HARMLESS:
        write_config(folder, good | fields)
        np.testing.assert_array_equal(our_logits(folder), plain, err_msg=str(fields))
    for fields in AS_TRANSFORMERS:
        write_config(folder, good | fields)
        np.testing.assert_allclose(our_logits(folder), their_logits(folder), rtol=0, atol=2e-4, err_msg=str(fields))
    assert not [record for record in caplog.records if record.name.startswith("socialr1_jax")]


def test_null_key_value_heads_equal_heads(tied):
    write_config(tied, config_of(tied) | {"num_key_value_heads": None})
    np.testing.assert_allclose(our_logits(tied), their_logits(tied), rtol=0, atol=2e-4)


WRONG = [
    ({name: value}, name)
    for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
    for value in (None, "64", 64.0, True, [64], -64, 0)
]
WRONG += [({"num_key_value_heads": value}, "num_key_value_heads") for value in ("1", 1.0, 0, False, 3)]
WRONG += [({"head_dim": value}, "head_dim") for value in (None, 0, 15, "16", -2)]
WRONG += [({"rms_norm_eps": value}, "rms_norm_eps") for value in (None, "1e-6", True, 0, -1e-6, [1e-6], float("nan"))]
WRONG += [({"initializer_range": value}, "initializer_range") for value in (None, "0.02", -1)]
WRONG += [({name: v}, name) for name in ("tie_word_embeddings", "attention_bias") for v in (None, 0, "false")]
WRONG += [({"bos_token_id": value}, "bos_token_id") for value in ("1", [1], 1.5, True)]
WRONG += [({"eos_token_id": value}, "eos_token_id") for value in ("1", [1, "a"], [True], 1.5, {"a": 1})]
WRONG += [({"pad_token_id": value}, "pad_token_id") for value in ("1", [1], -161, 160)]
WRONG += [
    ({"rope_parameters": value}, "rope_parameters")
    for value in ([1], "default", 5, True, {"full_attention": {"rope_theta": 1e6}}, {"rope_theta": 1e4, "factor": 2.0})
]
WRONG += [({"rope_parameters": {"rope_theta": v}}, "rope_theta") for v in (None, "1e6", 0, -1.0, [1], float("inf"))]
WRONG += [
    ({"rope_parameters": {"rope_theta": 1e4, "rope_type": None}}, "rope_parameters"),
    ({"rope_scaling": "yarn"}, "rope_scaling"),
    ({"rope_scaling": [1]}, "rope_scaling"),
    ({"sliding_window": "16"}, "sliding_window"),
    ({"use_sliding_window": None}, "use_sliding_window"),
    ({"use_sliding_window": 1}, "use_sliding_window"),
    ({"layer_types": "full_attention"}, "layer_types"),
    ({"layer_types": ["full_attention"]}, "layer_types"),
    ({"layer_types": [1, 2]}, "layer_types"),
    ({"layer_types": []}, "layer_types"),
    ({"hidden_act": None}, "hidden_act"),
    ({"attention_dropout": None}, "attention_dropout"),
    ({"attention_dropout": False}, "attention_dropout"),
    ({"use_mrope": True}, "use_mrope"),
    ({"use_sliding_window": True, "sliding_window": 4096}, "use_sliding_window"),
    ({"attribute_map": {"hidden_size": "head_dim"}}, "attribute_map"),
    ({"return_dict": False}, "return_dict"),
    ({"sub_configs": {}}, "sub_configs"),
    ({"a\nb": 1}, r"unknown field 'a\\nb'=1 .*model\.ignore_fields=\[\"a\\nb\"\]"),
    ({"quantization_config": {}}, "quantization_config"),
    ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
    ({"per_layer_config": {"0": {"rms_norm_eps": 1.0}}}, "per_layer_config"),
    ({"architectures": 5}, "architectures"),
    ({"id2label": ["a"]}, "id2label"),
    ({"num_labels": "1"}, "num_labels"),
    ({"model_type": None}, "model_type"),
    ({"model_type": ["qwen3"]}, "model_type"),
    ({"logit_scale": 2.0}, r"unknown field 'logit_scale'=2\.0 .*model\.ignore_fields=\[logit_scale\]"),
]


def test_wrong_value_is_one_line_naming_its_field(tiny):
    good = config_of(tiny.folder)
    Qwen3Config.from_hf(good)
    for fields, named in WRONG:
        with pytest.raises(ValueError, match=named) as error:
            Qwen3Config.from_hf(good | fields, source="folder/config.json")
        assert "folder/config.json" in one_line(error), fields
    absent = {name: value for name, value in good.items() if name != "sliding_window"} | {"use_sliding_window": True}
    with pytest.raises(ValueError, match="use_sliding_window=True"):  # of transformers' default of 4096
        Qwen3Config.from_hf(absent)
    assert Qwen3Config.from_hf({k: v for k, v in good.items() if k != "max_position_embeddings"}) == replace(
        Qwen3Config.from_hf(good), max_position_embeddings=transformers.Qwen3Config().max_position_embeddings
    )


def test_file_without_an_object_is_one_line(folder):
    for content in ("[1, 2]", "3", "null", '"text"', "{", "", "[" * 100_000, "\x00"):
        (folder / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config\.json") as error:
            load_hf(folder)
        one_line(error)
    (folder / "config.json").write_bytes(b"\xff\xfe{\x00}\x00")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_hf(folder)


def test_a_byte_order_mark_is_no_fault(folder):
    content = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + content)
    load_hf(folder)


def test_an_unknown_field_can_be_ignored_by_name(folder, caplog):
    write_config(folder, config_of(folder) | {"my_note": "trained on Tuesday"})
    with pytest.raises(ValueError, match="unknown field 'my_note'='trained on Tuesday'"):
        load_hf(folder)
    np.testing.assert_array_equal(our_logits(folder, ignore_fields=("my_note", "absent")), their_logits_like(folder))
    assert "ignoring the field my_note='trained on Tuesday'" in caplog.text
    with pytest.raises(ValueError, match="ignore_fields names 'head_dim', which this model uses"):
        load_hf(folder, ignore_fields=("my_note", "head_dim"))


def their_logits_like(folder):
    write_config(folder, config_of(folder), remove=["my_note"])
    plain = our_logits(folder)
    write_config(folder, config_of(folder) | {"my_note": "trained on Tuesday"})
    return plain


# --- tensors


def test_rotary_buffers_of_any_dtype_are_passed_over(folder):
    expected = our_logits(folder)
    buffers = {
        "model.rotary_emb.inv_freq": torch.ones(12, dtype=torch.float64),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(12),
        "rotary_emb.inv_freq": torch.ones(12),
    }
    edit_tensors(folder, lambda tensors: tensors.update(buffers))
    np.testing.assert_array_equal(our_logits(folder), expected)
    np.testing.assert_allclose(expected, their_logits(folder), rtol=0, atol=2e-4)


def test_a_body_without_the_prefix_is_read(tied, tmp_path):
    transformers.Qwen3Model.from_pretrained(tied).save_pretrained(tmp_path / "body", max_shard_size="60KB")
    index = json.loads((tmp_path / "body" / "model.safetensors.index.json").read_text())
    assert "embed_tokens.weight" in index["weight_map"]
    np.testing.assert_array_equal(our_logits(tmp_path / "body"), our_logits(tied))
    assert files_dtype(tmp_path / "body") == "float32"
    shard = tmp_path / "body" / index["weight_map"]["norm.weight"]
    shard.unlink()
    with pytest.raises(ValueError, match=shard.name) as error:
        load_hf(tmp_path / "body")
    assert "missing" not in one_line(error)


def test_a_reward_model_without_the_prefix_is_read(tiny, tmp_path):
    fields = config_of(tiny.folder) | {"pad_token_id": 0, "num_labels": 1}
    model = transformers.Qwen3ForSequenceClassification(transformers.Qwen3Config(**fields)).eval()
    model.save_pretrained(tmp_path / "reward")
    expected = load_reward_model(tmp_path / "reward").params

    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit_tensors(tmp_path / "reward", strip)
    jax.tree.map(np.testing.assert_array_equal, load_reward_model(tmp_path / "reward").params, expected)


def test_tensor_with_and_without_prefix_is_named(folder):
    edit_tensors(folder, lambda tensors: tensors.update({"norm.weight": tensors["model.norm.weight"].clone()}))
    with pytest.raises(ValueError, match=r"model\.norm\.weight is there twice, as model\.norm\.weight and as norm\."):
        load_hf(folder)


def test_a_tied_head_is_compared_within_the_cast(tied):
    def set_head(dtype, embedding_dtype, change=0.0):
        def edit(tensors):
            embedding = tensors["model.embed_tokens.weight"].to(embedding_dtype)
            tensors["model.embed_tokens.weight"] = embedding
            tensors["lm_head.weight"] = embedding.to(dtype).clone()
            tensors["lm_head.weight"][3, 5] += change

        edit_tensors(tied, edit)

    pairs = ((torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16), (torch.float32, torch.float32))
    for dtype, embedding_dtype in pairs:
        set_head(dtype, embedding_dtype)
        load_hf(tied)
        set_head(dtype, embedding_dtype, change=1.0)
        with pytest.raises(ValueError, match=r"lm_head\.weight differs from the embedding"):
            load_hf(tied)
    edit_tensors(tied, lambda tensors: tensors["model.embed_tokens.weight"][3, 5].fill_(float("nan")))
    for dtype, embedding_dtype in pairs:
        set_head(dtype, embedding_dtype)
        load_hf(tied, allow_nonfinite=True)
        with pytest.raises(ValueError, match=r"NaN or infinities in model\.embed_tokens\.weight"):
            load_hf(tied)


def test_the_single_file_wins_over_an_index(folder, tiny_models, caplog):
    other = tiny_models("untied_gqa2").torch_model
    state = {name: 2 * weight for name, weight in other.state_dict().items()}
    other.save_pretrained(folder / "cut", state_dict=state, max_shard_size="60KB")
    for file in (folder / "cut").glob("model*"):
        shutil.copy(file, folder / file.name)
    expected = their_logits(folder)
    np.testing.assert_allclose(our_logits(folder), expected, rtol=0, atol=2e-4)
    assert caplog.text.count("reading model.safetensors, as transformers does, and not") == 1
    (folder / "model.safetensors").unlink()
    assert np.abs(our_logits(folder) - expected).max() > 0.1  # else this test could not fail


def test_a_long_list_of_faults_is_cut(folder):
    edit_tensors(folder, lambda tensors: [tensors.pop(name) for name in list(tensors)[1:]])
    with pytest.raises(ValueError, match=r"missing tensor .*; and \d+ more") as error:
        load_hf(folder)
    assert one_line(error).count(";") == 20


# --- tokenizers in several files


@pytest.fixture(scope="module")
def slow_files(tmp_path_factory):
    """vocab.json and merges.txt of a byte-level BPE, without a tokenizer.json."""
    whole = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(["the drawer the shelf"] * 2, 300).save_pretrained(whole)
    model = json.loads((whole / "tokenizer.json").read_text())["model"]
    folder = tmp_path_factory.mktemp("slow")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    return folder


def test_tokens_are_counted_over_all_files(slow_files, tmp_path):
    base = len(json.loads((slow_files / "vocab.json").read_text()))
    build_tokenizer(["the drawer the shelf"] * 2, 300).save_pretrained(tmp_path / "whole")
    whole = json.loads((tmp_path / "whole" / "tokenizer.json").read_text())
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
    added = {name: base + number for number, name in enumerate(names)}
    decoder = {str(number): {"content": name, "special": True} for name, number in added.items()}
    cases = [
        {},
        {"added_tokens.json": added},
        {"tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "added_tokens_decoder": decoder}},
        {"added_tokens.json": added, "tokenizer_config.json": {"added_tokens_decoder": decoder}},
        {"tokenizer_config.json": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}},
        {"special_tokens_map.json": {"eos_token": {"content": "<|im_end|>"}, "additional_special_tokens": ["<a>"]}},
        {"tokenizer_config.json": {"extra_special_tokens": {"image_token": "<image>"}}},
        {"added_tokens.json": {"<|endoftext|>": base, "<gap>": base + 7}},  # ids that leave a gap
        {"tokenizer.json": whole, "vocab.json": {"stale": 900}, "added_tokens.json": {"<stale>": 950}},
        {"tokenizer.json": whole, "tokenizer_config.json": {"eos_token": "<missing>"}},
    ]
    counts = []
    for number, files in enumerate(cases):
        folder = Path(shutil.copytree(slow_files, tmp_path / str(number)))
        (folder / "config.json").write_text('{"model_type": "qwen3"}')
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        assert count_tokens(folder, 1000) == max(theirs.get_vocab().values()) + 1, files
        counts.append(len(theirs))
    assert counts[-2] < 900
    assert len(set(counts[:6])) == 4
    assert count_tokens(tmp_path, 1000) == 1000  # no tokenizer


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("vocab.json", {"a": "0"}),
        ("vocab.json", [1]),
        ("vocab.json", {"a": 1000}),
        ("added_tokens.json", [1]),
        ("tokenizer_config.json", {"added_tokens_decoder": {"five": {"content": "<a>"}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}),
        ("tokenizer.json", {"model": {"vocab": [["a", 0.0]]}}),
        ("tokenizer.json", {"model": None}),
    ],
)
def test_a_damaged_tokenizer_file_is_named(slow_files, tmp_path, name, content):
    folder = Path(shutil.copytree(slow_files, tmp_path / "damaged"))
    (folder / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=re.escape(name)) as error:
        count_tokens(folder, 1000)
    one_line(error)


def test_byte_order_marks_of_tokenizers_are_read(folder, slow_files, tmp_path):
    build_tokenizer(["the drawer the shelf"] * 2, 300).save_pretrained(folder)
    write_config(folder, config_of(folder) | {"vocab_size": 320})
    expected = load_tokenizer(folder)
    marked = ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"]
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, -1]}')
    for name in filter(lambda name: (folder / name).exists(), marked):
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
        tokenizer = load_tokenizer(folder)
        assert tokenizer.get_vocab() == expected.get_vocab(), name
        assert tokenizer.chat_template == expected.chat_template, name
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=-1, vocab_size=320), source=str(folder))
    assert stop_token_ids(model, expected) == (7, expected.eos_token_id)
    for content in ('{"eos_token_id": "7"}', '{"eos_token_id": [true]}', "[7]", "{"):
        (folder / "generation_config.json").write_text(content)
        with pytest.raises(ValueError, match=r"generation_config\.json") as error:
            stop_token_ids(model, expected)
        one_line(error)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json is not JSON, or cut") as error:
        count_tokens(folder, 320)
    one_line(error)
    for lost, fix in (("merges.txt", "put merges.txt beside it"), ("vocab.json", "put the tokenizer files of")):
        (copy := Path(shutil.copytree(slow_files, tmp_path / lost)) / lost).unlink()
        with pytest.raises(ValueError, match=fix) as error:
            load_tokenizer(copy.parent)
        assert str(copy.parent) in one_line(error)
    with pytest.raises(ValueError, match=r"absent: there is no such folder; name the folder of a model, or a hub id"):
        load_tokenizer(tmp_path / "absent")


def test_ids_above_the_tokenizer_have_no_share(slow_files, folder):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(slow_files / name, folder)
    write_config(folder, config_of(folder))
    with pytest.raises(ValueError, match=r"its tokenizer has id \d+ .*, but the model has vocab_size 160"):
        load_hf(folder)
    (folder / "vocab.json").write_text(
        json.dumps({"<|endoftext|>": 99} | {f"t{number}": number for number in range(99)})
    )
    (folder / "merges.txt").write_text("#version: 0.2\n")
    assert load_hf(folder).num_tokens == 100
    assert random_model(slow_files, "nano", seed=0).num_tokens == count_tokens(slow_files, 640) < 640
    with pytest.raises(FileNotFoundError, match=r"neither tokenizer\.json nor vocab\.json"):
        random_model(folder / "absent", "nano", seed=0)


# --- several dtypes in one folder


def mixed(folder, *, one_layer=False):
    """float32 norms beside bfloat16 kernels."""

    def edit(tensors):
        for name in tensors:
            if "norm" not in name or (one_layer and "layers.0.input_layernorm" in name):
                tensors[name] = tensors[name].bfloat16()

    edit_tensors(folder, edit)
    return load_file(folder / "model.safetensors")


def test_each_weight_keeps_its_dtype_there_and_back(folder, tmp_path, capsys):
    tensors = mixed(folder)
    assert hf_to_orbax(["--src", str(folder), "--dst", str(tmp_path / "orbax"), "--verify"]) == 0
    assert orbax_to_hf(["--src", str(tmp_path / "orbax"), "--dst", str(tmp_path / "back"), "--verify"]) == 0
    assert capsys.readouterr().out.count("tensors agree") == 2
    save_hf(load_hf(folder, dtype=None), tmp_path / "direct", max_file_bytes=60_000)
    save_orbax(load_hf(folder, dtype=None), tmp_path / "saved")
    save_hf(load_orbax(tmp_path / "saved"), tmp_path / "again")
    for written in ("back", "direct", "again"):
        back = {k: v for file in (tmp_path / written).glob("*.safetensors") for k, v in load_file(file).items()}
        assert {name: tensor.dtype for name, tensor in back.items()} == {n: t.dtype for n, t in tensors.items()}
        assert all(torch.equal(back[name].view(torch.uint8), tensors[name].view(torch.uint8)) for name in tensors)
        assert config_of(tmp_path / written)["torch_dtype"] == "bfloat16"
    np.testing.assert_array_equal(our_logits(tmp_path / "back"), our_logits(folder))
    np.testing.assert_allclose(our_logits(folder), their_logits(folder), rtol=0, atol=2e-4)
    assert files_dtype(folder) == "bfloat16"
    manifest = tmp_path / "orbax" / "manifest.json"
    assert json.loads(manifest.read_text())["version"] == 3  # an earlier reader would take all for one dtype


def test_one_dtype_for_all_is_verified(folder, tmp_path, capsys):
    mixed(folder, one_layer=True)
    assert hf_to_orbax(["--src", str(folder), "--dst", str(tmp_path / "orbax")]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert "model.layers.*.input_layernorm.weight (bfloat16, float32)" in error
    assert "--dtype" in error
    with pytest.raises(ValueError, match="name one dtype"):
        load_hf(folder, dtype=None)
    arguments = ["--src", str(folder), "--dst", str(tmp_path / "orbax"), "--verify", "--dtype", "bfloat16"]
    assert hf_to_orbax(arguments) == 0
    assert "tensors agree" in capsys.readouterr().out
    assert {x.dtype.name for x in jax.tree.leaves(load_orbax(tmp_path / "orbax").params)} == {"bfloat16"}
    open_hf(folder, dtype="float32")


def test_the_doctor_reads_what_a_run_reads(folder):
    from socialr1_jax.config.run import DoctorConfig
    from socialr1_jax.plan.doctor import examine

    mixed(folder, one_layer=True)
    write_config(folder, config_of(folder) | {"my_note": 1})
    config = DoctorConfig.model_validate({"model": {"path": str(folder), "ignore_fields": ["my_note"]}})
    assert next(examine(config, ["model"])).status == "ok"
    line = next(examine(DoctorConfig.model_validate({"model": {"path": str(folder)}}), ["model"]))
    assert (line.status, "unknown field 'my_note'=1" in line.found) == ("problem", True)


def test_the_option_for_unknown_fields_converts(folder, tmp_path):
    write_config(folder, config_of(folder) | {"my_note": 1})
    arguments = ["--src", str(folder), "--dst", str(tmp_path / "orbax")]
    assert hf_to_orbax(arguments) == 2
    assert hf_to_orbax([*arguments, "ignore_fields=[my_note]"]) == 0


# --- paths


class PathsConfig(Section):
    """Every kind of text that a configuration has."""

    path: str = ""
    paths: Sources = ()
    words: FreeText = ""
    where: TextMap = Field({})


def test_home_folder_expands_in_paths_only(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text("path: ~/a\npaths: [~/b, c~/d, stories:5]\nwords: ~/e\nwhere: {name: ~/f}\n")
    config = load_config(PathsConfig, "~/run.yaml")
    assert config.path == f"{tmp_path}/a"
    assert config.paths == (f"{tmp_path}/b", "c~/d", "stories:5")
    assert (config.words, config.where) == ("~/e", {"name": "~/f"})
    assert load_config(PathsConfig, None, ["paths=~/x", "path=~"]) == PathsConfig(paths="~/x", path="~")
    assert PathsConfig(paths="~/x").paths == (f"{tmp_path}/x",)


def test_library_calls_expand_the_home_folder(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model = load_hf("~/model")
    save_hf(model, "~/export")
    save_orbax(model, "~/orbax")
    assert load_orbax("~/orbax").config == load_hf("~/export").config == model.config
    with pytest.raises(FileNotFoundError, match=f"no folder '{tmp_path}/absent'"):
        load_hf("~/absent")


def test_a_link_to_a_folder_stays_a_link(folder, tmp_path, capsys):
    model = load_hf(folder)
    (tmp_path / "disk").mkdir()
    for name in ("there", "absent"):  # the second does not exist yet
        link = tmp_path / f"link-{name}"
        link.symlink_to(f"disk/{name}")
        if name == "there":
            (tmp_path / "disk" / name).mkdir()
        for _ in range(2):  # the second time an earlier export is replaced
            save_hf(model, link)
        assert link.is_symlink()
        assert (tmp_path / "disk" / name / "model.safetensors").is_file()
    assert hf_to_orbax(["--src", str(folder), "--dst", str(tmp_path / "link-there")]) == 2  # another kind of folder
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert sorted(path.name for path in (tmp_path / "disk").iterdir()) == ["absent", "there"]
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file-link").symlink_to("model/config.json")
    for name, fault in (("loop", "leads back to itself"), ("file-link", "is a file; give a folder")):
        with pytest.raises(SystemExit, match="2"):
            hf_to_orbax(["--src", str(folder), "--dst", str(tmp_path / name)])
        said = capsys.readouterr().err.splitlines()
        assert (len(said), fault in said[-1]) == (1, True), said
    with pytest.raises(OSError, match="loop"):
        save_hf(model, tmp_path / "loop")


@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_written_files_have_the_modes_of_the_umask(folder, tmp_path, umask):
    model = load_hf(folder)
    before = os.umask(umask)
    try:
        save_hf(model, tmp_path / "export", max_file_bytes=60_000)
        save_orbax(model, tmp_path / "orbax")
        with whole_folder(tmp_path / "resumed", "a", source={"a": 1}) as partial:
            (partial / "a").touch(mode=0o600)
    finally:
        os.umask(before)
    for name in ("export", "orbax", "resumed"):
        for path in (tmp_path / name, *(tmp_path / name).rglob("*")):
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, path
        assert not (tmp_path / name / ".mode").exists()


# --- hub names


@pytest.mark.parametrize(
    ("there", "asked"),
    [("me/Model-R1_8B", "me/Model-R1-8B"), ("me/Model-R1-8B", "me/Model-R1_8B"), ("me/A-1_8B_it", "me/A-1-8B-it")],
)
def test_the_other_spelling_of_a_hub_name(folder, tmp_path, monkeypatch, caplog, there, asked):
    """A cache as huggingface_hub lays it out, offline."""
    snapshot = tmp_path / "cache" / f"models--{there.replace('/', '--')}" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    caplog.set_level(logging.WARNING)
    assert local_folder(there) == snapshot
    assert not caplog.records
    assert local_folder(asked) == snapshot
    assert f"{asked} is not in the cache; taking {there}, which is" in caplog.text
    assert cached_folder(asked) == snapshot
    with pytest.raises(FileNotFoundError, match="no folder 'me/Another-8B', and the hub gave no model of that name"):
        local_folder("me/Another-8B")


def test_gated_model_is_not_sought_elsewhere(monkeypatch):
    asked = []

    def snapshot_download(name, **_):
        asked.append(name)
        raise GatedRepoError("ask for access", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(FileNotFoundError, match="ask for access"):
        local_folder("me/A-8B")
    assert asked == ["me/A-8B"]


@pytest.mark.parametrize(
    ("error", "other_error", "calls"),
    [
        (RepositoryNotFoundError, HFValidationError, [("me/A--8B", False), ("me/A-_8B", False), ("me/A__8B", False)]),
        (
            LocalEntryNotFoundError,
            LocalEntryNotFoundError,
            [("me/A--8B", False), ("me/A-_8B", True), ("me/A__8B", True)],
        ),
    ],
)
def test_other_spellings_keep_the_error_and_never_wait(monkeypatch, error, other_error, calls):
    """A made-up spelling may be no valid name; without the hub's answer only the cache is searched."""
    asked = []

    def snapshot_download(name, *, local_files_only, **_):
        asked.append((name, local_files_only))
        kind = error if len(asked) == 1 else other_error
        response = SimpleNamespace(headers={}, request=None)
        raise kind(f"about {name}", response=response) if kind is RepositoryNotFoundError else kind(f"about {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(error, match="about me/A--8B"):
        find_snapshot("me/A--8B")
    assert asked == calls
