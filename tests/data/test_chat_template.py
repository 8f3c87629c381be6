"""Chat templates that open or close the thoughts themselves: every part of the program sees the same whole response."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
from toys import changed, lines
from transformers import AutoTokenizer

from socialr1_jax.config.evaluation import EvaluateConfig
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.pairs import PairsConfig
from socialr1_jax.config.run import DoctorConfig
from socialr1_jax.data.chat_template import chat_tokens, response_opening, thoughts_in_prompt
from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import encode_prompt, reference_response
from socialr1_jax.data.tokenizer import CHAT_TEMPLATE
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.respondents import Asked, LocalModel
from socialr1_jax.evaluation.scoring import score
from socialr1_jax.evaluation.tasks.socialiqa import TASK
from socialr1_jax.plan.doctor import examine
from socialr1_jax.rewards import parse_response, social_r1_reward
from socialr1_jax.rewards.scoring import ScoreConfig, score_file
from socialr1_jax.sampling import Completion
from socialr1_jax.sampling.text import decode_responses
from socialr1_jax.training import build_pairs, grpo
from socialr1_jax.training.watches import FormatWatch

HEADER = "'<|im_start|>assistant\\n'"
THOUGHTS_DROPPED = "(message.content.split('</think>')[-1] if message.role == 'assistant' else message.content)"


def _opening(text):
    header = f"'<|im_start|>assistant\\n{text}'"
    return CHAT_TEMPLATE.replace(HEADER, header).replace("enable_thinking is false", "false")


TEMPLATES = {
    "leaves": CHAT_TEMPLATE,
    "opens": _opening("<think>\\n"),
    "opens without a line break": _opening("<think>"),
    "closes": CHAT_TEMPLATE.replace("enable_thinking is defined and enable_thinking is false", "true"),
    "drops": CHAT_TEMPLATE.replace("message.content", THOUGHTS_DROPPED, 1),
}
THOUGHTS = (
    "Encode: Ann puts the ball into the box and leaves. Ben moves the ball to the bag while Ann is away.\n"
    "Interpret: Ann did not see Ben move the ball, so Ann still thinks that the ball is in the box where she put it.\n"
    "Goal: The question asks where Ann will look first, which follows her belief and not the true place of the ball.\n"
    "Respond: Ann looks in the box, so the matching option is the first one, the box, and that is the answer to give."
)
ROW = {
    "story": "Ann puts the ball into the box and leaves. Ben moves the ball to the bag.",
    "question": "Where will Ann look first?",
    "options": ["the box", "the bag"],
    "answer": "A",
    "response": f"{THOUGHTS}\n</think>\n\n<Answer>A</Answer>",
}
WHOLE = f"<think>\n{ROW['response']}"


@pytest.fixture(scope="module")
def models(start, tmp_path_factory):
    """name of a template -> the toy's folder with it, and its tokenizer."""
    made = {}
    for name, template in TEMPLATES.items():
        folder = Path(shutil.copytree(start.model.path, tmp_path_factory.mktemp("model") / "model"))
        (folder / "chat_template.jinja").write_text(template)
        made[name] = folder, AutoTokenizer.from_pretrained(folder)
    return made


@pytest.mark.parametrize(
    ("name", "opening", "without", "kind"),
    [
        ("leaves", "", "<think>\n\n</think>\n\n", "leaves"),
        ("opens", "<think>\n", "<think>\n", "opens"),
        ("opens without a line break", "<think>", "<think>", "opens"),
        ("closes", "<think>\n\n</think>\n\n", "<think>\n\n</think>\n\n", "closes"),
        ("drops", "", "<think>\n\n</think>\n\n", "leaves"),
    ],
)
def test_rendering_shows_what_a_template_does(models, name, opening, without, kind):
    folder, tokenizer = models[name]
    assert (response_opening(tokenizer), thoughts_in_prompt(tokenizer)) == (opening, kind)
    assert response_opening(tokenizer, thinking=False) == without
    prompt = tokenizer.decode(chat_tokens(tokenizer, [{"role": "user", "content": "q"}]))
    assert prompt.endswith(f"<|im_start|>assistant\n{opening}")
    line = next(examine(load_config(DoctorConfig, None, [f"model.path={folder}"]), ["tokenizer"]))
    assert line.status == ("problem" if kind == "closes" else "ok")
    assert f"prompt {kind} " in line.found


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_response_is_whole_wherever_it_is_decoded(models, name):
    """Decoding what SFT teaches behind the prompt gives the reference response."""
    _, tokenizer = models[name]
    example = Example(
        id="1",
        thoughts=THOUGHTS,
        **{key: ROW[key] for key in ("story", "question", "answer")},
        options=tuple(ROW["options"]),
    )
    opening = response_opening(tokenizer)
    taught = tokenizer.encode(reference_response(example, opening), add_special_tokens=False)
    (text,) = decode_responses(tokenizer, [Completion([*taught, tokenizer.eos_token_id], [], "stop", stop=0)])
    both = tokenizer.decode(encode_prompt(tokenizer, example) + taught)
    assert both.endswith(text)
    assert parse_response(text).well_formed == (name != "closes")
    if name != "closes":
        assert text.replace("<think>\n", "<think>") == reference_response(example).replace("<think>\n", "<think>")


