"""Several sources as one checked sequence: bad rows, names, views, generated stories, large Parquet files."""

import csv
import json
import logging
from functools import partial
from pathlib import Path

import pytest

from socialr1_jax.data import parquet_rows
from socialr1_jax.data.bad_rows import report, summary, write_bad_rows
from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import PromptWriter, question_text
from socialr1_jax.data.tables import BadRow, DataError
from socialr1_jax.questions import sources as question_sources
from socialr1_jax.questions.sources import open_questions, source_names
from socialr1_jax.run.questions import understood
from socialr1_jax.stories.stories import generate_stories

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


CARD = question_text(
    Example(id="q1", story="Anna left 1 times.", question="Who left?", options=("Anna", "Ben"), answer="B")
)


def row(number: int, **change: object) -> dict:
    return {
        "id": f"q{number}",
        "story": f"Anna left {number} times.",
        "question": "Who left?",
        "options": ["Anna", "Ben"],
        "answer": "AB"[number % 2],
        "level": number % 3,
    } | change


def jsonl(path: Path, *rows: dict | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in rows))
    return path


# ------------------------------------------------------------------------------------------------------------- sources


def test_sources_follow_each_other_and_keep_their_names(tmp_path):
    first = jsonl(tmp_path / "first.jsonl", row(0), row(1, source="elsewhere"))
    second = tmp_path / "second.csv"
    second.write_text("story,question,answer\ns,q,free text\n")
    third = tmp_path / "third.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([row(2)]), third)
    questions = open_questions([first, str(second), third, "stories:3:5"])
    assert len(questions) == 7
    assert [example.meta["source"] for example in questions] == ["first", "elsewhere", "second", "third"] + [
        "stories"
    ] * 3
    assert [questions[i].id for i in range(4)] == ["q0", "q1", "second-1", "q2"]
    stories = generate_stories(3, seed=5, question_types=("belief", "knowledge", "reality"))
    assert list(questions)[4:] == stories
    assert questions[-1] == stories[-1]
    with pytest.raises(IndexError):
        questions[7]


# (columns of the CSV file, a row of it, data.columns, what is said of it)
@pytest.mark.parametrize(
    ("header", "line", "columns", "said"),
    [
        (
            "story,question,A,B,answer,note",
            "s,q,Ann,Ben,B,n",
            {},
            [
                "training: 3 questions, 3 of free text",
                "read: story, question, answer; no options; in meta, not in the card's prompt: A, B, note",
            ],
        ),
        (
            "story,question,A,B,answer,note",
            "s,q,Ann,Ben,B,n",
            {"options": "A, B"},
            [
                "training: 3 questions, 3 with 2 options",
                "read: story, question, options from A + B, answer; in meta, not in the card's prompt: note",
            ],
        ),
        (
            "context,question,answer,empty",
            "s,q,free,",
            {"story": "context", "id": "", "options": ""},  # "" takes a name back
            ["read: story from context, question, answer; no options; in meta, not in the card's prompt: empty"],
        ),
    ],
)
def test_a_run_says_what_it_understood(tmp_path, header, line, columns, said):
    (tmp_path / "q.csv").write_text("\n".join([header, *[line] * 3]))
    questions = open_questions([tmp_path / "q.csv"], columns=columns)
    lines = understood(questions, {}, 1)
    assert "; 0 of them are asked (evaluation.questions)" in understood(questions, {"held": questions}, 0)[1]
    assert all(any(part in line for line in lines) for part in said), lines
    without_options = "A" in header and not columns
    assert any("data.columns.options='A, B, C, D'" in line for line in lines) == without_options


