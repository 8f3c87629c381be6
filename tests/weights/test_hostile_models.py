"""Model folders with hostile or odd files: one line that names the file, and nothing outside the folder is read.

What is refused is refused by every reader; what honest folders have (links of the hub's cache, ids of -1) still loads.
"""

import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from orbax_folders import save_orbax
from safetensors.numpy import load_file, save_file

import socialr1_jax
from socialr1_jax import Qwen3, Qwen3Config, load_hf, save_hf
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.models.qwen3 import init_params
from socialr1_jax.sampling.text import stop_token_ids
from socialr1_jax.weights.orbax_folder import load_orbax

ROOT = Path(socialr1_jax.__file__).resolve().parents[1]
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST = 8000  # characters of a message
DEEP = "[" * 100_000 + "]" * 100_000
RED = "\x1b[31m\u202e\n"
SECRET = "-----BEGIN OPENSSH PRIVATE KEY-----"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A small random Qwen3 with a tokenizer and a generation_config.json, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("source")
    build_tokenizer(["the drawer the shelf"] * 2, 300).save_pretrained(folder / "tokenizer")
    (folder / "tokenizer" / "generation_config.json").write_text('{"eos_token_id": [1, -1]}')
    config = Qwen3Config(
        vocab_size=320,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
        max_position_embeddings=2048,
    )
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    save_hf(Qwen3(config, params, source=str(folder / "tokenizer")), folder / "hf")
    return folder / "hf"


@pytest.fixture(scope="module")
def orbax(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "orbax"
    save_orbax(load_hf(source), folder)
    return folder


@pytest.fixture
def folder(source, tmp_path):
    return Path(shutil.copytree(source, tmp_path / "model"))


def edit(file, **changes):
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def write(file, content):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())


def as_text(content):
    return content if isinstance(content, str | bytes) else json.dumps(content)