def test_runs_see_whole_responses_and_report_missing_format(models, start, tmp_path, capsys):
    """A random model's responses are cut in their thoughts: the warning names that and what is wrong with them."""
    config = changed(start, tmp_path, steps=3, model={"path": str(models["opens"][0])})
    assert grpo.train_grpo(config)
    rows = lines(tmp_path / "rollouts.jsonl")
    assert {row["phase"] for row in rows} == {"eval", "grpo"}
    assert all(row["response"].startswith("<think>\n") for row in rows)
    said = " ".join(capsys.readouterr().out.split())
    assert "in the last 3 steps 0.0% of the responses were well formed" in said
    assert "no </think>" in said
    assert "raise sampling.max_new_tokens" in said


def test_warning_needs_bad_steps_in_a_row(models):
    watch = FormatWatch(thoughts_in_prompt(models["closes"][1]))
    rates = (0, 0, 1.0, 0, 0, 0.01, 0, 0, 0, 1.0, *[0] * 20)
    heard = [watch(rate, 0.0, 0.0, ["<think></think>x"]) for rate in rates]
    assert [number for number, said in enumerate(heard, 1) if said] == [6, 13, 26]  # at least twice as late each time
    assert "closes empty thoughts" in heard[5]
    assert "so nearly all rewards are 0 and the run learns nothing" in heard[5]


def test_warning_calls_no_reward_0_that_is_not(models):
    watch = FormatWatch(thoughts_in_prompt(models["closes"][1]))
    said = [watch(0.0, 0.0, 0.5, ["x"]) for _ in range(3)][2]
    assert "so only terms that do not need the format count (50% of the rewards are not 0)" in said
    assert "learns nothing" not in said


def test_scoring_and_pairs_add_what_the_prompt_opened(tmp_path):
    file, output = tmp_path / "r.jsonl", tmp_path / "o.jsonl"
    file.write_text(json.dumps(ROW) + "\n")
    reward = social_r1_reward(WHOLE, "A", structure=1.0, content=None, preset="no_content").total
    for opened, total in (("auto", reward), ("yes", reward), ("no", 0.0)):
        config = ScoreConfig(input=str(file), output=str(output), preset="no_content", judge="rules", opened=opened)
        assert score_file(config).opened == (opened != "no")
        assert lines(output)[0]["reward"] == pytest.approx(total)
    assert reward > 1.5
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"response": WHOLE}) + "\n")  # a template that leaves it
    score_file(ScoreConfig(input=str(file), output=str(output), preset="no_content", judge="rules"))
    assert [row["reward"] for row in lines(output)] == [0.0, pytest.approx(reward)]

    file.write_text(json.dumps(ROW) + "\n" + json.dumps(ROW | {"response": "Encode: it.\n</think> A"}) + "\n")
    made = {
        "source": "responses",
        "responses": str(file),
        "output": str(tmp_path / "p.jsonl"),
        "matching": {"unit": "whole", "max_length_ratio": 100.0},
    }
    pairs = build_pairs.build_pairs(PairsConfig.model_validate(made)).pairs
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [(THOUGHTS, "Encode: it.")]


def test_unfinished_thoughts_of_the_template_earn_nothing(models):
    model = LocalModel(EvaluateConfig(model=str(models["opens"][0]), batch_size="4"))
    ((_, _, cut),) = model.replies([Asked("k", ({"role": "user", "content": "Where?"},), 4)])
    assert cut.text.startswith("<think>\n")
    tokenizer, card = models["opens"][1], Request(id="0", item="0", messages=(), gold="A")
    for said, status, value in (("The answer is <Answer>A</Answer>", "truncated", 0.0), (ROW["response"], "ok", 1.0)):
        tokens = tokenizer.encode(said, add_special_tokens=False)
        reply = model.reply(Completion(tokens, [0.0] * len(tokens), "length" if status == "truncated" else "stop"))
        for protocol in ("official", "social_r1"):
            scored = score(TASK, protocol, card, 0, reply)
            assert (scored.status, scored.grade.value) == (status, value), protocol


def test_generate_prints_the_whole_response(models, capsys):
    script = Path(__file__).resolve().parents[2] / "scripts" / "generate.py"
    spec = importlib.util.spec_from_file_location("generate_script", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    question = ("--story", "Ann left.", "--question", "Where?", "--options", "A. box, B. bag", "--max_new_tokens", "4")
    assert module.main(["--model", str(models["opens"][0]), *question]) == 0
    assert capsys.readouterr().out.startswith("<think>\n")