# (data.prompt, data.system, the turns of question q1)
@pytest.mark.parametrize(
    ("template", "system", "turns"),
    [
        ("{{ question }} {{ options | join(' or ') }}?", "", [("user", "Who left? Anna or Ben?")]),
        ("{{ lettered }}\n{{ meta.level }}", "Be brief.", [("system", "Be brief."), ("user", "A. Anna\nB. Ben\n1")]),
        ("", "Be brief.", [("system", "Be brief."), ("user", CARD)]),
        ("FILE", "", [("user", "From a file: Anna left 1 times.")]),
    ],
)
def test_prompts_of_the_users_own(tmp_path, template, system, turns):
    (tmp_path / "prompt.j2").write_text("From a file: {{ story }}")
    writer = PromptWriter(str(tmp_path / "prompt.j2") if template == "FILE" else template, system)
    questions = open_questions([jsonl(tmp_path / "q.jsonl", row(0), row(1))])
    for view in (questions.asked_by(writer), questions.asked_by(writer).take([0, 1])):
        assert [(m["role"], m["content"]) for m in view[1].messages] == turns
        assert question_text(view[1]) == "\n\n".join(content for _, content in turns)
        assert list(view)[1] == view.get(1) == view[1]
    assert questions[1].messages == ()


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ story", r"data\.prompt: line 1: "),
        ("no/such/file.j2", r"data\.prompt: no/such/file\.j2 is no template and no file \(No such file"),
        ("{{ answer }}", r"data\.prompt fails on question q1: 'answer' is undefined"),
        ("{{ ''.__class__ }}", r"data\.prompt fails on question q1: .*unsafe"),
        ("{{ options[5] }}", r"data\.prompt fails on question q1: "),
    ],
)
def test_templates_that_do_not_work_say_where(tmp_path, template, message):
    questions = open_questions([jsonl(tmp_path / "q.jsonl", row(0), row(1))])
    with pytest.raises(ValueError, match=message):
        questions.asked_by(PromptWriter(template, ""))[1]


def test_the_labels_of_a_file_may_be_numbers(tmp_path):
    file = jsonl(tmp_path / "q.jsonl", row(0, answer=1), row(1, answer=2))
    assert [one.answer for one in open_questions([file], first_label=1)] == ["A", "B"]


COUNTED_FROM_1 = "numbers from 1 to 3, and row 2 has 3 for 3 options: they count from 1, not from 0; set .* to 1"


# (gold answers of questions with three options, first_label, what is said, or how many rows are left out)
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("answers", "first_label", "said"),
    [
        ([1, 3, 2, "1.0"], 0, COUNTED_FROM_1),
        ([1, 3, "", "no option", "B"], 0, COUNTED_FROM_1),  # rows that are read or refused otherwise change nothing
        ([1, 0, 1], 1, r"numbers from 0 to 1, and row 2 has 0 for 3 options: .*from 0, not from 1; set .* to 0 \("),
        ([1, 3, 2, 0], 0, 1),  # a bad row among good ones
        ([1, 3, 2, 0], 1, 1),
        ([1, 2, 1], 0, 0),
        ([1, 2, 1], 1, 0),
        (["A", "3", "Ben"], 0, 1),  # the number is no letter: nothing is read wrongly
        (["A", "Ben", "c", "C. Cid"], 0, 0),
        (["A", 4, 3], 0, 2),
    ],
)
def test_a_wrong_first_label_is_refused(tmp_path, monkeypatch, answers, first_label, said, large):
    rows = [row(i, options=["Ann", "Ben", "Cid"], answer=str(answer)) for i, answer in enumerate(answers)]
    if large:
        monkeypatch.setattr(question_sources, "LARGE_PARQUET", 0)
    file = table(tmp_path / ("q.parquet" if large else "q.jsonl"), *rows)
    if isinstance(said, str):
        for allowed in (True, False):
            with pytest.raises(DataError, match=said) as caught:
                open_questions([file], first_label=first_label, allow_bad_rows=allowed)
            assert "\n" not in str(caught.value)
    else:
        questions = open_questions([file], first_label=first_label, allow_bad_rows=True)
        assert len(list(questions)) == len(rows) - said


def test_texts_as_answers_leave_the_first_label_open(tmp_path):
    rows = [row(i, options=["2", "4", "6"], answer=answer) for i, answer in enumerate((1, 3, 4))]
    questions = open_questions([jsonl(tmp_path / "q.jsonl", *rows)], allow_bad_rows=True)
    assert [question.answer for question in questions] == ["B", "B"]