def refused(read, *arguments):
    """The message, one line that is safe to print and of bounded length."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(*arguments)
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < LONGEST
    return message


# --- config.json


def fields_of(folder):
    return json.loads((folder / "config.json").read_text())


ODD = [
    True,
    0,
    -1,
    -5,
    1.5,
    "x",
    "2",
    [],
    [1],
    [[1]],
    {},
    {"a": 1},
    10**12,
    10**400,
    2**63,
    1e300,
    1e-300,
    float("inf"),
    float("nan"),
    RED,
    "y" * 3_000_000,
    ["q"] * 200_000,
    {"k" * 1_000_000: RED},
    json.loads("[" * 500 + "]" * 500),
]
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
TAKEN = {
    **{size: [] for size in SIZES},
    "rope_theta": [1.5, 10**12],
    "rms_norm_eps": [],
    "initializer_range": [0, 1.5, 1e-300],
    "tie_word_embeddings": [True],
    "attention_bias": [True],
    "use_sliding_window": [True],  # without a window
    "bos_token_id": [0, -1],
    "eos_token_id": [0, -1, [], [1]],
    "pad_token_id": [0, -1],
    "rope_scaling": [{}],
    "rope_parameters": [{}],
    "layer_types": [],
    "attribute_map": [{}],
    "quantization_config": [],
    "model_type": [],
    "made_up": [],
    RED: [],
}


@pytest.mark.parametrize("name", TAKEN)
def test_odd_values_are_refused_by_field(name, source):
    fields = fields_of(source)
    for value in ODD:
        if any(type(value) is type(taken) and value == taken for taken in TAKEN[name]):
            Qwen3Config.from_hf(fields | {name: value})
        else:
            message = refused(Qwen3Config.from_hf, fields | {name: value}, "folder/config.json")
            assert message.startswith("folder/config.json: ")
            assert name == RED or name.removesuffix("_parameters").removesuffix("_scaling") in message


@pytest.mark.parametrize("inner", ["rope_theta", "rope_type", "factor"])
def test_odd_values_of_rope_parameters_are_refused(inner, source):
    fields = fields_of(source)
    for value in [v for v in ODD if v not in (1.5, 10**12)]:
        for outer in ("rope_parameters", "rope_scaling"):
            assert "rope" in refused(Qwen3Config.from_hf, fields | {outer: {"rope_theta": 1e6} | {inner: value}})


@pytest.mark.parametrize(
    "content",
    [DEEP, '{"a":' * 50_000, f'{{"vocab_size": {DEEP}}}', f'{{"x": {"9" * 5000}}}', "[]", "5", "", b"\xff\xfe"],
)
def test_a_config_that_is_no_object_is_refused(content, folder):
    write(folder / "config.json", content)
    assert "config.json" in refused(load_hf, folder)


def test_published_values_are_still_read(source):
    fields = fields_of(source)
    published = {
        "vocab_size": 151_936,
        "rope_theta": 5_000_000,
        "max_position_embeddings": 1_048_576,
        "bos_token_id": 151_643,
        "eos_token_id": [151_645, 151_643],
        "num_hidden_layers": 94,
    }
    config = Qwen3Config.from_hf(fields | published)
    assert (config.rope_theta, config.eos_token_id) == (5_000_000, (151_645, 151_643))
    assert Qwen3Config.from_hf(fields | {"rms_norm_eps": 1e-5, "rope_theta": 10_000.0}).rms_norm_eps == 1e-5
    assert Qwen3Config.from_hf(fields | {"eos_token_id": 900}).eos_token_id == 900  # of a model with a cut vocabulary


# --- messages


def test_messages_about_many_or_long_names_are_short(folder):
    weights = load_file(folder / WEIGHTS)
    row = np.zeros((1,), np.float32)
    save_file(weights | {f"{RED}{number}": row for number in range(5_000)}, folder / WEIGHTS)
    assert "and 4980 more" in refused(load_hf, folder)
    save_file(weights | {"z" * 3_000_000: row}, folder / WEIGHTS)
    assert "unexpected tensor zzz" in refused(load_hf, folder)
    (folder / WEIGHTS).unlink()
    for form, count in (("absent-{}.safetensors", 20_000), (RED + "{}", 2000), ("q" * 5000 + "{}", 2000)):
        index = {f"{RED}{number}": form.format(number) for number in range(count)}
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))
        refused(load_hf, folder)
    fields = fields_of(folder) | {f"{RED}{number}": RED for number in range(20_000)}
    assert "ignore_fields=[" in refused(Qwen3Config.from_hf, fields)


# --- tokenizers


@pytest.fixture(scope="module")
def scripts():
    def main(name):
        spec = importlib.util.spec_from_file_location(f"hostile_{name}", ROOT / "scripts" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.main

    return {name: main(name) for name in ("generate", "train_grpo", "build_pairs")}


def without_vocabulary(folder):
    (folder / "tokenizer.json").unlink()


def with_an_empty_vocabulary(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("#version: 0.2\n")


def with_special_tokens_alone(folder):
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    edit(folder / "tokenizer.json", model=model | {"vocab": {}, "merges": []})


LOST = [without_vocabulary, with_an_empty_vocabulary, with_special_tokens_alone]


FIX = "put the tokenizer files of the model that its weights come from there"


@pytest.mark.parametrize("lose", LOST)
@pytest.mark.parametrize("script", ["generate", "train_grpo", "build_pairs"])
def test_no_script_runs_without_a_tokenizer(script, lose, scripts, folder, tmp_path, capsys):
    lose(folder)
    row = {"story": "Ann left.", "question": "Where will Ann look?", "options": ["a", "b"], "answer": "A"}
    (tmp_path / "questions.jsonl").write_text(json.dumps(row))
    arguments = {
        "generate": ["--model", str(folder), "--question", "Where?", "--max_new_tokens", "2"],
        "train_grpo": [
            "--config",
            str(ROOT / "configs/smoke.yaml"),
            f"output_dir={tmp_path / 'out'}",
            "steps=1",
            "cold_start=0",
            "model.random=",
            f"model.path={folder}",
        ],
        "build_pairs": [
            f"policy={folder}",
            f"output={tmp_path / 'pairs.jsonl'}",
            "source=policy",
            f"questions={tmp_path / 'questions.jsonl'}",
        ],
    }[script]
    status = scripts[script](arguments)
    error = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert FIX in error
    assert str(folder) in error


@pytest.mark.parametrize("lose", LOST)
def test_no_model_answers_or_judges_without_a_tokenizer(lose, folder):
    from socialr1_jax.config.evaluation import EvaluateConfig
    from socialr1_jax.config.rewards import StructureConfig
    from socialr1_jax.evaluation.respondents import LocalModel
    from socialr1_jax.rewards.judges import make_judge

    lose(folder)
    assert FIX in refused(lambda: LocalModel(EvaluateConfig(model=str(folder))))
    assert FIX in refused(lambda: make_judge(StructureConfig(judge="local", model=str(folder))))


def test_a_model_without_a_folder_has_no_tokenizer(source, monkeypatch):
    from socialr1_jax.weights.tokenizer_files import load_tokenizer

    monkeypatch.chdir(source)  # whose tokenizer is another model's
    for nothing in (None, ""):
        assert FIX in refused(load_tokenizer, nothing)


def test_folder_without_a_tokenizer_loads_and_converts(folder, tmp_path):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    model = load_hf(folder)
    save_orbax(model, tmp_path / "orbax")
    save_hf(load_orbax(tmp_path / "orbax", tokenizer=False), tmp_path / "back")
    assert (tmp_path / "back" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def tokenizer_json(**changes):
    return "tokenizer.json", lambda old: old | changes


def model_of(**changes):
    return "tokenizer.json", lambda old: old | {"model": old["model"] | changes}


def ids(change):
    return (
        "tokenizer.json",
        lambda old: (
            old | {"model": old["model"] | {"vocab": {name: change(i) for name, i in old["model"]["vocab"].items()}}}
        ),
    )


def settings(**changes):
    return "tokenizer_config.json", lambda old: old | changes


def whole(name, content):
    return name, lambda old: content


TOKENIZERS = [
    tokenizer_json(pre_tokenizer={"type": "Nope"}),
    tokenizer_json(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(((("}, "behavior": "Isolated", "invert": False}
    ),
    tokenizer_json(added_tokens="x"),
    tokenizer_json(added_tokens=[5]),
    tokenizer_json(post_processor={"type": "Nope"}),
    tokenizer_json(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),  # a panic of the library
    tokenizer_json(
        post_processor={
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    ),
    tokenizer_json(model={"type": "Unigram", "vocab": [], "unk_id": 5}),
    tokenizer_json(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}),
    tokenizer_json(model=None),
    model_of(merges=["x"]),
    model_of(merges=None),
    model_of(vocab=[]),
    model_of(dropout=9.0),
    ids(str),
    ids(lambda i: -i),
    ids(lambda i: i + 2**40),
    ids(lambda i: 5),  # every token has one id: text is lost
    ids(lambda i: [i]),
    *(whole("tokenizer.json", content) for content in ({}, [], DEEP, f'{{"model": {DEEP}}}', b"\xff\xfe", "{", "")),
    *(whole("tokenizer_config.json", content) for content in ([], None, 5, DEEP, "{x", b"\xff")),
    settings(tokenizer_class=5),
    settings(tokenizer_class="BertTokenizer"),
    settings(tokenizer_class="ByT5Tokenizer"),
    settings(eos_token=5),
    settings(eos_token=["a"]),
    settings(eos_token={"content": {}}),
    settings(added_tokens_decoder={"5": 5}),
    settings(added_tokens_decoder={"five": {"content": "a"}}),
    settings(added_tokens_decoder=[1]),
    settings(model_max_length="x"),
    settings(model_max_length=[1]),
    settings(padding_side="up"),
    settings(extra_special_tokens=5),
    settings(additional_special_tokens=[5]),
    settings(model_input_names=5),
    *(whole("special_tokens_map.json", content) for content in ([], DEEP, "{")),
    *(whole("added_tokens.json", content) for content in ([], {"<q>": "x"}, "{")),
    whole("chat_template.jinja", b"\xff\xfe"),
]


@pytest.mark.parametrize(("name", "change"), TOKENIZERS)
def test_a_broken_tokenizer_file_is_one_line(name, change, scripts, folder, capfd):
    file = folder / name
    old = json.loads(file.read_text()) if file.exists() and name.endswith(".json") else None
    write(file, as_text(change(old)))
    assert scripts["generate"](["--model", str(folder), "--question", "Where?", "--max_new_tokens", "2"]) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith(f"generate.py: error: {folder}")
    assert name in error
    assert error.isprintable()
    assert len(error) < LONGEST


def test_warnings_about_odd_values_are_safe_to_print(folder, monkeypatch):
    from socialr1_jax.weights.tokenizer_files import load_tokenizer

    load_tokenizer(folder)
    console = io.StringIO()
    monkeypatch.setattr(logging.getLogger("transformers").handlers[0], "stream", console)
    for changes in ({"model_type": RED}, {"model_type": "y" * 100_000}, {"rope_parameters": {"rope_type": RED}}):
        shutil.copy(folder / "config.json", folder / "kept.json")
        edit(folder / "config.json", **changes)
        load_tokenizer(folder)
        shutil.move(folder / "kept.json", folder / "config.json")
    said = console.getvalue()
    assert "You are using a model of type" in said
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert len(said) < LONGEST


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        "5",
        "null",
        "{",
        DEEP,
        f'{{"eos_token_id": {DEEP}}}',
        b"\xff",
        *(
            json.dumps({"eos_token_id": value})
            for value in (
                "x",
                "7",
                {},
                [[1]],
                [None],
                ["7"],
                True,
                [True],
                1.5,
                [1.0],
                -5,
                [3, -2],
                10**12,
                320,
                [0, 320],
                "y" * 3_000_000,
                [RED] * 100_000,
            )
        ),
    ],
)
def test_stop_tokens_are_ids_of_the_model(content, folder):
    write(folder / "generation_config.json", content)
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=None, vocab_size=320), source=str(folder))
    assert "generation_config.json" in refused(stop_token_ids, model, SimpleNamespace(eos_token_id=2))


def test_stop_tokens_that_mean_none_are_left_out(folder):
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=(-1, 900), vocab_size=320), source=str(folder))
    for value, stops in ((None, (2,)), (-1, (2,)), ([], (2,)), (319, (2, 319)), ([0, -1, 2], (0, 2))):
        (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
        assert stop_token_ids(model, SimpleNamespace(eos_token_id=2)) == stops


# --- indexes and links


@pytest.fixture
def indexed(folder):
    """The folder with its weights in two files and an index, and the weights outside."""
    weights = load_file(folder / WEIGHTS)
    for number, names in enumerate((sorted(weights)[:4], sorted(weights)[4:])):
        save_file({name: weights[name] for name in names}, folder / f"{number}.safetensors")
    shutil.move(folder / WEIGHTS, folder.parent / "outside.safetensors")
    index = {name: f"{int(sorted(weights).index(name) > 3)}.safetensors" for name in weights}
    (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    return folder


NAMES = [
    "../outside.safetensors",
    "/outside.safetensors",
    "./0.safetensors",
    "sub/0.safetensors",
    "sub/../0.safetensors",
    "",
    ".",
    "..",
    "a\0",
    "\ud800",
    RED,
    "x" * 300,
    "x" * 100_000,
    "pipe",
    "sub",
    "config.json",
    "loop",
    "gone",
    5,
    None,
    [],
    {},
]


@pytest.mark.parametrize("name", NAMES)
def test_an_index_names_ordinary_files_of_its_folder(name, indexed):
    outside = indexed.parent / "outside.safetensors"
    (indexed / "sub").mkdir()
    shutil.copy(outside, indexed / "sub" / "0.safetensors")
    os.mkfifo(indexed / "pipe")
    (indexed / "loop").symlink_to("loop")
    (indexed / "gone").symlink_to("nothing")
    name = str(outside) if name == "/outside.safetensors" else name
    edit(indexed / INDEX, weight_map=dict.fromkeys(load_file(outside), name))
    if name == "./0.safetensors":
        shutil.copy(outside, indexed / "0.safetensors")
    assert str(indexed) in refused(load_hf, indexed)


@pytest.mark.parametrize("content", [f'{{"weight_map": {DEEP}}}', DEEP, "[]", '{"weight_map": []}', "{}", b"\xff"])
def test_an_index_without_a_map_is_refused(content, indexed):
    write(indexed / INDEX, content)
    assert INDEX in refused(load_hf, indexed)


def test_weights_behind_an_outside_link_are_refused(indexed):
    file = indexed / "0.safetensors"
    shutil.move(file, indexed.parent / "0.safetensors")
    file.symlink_to("../0.safetensors")
    assert "outside the folder: put a copy of the file there" in refused(load_hf, indexed)
    file.unlink()
    shutil.move(indexed.parent / "0.safetensors", indexed / "real.safetensors")
    file.symlink_to("real.safetensors")  # within the folder
    load_hf(indexed)


LINKED = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
]


@pytest.mark.parametrize("name", LINKED)
def test_a_link_to_a_secret_is_never_exported(name, folder, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    (folder / "inner").symlink_to("../secret")
    for target in (tmp_path / "secret", "../secret", "inner"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)
        assert f"{name} is a link to" in refused(lambda: save_hf(load_hf(folder), tmp_path / "export"))
        assert not (tmp_path / "export").exists()
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in refused(load_hf, folder)


def test_links_in_an_orbax_folder_are_not_followed(orbax, tmp_path):
    folder = Path(shutil.copytree(orbax, tmp_path / "orbax"))
    (tmp_path / "secret").write_text(SECRET)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    for name in LINKED:
        shutil.move(folder / name, tmp_path / "aside") if (folder / name).exists() else None
        (folder / name).symlink_to("../secret")
        for listed in (files | {name: digest}, {other: files[other] for other in files if other != name}):
            edit(folder / "manifest.json", files=listed)
            message = refused(lambda: save_hf(load_orbax(folder, tokenizer=False), tmp_path / "export"))
            assert f"{name} is a link to" in message
        (folder / name).unlink()
        shutil.move(tmp_path / "aside", folder / name) if (tmp_path / "aside").exists() else None
    edit(folder / "manifest.json", files=files)
    shutil.move(folder / "params", tmp_path / "params")
    (folder / "params").symlink_to("../params")
    assert "outside the folder" in refused(load_orbax, folder)


@pytest.mark.parametrize("name", ["tokenizer.json", "merges.txt", "generation_config.json", WEIGHTS, "config.json"])
def test_a_pipe_is_not_waited_for(name, folder):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert name in refused(load_hf, folder)


def cached(folder, home):
    """The folder as the hub's cache keeps it: a snapshot of links into blobs."""
    snapshot = home / "models--owner--name" / "snapshots" / "0123abc"
    (blobs := home / "models--owner--name" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_the_links_of_the_hubs_cache_are_followed(folder, tmp_path):
    snapshot = cached(folder, tmp_path / "hub")
    (tmp_path / "by-link").symlink_to(snapshot)
    for place in (snapshot, tmp_path / "by-link"):
        save_hf(load_hf(place), tmp_path / "export")
        for file in folder.iterdir():
            if file.name != "config.json":
                assert (tmp_path / "export" / file.name).read_bytes() == file.read_bytes()


def test_other_links_of_the_cache_are_ignored(folder, tmp_path):
    snapshot = cached(folder, tmp_path / "hub")
    other = cached(folder, tmp_path / "other")
    (tmp_path / "secret").write_text(SECRET)
    blobs = snapshot.parents[1] / "blobs"
    (blobs / "secret").symlink_to(tmp_path / "secret")
    (snapshot.parents[1] / "refs").write_text(SECRET)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "b").write_text(SECRET)
    for target in ("../../blobs/secret", other / "tokenizer.json", "../../refs", tmp_path / "blobs" / "b"):
        (snapshot / "merges.txt").symlink_to(target)
        assert "merges.txt is a link to" in refused(load_hf, snapshot)
        (snapshot / "merges.txt").unlink()


