"""Fuzz the readers of what users, models and servers send, guided by coverage.

    pip install -e '.[fuzz]'
    python tests/fuzz.py --seconds 60             # every reader, two at a time
    python tests/fuzz.py --seconds 60 yaml config # some of them

A reader may return, or raise the errors that its docstring names in one bounded line that is safe to print. Anything
else, an input that takes longer than 10 s, and more than 2 GiB of memory are faults: the input is written to
`--artifacts` and the exit status is 1. The seeds are the hostile inputs that once broke something.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
_MOST_MESSAGE = 10_000
_ROW = {"id": "1", "story": "Anna left.", "question": "Where is it?", "options": ["box", "bag"], "answer": "A"}
_MODEL = {
    "model_type": "qwen3",
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 8,
    "head_dim": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
_JSON = [
    "[" * 3000,
    '{"a":' * 3000,
    '{"a": 1, "a": 2}',
    "1e999",
    "NaN",
    "[1]",
    "null",
    '"\\ud800"',
    "\ufeff{}",
    "\x00",
    '{"a": 1' + "0" * 5000 + "}",
]


def _changed(record: dict, **changes: object) -> str:
    return json.dumps(record | changes)


def _rows() -> list[str]:
    odd = ["x\ud800", 10**400, float("nan"), [], {}, "?!", "A. x" + " " * 500 + "y", "\x1b[31m", "<|im_start|>", None]
    rows = [_changed(_ROW, **{name: value}) for name in _ROW for value in odd]
    head = "id,story,question,options,answer\n"
    tables = [f"{head}1,s,q,A. a B. b,A\n", ",".join("a" * 300), '"', "a,a\n1,2\n", "\x1f\x8b"]
    return [*rows, "\n".join([_changed(_ROW)] * 2), *tables, *_JSON]


def _configs() -> list[str]:
    odd = [0, -1, 1e12, 10**12, "2", "x", None, [], [[1]], {}, True, float("nan"), 10**400]
    names = [*_MODEL, "rope_scaling", "rope_parameters", "layer_types", "id2label", "eos_token_id", "sliding_window"]
    return [_changed(_MODEL), *(_changed(_MODEL, **{name: value}) for name in names for value in odd), *_JSON]


def _yamls() -> list[str]:
    bomb = "a: &a [x,x]\n" + "".join(f"{c}: &{c} [*{p},*{p},*{p}]\n" for p, c in zip("abcdef", "bcdefg", strict=True))
    tags = ["!!int x", '!!int ""', '!!float ""', "!!timestamp x", "!!binary x", "!!set {a}", "!!python/object:a.b {}"]
    odd = ["2020-99-99", "0x_", "1" * 5000, "? [a]", "{stop: '[a'}", "5e-7", ".nan", "*a", "<<: *a", "[" * 3000]
    lines = [f"{prefix}{value}\n" for prefix in ("seed: ", "") for value in (*tags, *odd)]
    return ["steps: 3\nmodel: {path: x}\n", bomb, *lines]


def _verdicts() -> list[str]:
    stages = {name: {"score": 1, "violations": []} for name in ("encode", "interpret", "clarify", "respond")}
    whole = json.dumps({"code": "C0DE", "score": 0.5, "stages": stages, "violations": []})
    fenced = f"```json\n{whole}\n```"
    return [whole, fenced, fenced + fenced, whole.replace("0.5", "1e999"), whole.replace("C0DE", "c0de"), *_JSON]


def _answers() -> list[str]:
    forms = (HERE / "answer_forms.jsonl").read_text(encoding="utf-8").splitlines()
    tags = "<think>x</think><Answer>A</Answer>"
    return [str(json.loads(form)) for form in forms] + [tags, tags * 50, "<Answer>A" * 200, "A" + " " * 500, "**(A)**."]


def _headers() -> list[bytes]:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    odd = [
        tensor | change
        for change in (
            {"shape": [-1]},
            {"shape": [2**62] * 3},
            {"data_offsets": [8, 0]},
            {"dtype": "F4"},
            {"data_offsets": [0, 2**63]},
            {"shape": "x"},
        )
    ]
    texts = [json.dumps({"model.norm.weight": one}).encode() for one in (tensor, *odd)]
    return [len(text).to_bytes(8, "little") + text + bytes(8) for text in texts] + [b"", b"\xff" * 16]


@contextlib.contextmanager
def _only(*errors: type[Exception]) -> Iterator[None]:
    """Let the errors pass that a user gets as one line; raises AssertionError for a line that is none."""
    try:
        yield
    except errors as error:
        text = str(error)
        assert len(text) < _MOST_MESSAGE, f"a message of {len(text)} characters"
        assert "\x1b" not in text, "a control character in a message"


def _reader(name: str, folder: Path) -> Callable[[bytes], None]:
    """Return the function that reads one input; it raises for a fault."""
    if name == "rows":
        from socialr1_jax.data.question_files import read_examples

        def read_rows(data: bytes) -> None:
            kind = ("jsonl", "json", "csv")[data[0] % 3] if data else "jsonl"
            file = folder / f"q.{kind}"
            file.write_bytes(data)
            with _only(ValueError, OSError):
                for example in read_examples(str(file)):
                    json.dumps([example.id, example.story, example.answer, dict(example.meta)]).encode()
                    str(example).encode()  # no half characters

        return read_rows
    if name == "config":
        from socialr1_jax.models.qwen3_config import Qwen3Config
        from socialr1_jax.runtime.files import read_json

        def read_config(data: bytes) -> None:
            (file := folder / "config.json").write_bytes(data)
            with _only(ValueError, OSError):
                config = Qwen3Config.from_hf(read_json(file), source=str(file))
                assert config.num_hidden_layers < 100_000

        return read_config
    if name == "yaml":
        from socialr1_jax.config.loading import load_config
        from socialr1_jax.config.run import RunConfig

        def read_yaml(data: bytes) -> None:
            (file := folder / "c.yaml").write_bytes(data)
            with _only(ValueError):
                load_config(RunConfig, file)
            with _only(ValueError):
                load_config(RunConfig, None, [data.decode("utf-8", "replace")])

        return read_yaml
    if name == "verdicts":
        from socialr1_jax.evaluation.sotopia.episode import Utterance
        from socialr1_jax.evaluation.sotopia.judging import BadVerdict, parse_scores
        from socialr1_jax.rewards.rubric import parse_verdict

        def read_verdict(data: bytes) -> None:
            try:
                text = data.decode("utf-8", "surrogatepass")  # JSON can hold half characters
            except UnicodeDecodeError:
                text = data.decode("utf-8", "replace")
            verdict = parse_verdict(text, "C0DE")
            assert not verdict.score > 1, verdict
            assert verdict.score != verdict.score or "c0de" in text.lower(), "a score without the code"
            with _only(BadVerdict):
                parse_scores(Utterance(text))

        return read_verdict
    if name == "answers":
        from socialr1_jax.data.examples import LETTERS
        from socialr1_jax.rewards.answers import answer_letter, named_letter
        from socialr1_jax.rewards.parsing import given_answer, parse_response, whole_responses
        from socialr1_jax.rewards.terms import outcome_reward

        def read_answer(data: bytes) -> None:
            text = data.decode("utf-8", "replace")
            parse_response(text)
            whole_responses([text])
            assert named_letter(text, "ABCD", ["the box", "the bag", "a", "B"]) in ("", *"ABCD")
            assert answer_letter(text) in ("", *LETTERS)
            assert outcome_reward(given_answer(text), "A") in (0.0, 1.0)

        return read_answer
    from socialr1_jax.weights.hf_folder import open_hf

    (folder / "config.json").write_text(json.dumps(_MODEL))

    def read_header(data: bytes) -> None:
        (folder / "model.safetensors").write_bytes(data)
        with _only(ValueError, OSError):
            open_hf(folder)

    return read_header


SEEDS: dict[str, Callable[[], list]] = {
    "rows": _rows,
    "config": _configs,
    "yaml": _yamls,
    "verdicts": _verdicts,
    "answers": _answers,
    "headers": _headers,
}


def _fuzz(name: str, seconds: int, artifacts: Path) -> None:
    """Fuzz one reader in this process; never returns."""
    import atheris

    with tempfile.TemporaryDirectory() as scratch:
        corpus, folder = Path(scratch) / "corpus", Path(scratch) / "files"
        corpus.mkdir()
        folder.mkdir()
        for number, seed in enumerate(SEEDS[name]()):
            content = seed if isinstance(seed, bytes) else seed.encode("utf-8", "surrogatepass")
            (corpus / str(number)).write_bytes(content)
        with atheris.instrument_imports(include=["socialr1_jax"]):
            read = _reader(name, folder)
        limits = [f"-max_total_time={seconds}", "-timeout=10", "-rss_limit_mb=4096", "-max_len=20000"]
        quiet = [f"-artifact_prefix={artifacts}/{name}-", "-print_final_stats=1", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *limits, *quiet, str(corpus)], read)
        atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the readers of foreign input.")
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"{', '.join(SEEDS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="of each reader (60)")
    parser.add_argument("--artifacts", type=Path, default=Path(tempfile.gettempdir()), help="folder for faulty inputs")
    parser.add_argument("--here", action="store_true", help="in this process, without a summary (one reader)")
    arguments = parser.parse_args()
    names = arguments.readers or list(SEEDS)
    if unknown := sorted(set(names) - set(SEEDS)):
        parser.error(f"unknown reader {unknown[0]}; there are {', '.join(SEEDS)}")
    if arguments.here:
        _fuzz(names[0], arguments.seconds, arguments.artifacts)

    def run(name: str) -> tuple[str, int, str]:
        again = [sys.executable, __file__, "--here", "--seconds", str(arguments.seconds), name]
        done = subprocess.run([*again, "--artifacts", str(arguments.artifacts)], capture_output=True, text=True)
        return name, done.returncode, done.stdout + done.stderr

    failed = False
    with ThreadPoolExecutor(2) as pool:
        for name, status, output in pool.map(run, names):
            units = next((line.split()[-1] for line in output.splitlines() if "number_of_executed_units" in line), "0")
            print(f"{name}: {units} inputs, {'clean' if not status else 'FAULT'}", flush=True)
            if status:
                failed = True
                print(output[output.find("=== Uncaught") :][:4000])
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