def test_generated_stories_as_a_source():
    plain, heldout = open_questions(["stories:4"]), open_questions(["stories:heldout:4:7"])
    assert [example.id for example in plain] == [f"stories-train-0-{i:06d}" for i in range(4)]
    assert [example.id for example in heldout] == [f"stories-heldout-7-{i:06d}" for i in range(4)]
    assert {example.meta["type"] for example in open_questions(["stories:30"])} == {"belief", "knowledge", "reality"}
    for wrong in ("stories:", "stories:many", "stories:0", "stories:train", "stories:5:x", "stories:test:5"):
        with pytest.raises(DataError, match="are written stories:COUNT"):
            open_questions([wrong])


def test_names_tell_sources_apart():
    assert source_names(["a/x.jsonl", "b/y.csv", "owner/name:test", "stories:5"]) == [
        "x",
        "y",
        "owner/name:test",
        "stories:5",
    ]
    same = ["a/test.jsonl", "b/test.jsonl", "c/b/test.csv", "test.csv", "test.json"]
    assert source_names(same) == ["a/test", "b/test.jsonl", "c/b/test", "test.csv", "test.json"]
    assert source_names(["x.csv", "x.csv"]) == ["x", "x"]  # the same questions twice


def test_no_source_and_a_missing_one(tmp_path):
    with pytest.raises(DataError, match="no source"):
        open_questions([])
    with pytest.raises(DataError, match="no such file"):
        open_questions([jsonl(tmp_path / "q.jsonl", row(0)), "nowhere"])
    with pytest.raises(DataError, match=r"q.jsonl row 1: no column 'anser'(.|\n)*same for all files of a run"):
        open_questions([tmp_path / "q.jsonl"], columns={"answer": "anser"})
    with pytest.raises(DataError, match="'gold' is not a field"):
        open_questions([tmp_path / "q.jsonl"], columns={"gold": "answer"})


def test_where_holds_for_every_file(tmp_path):
    path = jsonl(tmp_path / "q.jsonl", *map(row, range(9)))
    assert [example.id for example in open_questions([path], where={"level": "1"})] == ["q1", "q4", "q7"]
    with pytest.raises(DataError, match=r"q.jsonl: where: no column 'lvl'"):
        open_questions([path, "stories:2"], where={"lvl": "1"})


def test_views(tmp_path):
    questions = open_questions([jsonl(tmp_path / "q.jsonl", *map(row, range(10)))])
    view = questions.take([7, 2, 9])
    assert (len(view), [example.id for example in view], view[-1].id) == (3, ["q7", "q2", "q9"], "q9")
    assert [example.id for example in view.take([2, 0])] == ["q9", "q7"]
    assert [example.id for example in questions[8:]] == ["q8", "q9"]
    assert list(questions.take([])) == []
    with pytest.raises(IndexError):
        questions.take([10])
    with pytest.raises(IndexError):
        view[3]


# ------------------------------------------------------------------------------------------------------------ bad rows


@pytest.fixture
def mixed(tmp_path):
    """Two files with one row of every fault in the first."""
    bad = [
        "{not json",
        row(1, answer="C"),
        row(2, question=""),
        row(0),  # the id of the first row
        ["a list"],
        {"id": "no answer", "story": "s", "question": "q"},
        row(6, answer="D"),
    ]
    first = jsonl(tmp_path / "first.jsonl", row(0), *bad, row(8))
    return first, jsonl(tmp_path / "second.jsonl", row(0))


def test_all_bad_rows_are_reported_at_once(mixed):
    with pytest.raises(DataError) as caught:
        open_questions(mixed)
    message = str(caught.value)
    assert message.startswith("7 of 10 rows cannot be used:\n")
    for number, reason in (
        (2, "not JSON"),
        (3, "the gold answer 'C' is not among the 2 options"),
        (4, "the question is empty"),
        (5, "the id 'q0' is already that of"),
        (6, "expected an object"),
        (7, "no column 'answer'"),
        (8, "the gold answer 'D'"),
    ):
        assert f"first.jsonl row {number}: {reason}" in message
    assert message.endswith("Fix the file, or set data.allow_bad_rows=true to drop such rows and count them.")