# --- Orbax folders

FILES = [
    "/etc/hostname",
    "../model/config.json",
    "params/../config.json",
    "./config.json",
    "",
    "params",
    "a\0b",
    "\ud800",
    RED,
    "x" * 100_000,
]


def test_a_manifest_names_files_of_its_folder(orbax, folder, tmp_path):
    saved = Path(shutil.copytree(orbax, tmp_path / "orbax"))
    files = json.loads((saved / "manifest.json").read_text())["files"]
    for name in FILES:
        target = saved / name if name.isprintable() and len(name) < 300 else saved
        digest = hashlib.sha256(target.read_bytes()).hexdigest() if target.is_file() else "0" * 64
        edit(saved / "manifest.json", files=files | {name: digest})
        assert str(saved) in refused(load_orbax, saved), name


MANIFESTS = {
    "files": ({}, [], "x", 5, None, {"config.json": 5}),
    "dtype": (5, None, "x", [1], "int8", "float64", RED),
    "dtypes": (5, "x", [1], {"model.norm.weight": 5}, {"model.norm.weight": "x"}),
    "version": (1, "2", [2], {}, RED, "y" * 3_000_000),
}


def test_an_odd_manifest_is_refused(orbax, tmp_path):
    folder = Path(shutil.copytree(orbax, tmp_path / "orbax"))
    manifest = (folder / "manifest.json").read_text()
    for name, values in MANIFESTS.items():
        for value in values:
            (folder / "manifest.json").write_text(manifest)
            edit(folder / "manifest.json", **{name: value})
            assert str(folder) in refused(load_orbax, folder), (name, value)


