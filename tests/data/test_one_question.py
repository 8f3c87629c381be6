"""One question from the command line or from a file, and the prompt it becomes."""

import json

import pytest

from socialr1_jax.data.prompts import encode_prompt, question_text
from socialr1_jax.data.question_files import picked_question, typed_question
from socialr1_jax.data.tokenizer import build_tokenizer

ROWS = [
    {"story": "Anna left.", "question": f"Where does she look, {n}?", "options": ["drawer", "shelf"], "answer": "B"}
    for n in range(3)
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer([ROWS[0]["question"]] * 2, 300)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n\n".join(map(json.dumps, ROWS)))
    return path


def test_typed_question_reads_like_one_of_a_file(file):
    typed = typed_question(" Where does she look, 0? ", "Anna left.\n", "A. drawer, B. shelf")
    assert question_text(typed) == question_text(picked_question(file, 1))
    assert "A. drawer\nB. shelf" in question_text(typed)


def test_a_typed_question_without_options_or_story():
    text = question_text(typed_question("Why do people say sorry?"))
    assert text.startswith("Why do people say sorry?\n\nYou should first think")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": " "}, "the question is empty"),
        ({"question": "Where?", "options": "drawer, shelf"}, "cannot find the options A, B, ..."),
        ({"question": "Where?", "options": "A. drawer"}, "1 options"),
    ],
)
def test_a_typed_question_that_cannot_be_asked(arguments, message):
    with pytest.raises(ValueError, match=message):
        typed_question(**arguments)


def test_rows_count_questions_and_not_blank_lines(file):
    assert [picked_question(file, row).question[-2] for row in (1, 2, 3)] == ["0", "1", "2"]
    with pytest.raises(ValueError, match=r"questions\.jsonl: there is no row 4; the file has 3 rows"):
        picked_question(file, 4)


def test_row_beside_bad_rows_is_read_as_evaluated(tmp_path):
    file = tmp_path / "quiz.csv"
    file.write_text(
        "scene,question,options,gold,part\nAnna left.,Where 1?,A. x; B. y,2,test\n,Where 2?,,9,train\n"
        "Ben sat.,Where 3?,A. x; B. y,3,test\nCem ran.,Where 4?,A. x; B. y,1,test\n"
    )
    read = {"columns": {"story": "scene", "answer": "gold"}, "where": {"part": "test"}, "first_label": 1}
    first, last = picked_question(file, 1, **read), picked_question(file, 3, **read)
    assert (first.story, first.answer, last.question, last.answer) == ("Anna left.", "B", "Where 4?", "A")
    with pytest.raises(ValueError, match=r"quiz\.csv row 3: the gold answer '3' .* Correct the row, or how"):
        picked_question(file, 2, **read)


def test_prompt_is_that_of_training_unless_thoughts_off(tokenizer):
    question = typed_question("Where?", "Anna left.")
    prompt = encode_prompt(tokenizer, question)
    assert prompt == encode_prompt(tokenizer, question)
    without = encode_prompt(tokenizer, question, thinking=False)
    assert tokenizer.decode(without) == tokenizer.decode(prompt) + "<think>\n\n</think>\n\n"


def test_a_tokenizer_without_a_chat_template(tokenizer):
    bare = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer)
    bare.chat_template = None
    with pytest.raises(ValueError, match="has no chat template: put the model's tokenizer files"):
        encode_prompt(bare, typed_question("Where?"))
