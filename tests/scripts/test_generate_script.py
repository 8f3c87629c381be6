"""scripts/generate.py: one question in, thoughts and answer out as they come, or one line that says what is wrong."""

import importlib.util
import io
import json
import re
import sys
from pathlib import Path

import jax
import pytest
from safetensors.numpy import load_file, save_file
from toys import ONE_LAYER

from socialr1_jax import Qwen3, Qwen3Config, SamplingParams, generate, load_hf, save_hf
from socialr1_jax.data.prompts import encode_prompt
from socialr1_jax.data.question_files import typed_question
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.models.qwen3 import init_params
from socialr1_jax.runtime.terminal import readable
from socialr1_jax.sampling import Engine
from socialr1_jax.sampling.batch import Segment
from socialr1_jax.sampling.text import decode_responses

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "generate.py"
POSITIONS = 400
QUESTION = ("--story", "Anna left.", "--question", "Where will Anna look?", "--options", "A. drawer, B. shelf")
RESPONSE = "<think>\nAnna saw it — in the drawer.\n</think>\n\n<Answer>A</Answer>"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random one-layer Qwen3 with a tokenizer, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer(["Where will Anna look? the drawer the shelf"] * 2, 320)
    tokenizer.save_pretrained(folder / "tokenizer")
    config = Qwen3Config(
        vocab_size=320,
        **ONE_LAYER,
        max_position_embeddings=POSITIONS,
        initializer_range=0.3,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = Qwen3(config, init_params(config, jax.random.key(0)), source=str(folder / "tokenizer"))
    save_hf(model, folder / "hf")
    return folder / "hf"


@pytest.fixture(scope="module")
def tokenizer(model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("generate_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def scripted(monkeypatch, tokenizer):
    """Makes every engine say `text` in segments of 5 tokens; gives what it was asked for. `before` runs before each."""

    def script(text, before=lambda: None):
        asked = {}

        def stream(engine, prompts, sampling):
            asked.update(prompt=tokenizer.decode(prompts[0]), sampling=sampling, engine=engine)
            ids = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
            for start in range(0, len(ids), 5):
                before()
                part = ids[start : start + 5]
                last = start + 5 >= len(ids)
                ended = ("stop", part[-1]) if last else (None, None)
                yield Segment(0, part, [0.0] * len(part), *ended)

        monkeypatch.setattr(Engine, "stream", stream)
        return asked

    return script


def test_script_prints_what_generate_returns(main, model, tokenizer, capsys):
    options = ("--max_new_tokens", "24", "--temperature", "1.3", "--top_k", "50", "--top_p", "0.9", "--seed", "3")
    assert main(["--model", str(model), *QUESTION, *options, "--min_p", "0.001"]) == 0
    out = capsys.readouterr().out
    prompt = encode_prompt(tokenizer, typed_question(QUESTION[3], QUESTION[1], QUESTION[5]))
    sampling = SamplingParams(
        max_new_tokens=24,
        temperature=1.3,
        top_k=50,
        top_p=0.9,
        min_p=0.001,
        seed=3,
        stop_token_ids=(tokenizer.eos_token_id,),
    )
    [[completion]] = generate(load_hf(model), [prompt], sampling)
    text = decode_responses(tokenizer, [completion])[0]
    assert len(text) > 10
    assert out.startswith(f"{readable(text)}\n\nno answer (")
    ending = rf"; {completion.finish_reason} after {len(completion.tokens)} tokens, [\d.]+ tokens/s with compilation\n"
    assert re.search(ending + r"\Z", out)


def test_model_and_file_never_command_the_terminal(main, model, tmp_path, capsys, scripted):
    texts = {
        "\x1b[31mred\x1b]0;title\x07": "\\x1b[31mred\\x1b]0;title\\x07",
        "\u202eexe.png\u2066": "\\u202eexe.png\\u2066",
        "line\n\tindented\r\x08over": "line\n\tindented \\x08over",
        "\x9b2J [bold]:smile: é — 猫 👩\u200d👧": "\\x9b2J [bold]:smile: é — 猫 👩\u200d👧",
    }
    said = " ".join(texts)
    scripted(f"<think>{said}</think>\n\n<Answer>B</Answer>")
    row = {"story": "Anna left.", "question": "Where?", "answer": f"{said}{'x' * 5000}"}
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["--model", str(model), "--file", str(tmp_path / "q.jsonl")]) == 0
    out = capsys.readouterr().out
    assert f"<think>{' '.join(texts.values())}</think>" in out
    assert {character for character in out if not character.isprintable()} == {"\n", "\t", "\u200d"}
    last = out.rpartition("\n\n")[2]
    assert "gold is \\x1b[31mred" in last
    assert len(last) < 2500
    assert last.count("\n") == 1


def test_a_reader_that_leaves_ends_the_answer(main, model, capsys, scripted, monkeypatch):
    segments = []
    scripted(RESPONSE * 20, before=lambda: segments.append(1))
    lost = io.StringIO()
    monkeypatch.setattr(lost, "write", lambda text: (_ for _ in ()).throw(BrokenPipeError(32, "Broken pipe")))
    monkeypatch.setattr(sys, "stdout", lost)
    with pytest.raises(SystemExit) as end:
        main(["--model", str(model), *QUESTION])
    assert end.value.code == 141
    assert len(segments) < 3
    assert capsys.readouterr().err.count("\n") == 1  # "loading ..."


def test_text_appears_before_the_response_ends(main, model, capsys, scripted):
    seen = []
    scripted(RESPONSE, before=lambda: seen.append(capsys.readouterr().out))
    assert main(["--model", str(model), *QUESTION]) == 0
    assert len(seen) > 5
    assert seen[0] == ""
    assert all(seen[1:])
    shown, _, last = (("".join(seen)) + capsys.readouterr().out).rpartition("\n\n")
    assert shown == RESPONSE
    assert re.fullmatch(r"answer A; stop after \d+ tokens, [\d.]+ tokens/s with compilation\n", last)


def test_a_question_of_a_file_is_judged(main, model, capsys, scripted, tmp_path):
    row = {"story": "Anna left.", "question": "Where?", "options": ["drawer", "shelf"], "answer": "A"}
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(json.dumps(row | {"question": f"Where, {n}?", "answer": "BA"[n - 1]}) for n in (1, 2)))
    asked = scripted(RESPONSE)
    assert main(["--model", str(model), "--file", str(file), "--row", "2"]) == 0
    assert "Where, 2?\nA. drawer\nB. shelf" in asked["prompt"]
    assert "answer A, right; stop" in capsys.readouterr().out
    assert main(["--model", str(model), "--file", str(file)]) == 0
    assert "Where, 1?" in asked["prompt"]
    assert "answer A, gold is B; stop" in capsys.readouterr().out


def test_a_file_and_a_run_of_ones_own(main, model, capsys, scripted, tmp_path, monkeypatch):
    from socialr1_jax.run import weights as run_weights

    file, checkpoint = tmp_path / "quiz.csv", tmp_path / "checkpoints" / "7"
    file.write_text("scene,question,options,gold\nAnna left.,Where?,A. x; B. y,1\nBen sat.,Who?,A. x; B. y,9\n")
    asked = scripted(RESPONSE)
    monkeypatch.setattr(run_weights, "is_run", lambda folder: folder == "runs/mine")
    monkeypatch.setattr(run_weights, "find_checkpoint", lambda folder, step: {"best": checkpoint}[step])
    monkeypatch.setattr(run_weights, "load_policy", lambda folder, mesh: load_hf(model, mesh))
    arguments = ["--columns", "{story: scene, answer: gold}", "--first_label", "1", "--system", "Be brief."]
    of_run = ["--model", "runs/mine", "--step", "best", "--prompt", "{{ story }} {{ lettered }}"]
    assert main([*of_run, "--file", str(file), *arguments]) == 0
    assert "Anna left. A. x\nB. y" in asked["prompt"]
    assert "Be brief." in asked["prompt"]
    captured = capsys.readouterr()
    assert "answer A, right" in captured.out
    assert f"the checkpoint is {checkpoint}" in captured.err
    assert main([*of_run, "--file", str(file), "--row", "2", *arguments]) == 2
    assert "quiz.csv row 2: the gold answer '9'" in capsys.readouterr().err


def test_a_folder_with_an_export_names_it(main, model, capsys, tmp_path):
    (tmp_path / "export").symlink_to(model)
    assert main(["--model", str(tmp_path), "--question", "Where?"]) == 2
    assert (
        f"not a Hugging Face model folder; {tmp_path / 'export'} is one, exported by a run" in capsys.readouterr().err
    )


def test_the_question_comes_from_standard_input(main, model, scripted, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Why do people\nsay sorry?\n"))
    asked = scripted(RESPONSE)
    assert main(["--model", str(model)]) == 0
    assert "user\nWhy do people\nsay sorry?\n\nYou should first think" in asked["prompt"]


def test_settings_reach_the_engine(main, model, scripted):
    asked = scripted(RESPONSE)
    assert main(["--model", str(model), *QUESTION]) == 0
    assert not asked["prompt"].endswith("</think>\n\n")
    assert asked["sampling"].temperature == 0.7
    assert asked["engine"].dtype == "float32"
    assert 0 < asked["sampling"].max_new_tokens < POSITIONS  # 2,048 is more than this model has
    assert main(["--model", str(model), *QUESTION, "--thinking=false", "--dtype", "bfloat16", "--temperature=0"]) == 0
    assert asked["prompt"].endswith("<think>\n\n</think>\n\n")
    assert asked["engine"].dtype == asked["engine"].params["norm"].dtype.name == "bfloat16"
    assert asked["sampling"].temperature == 0


def test_ctrl_c_ends_without_a_traceback(main, model, capsys, scripted):
    def interrupt():
        if capsys.readouterr().out:
            raise KeyboardInterrupt

    scripted(RESPONSE, before=interrupt)
    assert main(["--model", str(model), *QUESTION]) == 130
    assert capsys.readouterr().err.endswith("stopped\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere", "--question", "Where?"], "no folder 'nowhere', and it is not a hub id"),
        (["--question", " "], "no question: give --question or --file, or write it to standard input"),
        (["--question", "Where?", "--options", "drawer"], "cannot find the options A, B, ..."),
        (["--question", "Where? " * POSITIONS], f"and the model's {POSITIONS} positions are for prompt and response"),
        (["--file", "none.jsonl"], "none.jsonl: cannot read the file"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(main, model, capsys, arguments, message):
    assert main(["--model", str(model), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    *loading, error = captured.err.splitlines()
    assert loading in ([], [f"loading {arguments[1] if arguments[0] == '--model' else model}"])
    assert error.startswith("generate.py: error: ")
    assert message in error


def test_nothing_is_read_from_a_terminal(main, model, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("never read"))
    assert main(["--model", str(model)]) == 2
    assert "no question: give" in capsys.readouterr().err


def test_a_model_whose_weights_are_cut(main, model, tmp_path, capsys):
    folder = tmp_path / "cut"
    save_hf(load_hf(model), folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    assert main(["--model", str(folder), "--question", "Where?"]) == 2
    assert "missing tensor model.norm.weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--question", "Where?"], "model is required"),
        (["--model", "m", "--temprature", "1"], "unknown key 'temprature'; did you mean 'temperature'?"),
        (["--model", "m", "--file", "f.jsonl", "--question", "Where?"], "file has its own story, question"),
        (["--model", "m", "--first_label", "1"], "first_label is about a question file, and file names none"),
        (["--model", "m", "--row", "0"], "row must be at least 1"),
    ],
)
def test_wrong_arguments(main, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