@pytest.mark.parametrize("listed", ["config.json", "config.json and one weight", "another shape"])
def test_a_manifest_lists_the_files_of_every_weight(listed, orbax, tmp_path):
    folder = Path(shutil.copytree(orbax, tmp_path / "orbax"))
    files = json.loads((folder / "manifest.json").read_text())["files"]
    if listed == "another shape":
        edit(folder / "config.json", hidden_size=32)
        files["config.json"] = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    else:
        files = {n: d for n, d in files.items() if n == "config.json" or ("weight" in listed and "norm.weight" in n)}
    edit(folder / "manifest.json", files=files)
    assert str(folder) in refused(load_orbax, folder)


# --- the doctor


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        *((name, None, "tokenizer") for name in ("tokenizer.json", "merges.txt")),
        ("generation_config.json", '{"eos_token_id": -5}', "tokenizer"),
        ("generation_config.json", "[]", "tokenizer"),
        ("config.json", '{"model_type": "' + "y" * 1_000_000 + '"}', "model"),
    ],
)
def test_the_doctor_reports_them_as_problems(name, content, line, folder, tmp_path):
    from socialr1_jax.config.run import DoctorConfig
    from socialr1_jax.plan.doctor import examine

    (folder / name).unlink(missing_ok=True)
    if content is None:
        (tmp_path / "secret").write_text(SECRET)
        (folder / name).symlink_to("../secret")
    else:
        (folder / name).write_text(content)
    config = DoctorConfig.model_validate({"model": {"path": str(folder)}})
    lines = {found.name: found for found in examine(config, ["model", "tokenizer"])}
    assert lines[line].status == "problem"
    assert name in lines[line].found
    assert all(found.found.isprintable() and len(found.found) < LONGEST for found in lines.values())