def test_allowed_bad_rows_are_counted_logged_and_written(mixed, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        questions = open_questions(mixed, allow_bad_rows=True)
    assert [example.id for example in questions] == ["q0", "q8", "q0"]
    assert len(questions.bad_rows) == len(questions.take([0]).bad_rows) == 7
    first = f"2 such as {mixed[0]} row 3: the gold answer 'C' is not among the 2 options (Anna; Ben); "
    assert f"dropped 7 of 10 rows that cannot be used: {first}" in caplog.text
    write_bad_rows(tmp_path / "run" / "bad_rows.jsonl", questions.bad_rows)
    written = [json.loads(line) for line in (tmp_path / "run" / "bad_rows.jsonl").read_text().splitlines()]
    assert [one["row"] for one in written] == [2, 3, 4, 5, 6, 7, 8]
    assert (written[2]["source"], written[2]["reason"]) == (str(mixed[0]), "the question is empty")
    assert [BadRow(**one) for one in written] == list(questions.bad_rows)


def test_file_of_bad_rows_is_always_an_error(tmp_path):
    good = jsonl(tmp_path / "good.jsonl", row(0))
    bad = jsonl(tmp_path / "bad.jsonl", *(row(i, answer="C") for i in range(30)))
    with pytest.raises(DataError, match=r"30 of 30 rows cannot be used:\n  .*bad.jsonl rows 1, 2, 3, 4, .* more: the"):
        open_questions([good, bad], allow_bad_rows=True)


def test_a_bad_csv_row_is_passed_over(tmp_path):
    path = tmp_path / "q.csv"
    lines = ["story,question,answer", "a,b,c", "a,b", "", 'a,"b"x,c', "a,b,c,d", 'a,"b\nb",c', 'a,b,"c']
    path.write_text("\n".join(lines) + "\n")
    questions = open_questions([path], allow_bad_rows=True)
    assert [(example.id, example.question) for example in questions] == [("q-1", "b"), ("q-5", "b\nb")]
    assert [(bad.row, bad.reason.split(" (")[0]) for bad in questions.bad_rows] == [
        (2, "not as many cells as the header has"),
        (3, "not CSV"),
        (4, "not as many cells as the header has"),
        (6, "not CSV"),
    ]


def test_the_report_stays_short():
    bad = [BadRow("f.jsonl", i, f"fault {i // 20}") for i in range(1, 1001)]
    text = report(bad, 5000, "Fix it.")
    assert text.splitlines()[0] == "1,000 of 5,000 rows cannot be used:"
    assert "f.jsonl rows 20, 21, 22, 23, 24, 25, 26, 27, 28, 29 and 10 more: fault 1" in text
    assert text.splitlines()[-2:] == ["  ... and 801 more rows", "Fix it."]
    assert len(text.splitlines()) == 13
    assert summary(bad) == "1,000 such as f.jsonl row 1: fault 0"
    kinds = [BadRow("f.jsonl", i, "x\ny" * (i - i // 40)) for i in range(1, 41)]
    assert summary(kinds).startswith("2 such as f.jsonl row 39: x y")
    assert summary(kinds).endswith("; and 29 more rows")


# -------------------------------------------------------------------------------------------------- large Parquet files


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Writes Parquet files, all of which count as large, in groups and batches of a few rows."""
    monkeypatch.setattr(question_sources, "LARGE_PARQUET", 0)
    monkeypatch.setattr(parquet_rows, "_BATCH", 4)

    def write(rows: list[dict], name: str = "big.parquet", group: int = 7) -> Path:
        parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / name, row_group_size=group)
        return tmp_path / name

    return write


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_a_large_file_reads_as_a_small_one(large, group, monkeypatch):
    rows = [row(i, vector=[0.5] * 3, note=None if i % 2 else "x") for i in range(50)]
    path = large(rows, group=group)
    lazily = open_questions([path])
    monkeypatch.setattr(question_sources, "LARGE_PARQUET", 50)
    assert [lazily[i] for i in range(50)] == list(open_questions([path])) == list(lazily)
    assert lazily.take([49, 0, 20])[0].id == lazily[-1].id == "q49"


def test_a_large_file_with_conditions(large):
    lazily = open_questions([large([row(i, answer="A" if i != 7 else "C") for i in range(50)])], where={"level": "1"})
    assert (len(lazily), lazily[0].id, lazily[-1].id) == (17, "q1", "q49")
    with pytest.raises(DataError, match=r"big.parquet row 8: the gold answer 'C'"):
        list(lazily)
    with pytest.raises(DataError, match=r"where: no column 'lvl' \(did you mean 'level'\?\)"):
        open_questions([large([row(0)])], where={"lvl": "1"})
    with pytest.raises(DataError, match="none of 3 rows has level = 5"):
        open_questions([large([row(0), row(1), row(2)])], where={"level": "5"})


def test_a_large_file_with_dotted_names(large):
    rows = [
        {
            "item": {"story": f"s{i}", "level": str(i % 2)},
            "question": "q",
            "key": "2",
            "choices": {"text": ["x", "y"], "label": ["1", "2"]},
        }
        for i in range(10)
    ]
    columns = {"story": "item.story", "options": "choices.text", "answer": "key", "type": "item.level"}
    questions = open_questions([large(rows)], columns=columns, where={"item.level": "1"})
    assert [(one.story, one.options, one.answer, one.meta["type"]) for one in questions] == [
        (f"s{i}", ("x", "y"), "B", "1") for i in range(1, 10, 2)
    ]
    with pytest.raises(DataError, match="no column 'lvl'"):
        open_questions([large(rows)], columns=columns | {"type": "lvl"})
    with pytest.raises(DataError, match=r"row 1: no column 'item.text' .*correct it in columns"):
        list(open_questions([large(rows)], columns=columns | {"story": "item.text"}))


def test_late_bad_row_of_a_large_file_raises(large):
    questions = open_questions([large([row(i, answer="C" if i == 11 else "A") for i in range(30)])])
    assert questions[10].id == "q10"
    for _ in range(2):
        with pytest.raises(DataError, match=r"big.parquet row 12: the gold answer 'C'.*data.allow_bad_rows=true"):
            questions[11]
    with pytest.raises(DataError, match="row 12"):
        questions.get(11)
    assert questions[12].id == "q12"


def test_or_is_skipped_and_counted_once(large, caplog):
    path = large([row(i, answer="C" if i % 10 == 1 else "A") for i in range(30)])
    questions = open_questions([path], allow_bad_rows=True)
    assert questions.bad_rows == ()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(list(questions)) == 27
    assert questions.get(11) is None
    assert len(questions.bad_rows) == 3
    assert [bad.row for bad in questions.bad_rows] == [2, 12, 22]
    assert caplog.text.count("is not among") == 1
    with pytest.raises(DataError, match="row 12"):
        questions[11]


def test_dictionary_columns_and_missing_columns(large, tmp_path):
    table = pyarrow.Table.from_pylist([row(i) for i in range(20)])
    encoded = table.set_column(1, "story", table["story"].dictionary_encode())
    parquet.write_table(encoded, tmp_path / "d.parquet", row_group_size=6)
    questions = open_questions([tmp_path / "d.parquet"])
    assert [example.story for example in questions] == [f"Anna left {i} times." for i in range(20)]
    parquet.write_table(table.drop_columns(["answer"]), tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d.parquet: no column 'answer' \(the columns are"):
        open_questions([tmp_path / "d.parquet"], allow_bad_rows=True)


def test_damaged_large_file_is_an_error_at_once(large):
    path = large([row(i, story=f"{i}" * 400) for i in range(200)])
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 64] = bytes(64)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"big.parquet"):
        list(open_questions([path]))
    path.write_bytes(content[:-30])
    with pytest.raises(DataError, match=r"big.parquet: not a whole Parquet file"):
        open_questions([path])


def test_a_full_disk_is_named(large, monkeypatch, tmp_path):
    path = large([row(i) for i in range(200)])
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(parquet_rows.tempfile, "TemporaryFile", partial(Path("/dev/full").open, "wb"))
    with pytest.raises(DataError, match=r"big.parquet: no room to decode it in .*; set TMPDIR"):
        open_questions([path])


def test_large_files_leave_nothing_behind(large, monkeypatch, tmp_path):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(parquet_rows.tempfile, "tempdir", str(tmp_path / "tmp"))
    questions = open_questions([large([row(i) for i in range(30)])])
    assert questions[3].id == "q3"
    assert list((tmp_path / "tmp").iterdir()) == []


# --------------------------------------------------------------------------------------------------------- chat format

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who left?"}
REPLY, OPENING = {"role": "assistant", "content": "Ann."}, {"role": "user", "content": "Ann and Ben came. "}
STORY = "Ann and Ben came.\n\nAnn."  # what was said before the last turn
TWO_PARTS = {"role": "user", "content": [{"type": "text", "text": "Who "}, {"type": "text", "text": "left?"}]}


def table(path: Path, *rows: dict) -> Path:
    """Writes the rows as the ending of the file says; a CSV cell that is no text is JSON."""
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)
    elif path.suffix == ".csv":
        cells = [{k: v if isinstance(v, str) else json.dumps(v) for k, v in one.items()} for one in rows]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(cells[0]))
            writer.writeheader()
            writer.writerows(cells)
    else:
        jsonl(path, *rows)
    return path


# (a row, data.columns, story, question, answer, the turns, what the run says of the columns)
CHATS = [
    (
        {"prompt": [SYSTEM, USER], "solution": "Ann"},
        {},
        "",
        "Who left?",
        "Ann",
        [SYSTEM, USER],
        "answer from solution, messages from prompt; no options",
    ),
    (
        {"data_source": "mine", "prompt": [USER], "reward_model": {"style": "rule", "ground_truth": "Ann"}},
        {},
        "",
        "Who left?",
        "Ann",
        [USER],
        "answer from reward_model, messages from prompt; no options; in meta, not in the card's prompt: data_source",
    ),
    (
        {"messages": [SYSTEM, USER, REPLY], "answer": "Ann"},
        {},
        "",
        "Who left?",
        "Ann",
        [SYSTEM, USER],
        "answer, messages; no options; left out: the assistant's turn at the end of 1 row",
    ),
    (
        {"messages": [OPENING, REPLY, USER], "answer": "Ann"},
        {},
        STORY,
        "Who left?",
        "Ann",
        [OPENING, REPLY, USER],
        "answer, messages; no options",
    ),
    ({"messages": [TWO_PARTS], "ground_truth": "Ann"}, {}, "", "Who left?", "Ann", [USER], "answer from ground_truth"),
    ({"prompt": "Who left?", "answer": "Ann"}, {}, "", "Who left?", "Ann", [USER], "messages from prompt"),
    (
        {"messages": [USER], "options": "A. Ann B. Ben", "label": 1},
        {},
        "",
        "Who left?",
        "B",
        [USER],
        "options, answer from label, messages",
    ),
    ({"turns": [USER], "answer": "Ann"}, {"messages": "turns"}, "", "Who left?", "Ann", [USER], "messages from turns"),
    (
        {"question": "Who?", "messages": [USER], "answer": "Ann"},
        {},
        "",
        "Who?",
        "Ann",
        [USER],
        "question, answer, messages",
    ),
    ({"story": "s", "question": "q", "prompt": [USER], "answer": "Ann"}, {}, "s", "q", "Ann", [], ": prompt"),
    (
        {"story": "s", "question": "q", "prompt": [USER], "answer": "Ann"},
        {"messages": "prompt"},
        "s",
        "q",
        "Ann",
        [USER],
        "story, question, answer, messages from prompt",
    ),
]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize(("one", "columns", "story", "question", "answer", "turns", "said"), CHATS)
def test_turns_of_a_chat_ask_the_question(tmp_path, suffix, one, columns, story, question, answer, turns, said):
    questions = open_questions([table(tmp_path / f"q.{suffix}", one)], columns=columns)
    (example,) = questions
    assert (example.story, example.question, example.answer) == (story, question, answer)
    assert list(example.messages) == turns
    lines = understood(questions, {}, 1)
    assert said in lines[1]
    asked = turns and "<Answer>" not in question_text(example)
    assert any("no prompt asks for <think> and <Answer>" in line for line in lines) == bool(asked)


def test_turns_of_a_large_parquet_file(tmp_path, monkeypatch):
    monkeypatch.setattr(question_sources, "LARGE_PARQUET", 1)
    rows = [{"prompt": [SYSTEM, USER], "reward_model": {"ground_truth": answer}} for answer in ("Ann", "Ben")]
    questions = open_questions([table(tmp_path / "q.parquet", *rows)])
    assert [(list(one.messages), one.answer) for one in questions] == [([SYSTEM, USER], "Ann"), ([SYSTEM, USER], "Ben")]


IMAGE = {"role": "user", "content": [{"type": "image", "image": None}, {"type": "text", "text": "Who?"}]}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}


# (the cell of `messages`, what is said of it)
@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ([], "'messages' is an empty list; a question has a user's turn"),
        (None, "'messages' holds null, not a list of turns"),
        (USER, "'messages' holds an object, not a list of turns"),
        ("[{'role': 'user', 'content': 'Who?'}]", r"'messages' is not JSON \(.*\); write it with json.dumps"),
        ("", "turn 1 of 'messages' has no text"),
        (["Who?"], "turn 1 of 'messages' is not an object with 'role' and 'content'"),
        ([{"from": "human", "value": "Who?"}], "turn 1 of 'messages' is not an object with 'role' and 'content'"),
        ([USER | {"role": "human"}], "turn 1 of 'messages' has the role 'human'; the roles are system, user, assist"),
        ([USER | {"role": ["user"]}], r"turn 1 of 'messages' has the role \['user'\]"),
        ([USER | {"content": " "}], "turn 1 of 'messages' has no text"),
        ([USER | {"content": None}], "turn 1 of 'messages' has no text"),
        ([USER | {"content": []}], "turn 1 of 'messages' has no text"),
        ([USER, REPLY, IMAGE], "turn 3 of 'messages' holds a part of type 'image'; only text can be asked"),
        ([USER, CALL, USER], "turn 2 of 'messages' calls a tool"),
        ([USER, SYSTEM, USER], "turn 2 of 'messages' is the system's; only the first one can be"),
        ([SYSTEM], "'messages' does not end with a user's turn"),
        ([REPLY], "'messages' does not end with a user's turn"),
        ([USER, REPLY, REPLY], "'messages' does not end with a user's turn"),
        ([USER | {"content": "Who\ud800?"}], "half a character"),
    ],
)
def test_turns_that_ask_nothing_are_refused(tmp_path, cell, message):
    with pytest.raises(DataError, match=f"q.jsonl row 2: {message}"):
        open_questions([jsonl(tmp_path / "q.jsonl", *({"messages": x, "answer": "Ann"} for x in ([USER], cell)))])


def test_column_prompt_without_story_is_no_chat(tmp_path):
    rows = [row(0, prompt="template A"), row(1, prompt="template A")]
    del rows[1]["story"]
    with pytest.raises(DataError, match="row 2: no column 'story'"):
        open_questions([jsonl(tmp_path / "q.jsonl", *rows)])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({}, "no column 'answer'"),
        ({"reward_model": {}}, "'reward_model' holds no 'ground_truth'"),
        ({"reward_model": "Ann"}, "'reward_model' is not JSON"),
        ({"answer": {"a": 1}}, "'answer' holds an object"),
    ],
)
def test_turns_without_a_gold_answer_are_refused(tmp_path, answers, message):
    with pytest.raises(DataError, match=f"row 1: {message}"):
        open_questions([jsonl(tmp_path / "q.jsonl", {"prompt": [USER], **answers})])


# (data.prompt, data.system, the turns)
@pytest.mark.parametrize(
    ("template", "system", "turns"),
    [
        ("", "New.", [SYSTEM | {"content": "New."}, OPENING, REPLY, USER]),
        ("{{ question }}!", "", [SYSTEM, OPENING, REPLY, USER | {"content": "Who left?!"}]),
        ("{{ story }}", "New.", [SYSTEM | {"content": "New."}, OPENING, REPLY, OPENING | {"content": STORY}]),
    ],
)
def test_own_prompts_replace_the_turns(tmp_path, template, system, turns):
    file = jsonl(tmp_path / "q.jsonl", {"messages": [SYSTEM, OPENING, REPLY, USER], "answer": "Ann"})
    assert list(open_questions([file]).asked_by(PromptWriter(template, system))[0].messages) == turns
