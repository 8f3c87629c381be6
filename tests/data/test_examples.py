"""The example record, and questions read from every kind of file."""

import csv
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socialr1_jax.data import tables
from socialr1_jax.data.examples import Example
from socialr1_jax.data.options import gold_letter, parse_options
from socialr1_jax.data.question_files import parse_files, read_examples
from socialr1_jax.data.tables import DataError

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT.parent / "shared" / "benchmarks"
ROW = {"id": "q1", "story": "Anna left.", "question": "Who left?", "options": ["Anna", "Ben"], "answer": "A"}


def write(path: Path, *rows: dict) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


# --------------------------------------------------------------------------------------------------------- the record


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "C"}, "the gold answer 'C' is not one of the option letters A to B"),
        ({"answer": "AB"}, "'AB' is not one of the option letters"),
        ({"answer": " "}, "the gold answer is empty"),
        ({"question": ""}, "the question is empty"),
        ({"options": ("Anna",)}, "1 options"),
        ({"options": ("x",) * 27}, "27 options"),
        ({"options": ("Anna", "")}, "option B is empty"),
    ],
)
def test_a_record_that_cannot_be_asked_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Example(**(ROW | {"options": ("Anna", "Ben")} | change))


def test_free_text_answers_need_no_options():
    assert Example(id="1", story="", question="Who left?", answer="Anna").options == ()


# ----------------------------------------------------------------------------------------------------- options and gold


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["Anna", "Ben"], ("Anna", "Ben")),
        (["A. Anna", "B. Ben"], ("Anna", "Ben")),
        (["(A) Anna", "(B) Ben"], ("Anna", "Ben")),
        (["A. Anna", "Ben"], ("A. Anna", "Ben")),  # not every option has its letter: the text is left alone
        (["B. Anna", "A. Ben"], ("B. Anna", "A. Ben")),
        ({"A": "Anna", "B": "Ben"}, ("Anna", "Ben")),
        ({"A": "Anna", "B": "Ben", "C": None, "D": float("nan")}, ("Anna", "Ben")),
        ({"text": ["Anna", "Ben"], "label": ["A", "B"]}, ("Anna", "Ben")),
        ("A. red_box, B. blue_crate, C. green_bathtub", ("red_box", "blue_crate", "green_bathtub")),
        ("A. Anna, her aunt, B. Ben\nC. Carl", ("Anna, her aunt", "Ben", "Carl")),
        (["yes", "no", "NaN", ""], ("yes", "no")),
        ('["Anna", "Li\\nWei", 3, null]', ("Anna", "Li\nWei", "3")),
        (" ['Anna', \"Ben's\", 'C, D', None]\n", ("Anna", "Ben's", "C, D")),
        ("['A. Anna', 'B. Ben']", ("Anna", "Ben")),
        ("[]", ()),
        ([3, 4.5], ("3", "4.5")),
        ("", ()),
        (None, ()),
        ([], ()),
    ],
)
def test_options_in_every_form(value, expected):
    assert parse_options(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *({"A": "x", "C": "y"}, "Anna or Ben", 7),
        *("[Anna, Ben]", "['Anna' 'Ben']", "['Anna', ['Ben']]", '["Anna", ["Ben"]]', "['Anna', {[]: 1}]"),
        *("['Anna', b'Ben']", "['Anna', open('x')]", "('Anna', 'Ben')", "[" * 9999, "[" + "-" * 9999 + "1]"),
    ],
)
def test_options_that_cannot_be_read(value):
    with pytest.raises(ValueError, match="options"):
        parse_options(value)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        *(("B", "B"), ("B.", "B"), ("(B)", "B"), ("B. ", "B"), ("Ben", "B"), ("B. Ben", "B"), (" Anna ", "A")),
        *(("b", "B"), ("(b)", "B"), ("b. Ben", "B"), ("0", "A"), ("1", "B"), ("1.0", "B")),
    ],
)
def test_gold_as_letter_text_or_number(answer, letter):
    assert gold_letter(answer, ("Anna", "Ben"), 0) == letter


@pytest.mark.parametrize(
    ("answer", "options", "first", "letter"),
    [
        ("1", ("Anna", "Ben"), 1, "A"),
        ("2", ("Anna", "Ben"), 1, "B"),
        ("1", ("3", "1"), 0, "B"),  # the text of an option
        ("a", ("b", "a"), 0, "B"),
        ("A", ("b", "a"), 0, "A"),
    ],
)
def test_number_counts_from_the_first_label_unless_option(answer, options, first, letter):
    assert gold_letter(answer, options, first) == letter


@pytest.mark.parametrize(
    ("answer", "options", "message"),
    [
        ("C", ("Anna", "Ben"), "not among the 2 options"),
        ("B. Anna", ("Anna", "Ben"), "not among"),
        ("Anna", ("Anna", "Ben", "Anna"), r"more than one option \(A, C\)"),
        ("A", ("B", "A"), r"more than one option \(A, B\)"),  # letter A, or the text of B
        ("Be", ("Anna", "Ben"), "not among"),
        ("2", ("Anna", "Ben"), "numbers count from 0, see first_label"),
        ("c", ("Anna", "Ben"), "not among"),
    ],
)
def test_gold_that_is_no_option_or_two(answer, options, message):
    with pytest.raises(ValueError, match=message):
        gold_letter(answer, options, 0)


# --------------------------------------------------------------------------------------------------------------- files


def test_jsonl_json_and_wrapped_json(tmp_path):
    meta = {"level": 2, "easy": True, "people": ["Anna", "Ben"], "type": "1"}
    expected = [
        Example(**(ROW | {"options": ("Anna", "Ben"), "meta": meta})),
        Example(**(ROW | {"id": "q2", "options": ("Anna", "Ben"), "meta": {"level": 1.5}})),
    ]
    more = {
        "level": 2,
        "list": [1],
        "none": None,
        "meta": {"easy": True, "people": ["Anna", "Ben"], "type": 1, "plot": None},
    }
    rows = [ROW | more, ROW | {"id": "q2", "level": 1.5}]
    assert read_examples(write(tmp_path / "a.jsonl", *rows)) == expected
    assert read_examples(write(tmp_path / "a.json", *rows)) == expected
    (tmp_path / "b.json").write_text(json.dumps({"version": 3, "data": rows}))
    assert read_examples(tmp_path / "b.json") == expected


def test_csv_with_options_in_columns(tmp_path):
    row = {
        "STORY": "Anna, too, left.",
        "Question": "Who?",
        "OPTION-A": "Anna",
        "OPTION-B": "Ben",
        "OPTION-C": "",
        "gold": "Ben",
    }
    path = write(tmp_path / "q.csv", row)
    columns = {"options": "OPTION-A, OPTION-B, OPTION-C", "answer": "gold"}
    assert read_examples(path, columns=columns) == [
        Example(id="q-1", story="Anna, too, left.", question="Who?", options=("Anna", "Ben"), answer="B")
    ]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([ROW, ROW | {"id": "q2"}]), tmp_path / "q.parquet")
    assert [example.id for example in read_examples(tmp_path / "q.parquet")] == ["q1", "q2"]
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "q.parquet").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cut.parquet: not a whole Parquet file"):
        read_examples(tmp_path / "cut.parquet")


def test_where_keeps_equal_rows_and_counts_them(tmp_path, caplog):
    rows = [ROW | {"id": str(i), "kind": "abc"[i % 3], "deep": i < 4} for i in range(9)]
    path = write(tmp_path / "q.jsonl", *rows)
    with caplog.at_level(logging.INFO):
        kept = read_examples(path, where={"kind": "a", "deep": "true"})
    assert [example.id for example in kept] == ["0", "3"]
    assert "kept 2 of 9 rows with kind = a, deep = true" in caplog.text
    with pytest.raises(DataError, match=r"none of 9 rows has kind = d \(kind is one of a, b, c\)"):
        read_examples(path, where={"kind": "d"})
    with pytest.raises(DataError, match=r"where: no column 'knd' \(did you mean 'kind'\?\)"):
        read_examples(path, where={"knd": "a"})


def test_what_is_written_as_fields_reads_back(tmp_path):
    example = Example(**(ROW | {"options": ("Anna", "Ben"), "thoughts": "Encode: x", "meta": {"plot": "leave"}}))
    row = {**vars(example), "options": list(example.options)}
    assert read_examples(write(tmp_path / "q.jsonl", row)) == [example]


def test_options_in_lettered_columns_need_no_mapping(tmp_path):
    row = {"story": "", "question": "Who?", "Option_A": "Anna", "option_b": "Ben", "OPTION-D": "gap", "answer": "B"}
    (example,) = read_examples(write(tmp_path / "q.csv", row))
    assert (example.options, example.answer, dict(example.meta)) == (("Anna", "Ben"), "B", {"OPTION-D": "gap"})


# -------------------------------------------------------------------------------------------------------------- faults


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["A", "B", "x"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["A", "B", "text", "label"]), inner),
    max_leaves=6,
)
_keys = st.sampled_from(["id", "story", "question", "options", "choices", "answer", "meta", "thoughts", "OPTION-A"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(_keys, _values) | st.fixed_dictionaries(dict.fromkeys(ROW, _values)), max_size=4))
def test_any_row_is_a_question_or_bad(tmp_path_factory, rows):
    path = write(tmp_path_factory.mktemp("any") / "q.jsonl", ROW, *rows)
    parsed = parse_files("q", [path], {}, {})
    assert len(parsed.examples) + len(parsed.bad) == parsed.total == len(rows) + 1
    assert parsed.examples[0].id == "q1"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40).filter(lambda line: b"\n" not in line))
def test_any_line_is_passed_over(tmp_path_factory, line):
    path = tmp_path_factory.mktemp("any") / "q.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b"\n" + line + b"\n" + json.dumps(ROW | {"id": "q2"}).encode() + b"\n")
    assert [example.id for example in parse_files("q", [path], {}, {}).examples] == ["q1", "q2"]


def without(name: str, row: dict = ROW) -> dict:
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW | {"answer": "C"}, r"q.jsonl row 2: the gold answer 'C' is not among the 2 options \(Anna; Ben\)"),
        (
            without("answer") | {"anwser": "A"},
            r"row 2: no column 'answer' \(did you mean 'anwser'\?\); name it in columns",
        ),
        (without("story") | {"text": "x"}, r"row 2: no column 'story' \(the columns are"),
        (ROW | {"id": "q0"}, r"row 2: the id 'q0' is already that of .*q.jsonl row 1"),
        (ROW | {"question": " "}, "row 2: the question is empty"),
        (ROW | {"answer": None}, "row 2: no gold answer in 'answer'"),
        (ROW | {"options": ["Anna", None, "Ben"]}, "row 2: option B is empty"),
        (ROW | {"options": ["Anna"]}, "row 2: 1 options"),
        (["not an object"], "row 2: expected an object with named fields, found a list"),
        (ROW | {"story": ["Anna", "left"]}, "row 2: 'story' holds a list, not a text"),
        (ROW | {"options": {"text": None, "label": ["A"]}}, "row 2: cannot read the options"),
        (ROW | {"options": [["Anna"], ["Ben"]]}, "row 2: 'options' holds a list, not a text"),
        (ROW | {"question": "Who\ud800?"}, r"row 2: half a character \(a lone surrogate\) in 'Who\\ud800\?'"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_examples(write(tmp_path / "q.jsonl", ROW | {"id": "q0"}, row))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", "", "q.jsonl: the file holds no rows"),
        ("q.json", " ", "q.json: the file holds no rows"),
        ("q.json", "[]", "holds no rows"),
        ("q.csv", "story,question,answer\n", "holds no rows"),
        ("q.jsonl", '{"id": 1}\n{"id": \n', "q.jsonl row 2: not JSON"),
        ("q.json", '{"id": 1}\n{"id": 2}\n', r"q.json line 2: not JSON .*one object a line is .jsonl"),
        ("q.json", '{"a": [], "b": []}', r"found 2 \['a', 'b'\]"),
        ("q.json", "3", "expected a list of questions, found a number"),
        ("q.csv", "story,question,answer\na,b\n", "q.csv row 1: not as many cells as the header has"),
        ("q.csv", 'story,question,answer\na,b,"c\n', "q.csv row 1: not CSV"),
        ("q.csv", 'story;question;answer\na;"b";c\n', "q.csv: the first line has semicolons but no comma; save it as"),
        ("q.csv", '"story";"question"\n', "q.csv: the first line has semicolons but no comma"),
        ("q.csv", "story\tquestion\tan;swer\n", "q.csv: the first line has semicolons and tabs but no comma"),
        ("q.txt", "hello", "q.txt: unknown kind of file"),
        ("q.json", "9" * 5000, "q.json: not JSON"),
        ("q.jsonl", "[" * 100_000, "q.jsonl row 1: not JSON"),
        ("q.jsonl", "9" * 5000, "q.jsonl row 1: not JSON"),
    ],
)
def test_a_bad_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        read_examples(tmp_path / name)


def test_other_faults_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.jsonl: cannot read the file \(No such file"):
        read_examples(tmp_path / "gone.jsonl")
    with pytest.raises(DataError, match="no such file, and not a hub dataset id"):
        read_examples("questions")
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(DataError, match=r"latin.jsonl row 1: not UTF-8 text \(byte 8 of the line\)"):
        read_examples(tmp_path / "latin.jsonl")
    (tmp_path / "latin.csv").write_bytes(b"story,question,answer\n\xe9,b,c\n")
    with pytest.raises(DataError, match=r"latin.csv: not UTF-8 text \(byte 22\)"):
        read_examples(tmp_path / "latin.csv")
    (tmp_path / "twice.csv").write_text("story,answer,answer\na,b,c\n")
    with pytest.raises(DataError, match=r"twice.csv: the header names the column 'answer' twice"):
        read_examples(tmp_path / "twice.csv")
    path = write(tmp_path / "q.jsonl", ROW)
    with pytest.raises(DataError, match="'gold' is not a field of a question"):
        read_examples(path, columns={"gold": "answer"})
    with pytest.raises(DataError, match=r"row 1: no column 'anser' \(did you mean 'answer'\?\); correct it in columns"):
        read_examples(path, columns={"answer": "anser"})


ARC = {
    "id": "x",
    "item": {"story": "Two cups.", "question": {"stem": "How many?"}, "level": 2},
    "choices": {"text": ["4", "2", "1"], "label": ["1", "2", "3"]},
    "key": "2",
}
ARC_COLUMNS = {"story": "item.story", "question": "item.question.stem", "options": "choices.text", "answer": "key"}
ARC_ASKED = ("How many?", ("4", "2", "1"), "B")
SPREAD = {"story": "s", "question": "q", "a": "Ann", "b": "Ben", "c": "Cleo", "answer": 1}


# (rows, columns, (question, options, answer) of each or what is said of them)
@pytest.mark.parametrize(
    ("rows", "columns", "found"),
    [
        # a key that a row lacks is null
        (
            [SPREAD, without("c", SPREAD), SPREAD | {"c": None}, without("a", without("b", without("c", SPREAD)))],
            {"options": "a, b, c"},
            [("q", ("Ann", "Ben", "Cleo"), "B"), *[("q", ("Ann", "Ben"), "B")] * 2, ("q", (), "1")],
        ),
        ([without("b", SPREAD)], {"options": "a, b, c"}, "q.jsonl: no column 'b'"),
        ([SPREAD, without("b", SPREAD)], {"options": "a, b, c"}, "row 2: option B is empty"),
        ([SPREAD, SPREAD], {"options": "a, bb"}, r"q.jsonl: no column 'bb' \(.*same for all files"),
        # dotted names
        ([ARC], ARC_COLUMNS, [ARC_ASKED]),  # by label, not by the text "2"
        ([ARC | {"key": "4"}], ARC_COLUMNS, [("How many?", ("4", "2", "1"), "A")]),  # no label: by text
        ([ARC | {"key": 0}], ARC_COLUMNS, "the gold answer '0' is not among"),
        ([ARC], ARC_COLUMNS | {"options": "choices"}, [("How many?", ("4", "2", "1"), "B")]),
        (
            [ARC | {"choices": {"text": ["x", "y"], "label": ["A", "B"]}, "key": "B"}, ARC | {"id": "y"}],
            ARC_COLUMNS,
            [("How many?", ("x", "y"), "B"), ("How many?", ("4", "2", "1"), "B")],
        ),
        ([ARC | {"choices": {"text": ["x", "y"], "label": ["A"]}}], ARC_COLUMNS, "give as many labels as texts"),
        ([ARC | {"choices": {"text": ["x", "y"], "label": [2, 3]}}], ARC_COLUMNS, [("How many?", ("x", "y"), "A")]),
        ([ARC | {"choices": {"text": ["x", "y"], "label": ["B", "C"]}}], ARC_COLUMNS, "labelled 'B', 'C'; expected A"),
        ([ARC | {"choices": {"text": ["x", "y"], "label": [2, 2]}}], ARC_COLUMNS, "labelled '2', '2'; expected A"),
        ([ARC | {"choices": {"text": ["x", "y"]}}], ARC_COLUMNS, "'2' is not among"),
        ([ARC | {"item.story": "top"}], ARC_COLUMNS | {"question": "item.story"}, [("top", ("4", "2", "1"), "B")]),
        ([ARC], ARC_COLUMNS | {"question": "item.question.text"}, r"did you mean 'item.question.stem'\?"),
        ([ARC], ARC_COLUMNS | {"question": "item.question"}, "not a text; name a part .*: 'item.question.stem'"),
        ([ARC | {"item": {"passage": "x"}}], {}, "no column 'story' .*objects within hold .*, 'item.passage'"),
        ([ARC | {"item": None}], ARC_COLUMNS, "no column 'item.story'"),
        ([ARC | {"item": "text"}], ARC_COLUMNS, "no column 'item.story'"),
        ([ARC | {"choices": {}, "id": "y"}, ARC], ARC_COLUMNS | {"story": "id"}, [("How many?", (), "2"), ARC_ASKED]),
        ([ARC], ARC_COLUMNS | {"options": "choices.txt"}, r"no column 'choices.txt' \(did you mean 'choices.text'"),
        # columns of `meta`
        ([SPREAD], {"type": "kind"}, "q.jsonl: no column 'kind'"),
    ],
)
def test_columns_that_rows_lack_or_hold_inside(tmp_path, rows, columns, found):
    path = write(tmp_path / "q.jsonl", *rows)
    if isinstance(found, str):
        with pytest.raises(DataError, match=found):
            read_examples(path, columns=columns)
    else:
        assert [(one.question, one.options, one.answer) for one in read_examples(path, columns=columns)] == found


def test_meta_and_conditions_by_other_and_dotted_names(tmp_path):
    rows = [ARC | {"item": ARC["item"] | {"level": level}, "id": str(level), "kind": "own"} for level in (1, 2, 2.0)]
    path = write(tmp_path / "q.jsonl", *rows)
    columns = ARC_COLUMNS | {"type": "item.level", "source": "kind"}
    found = read_examples(path, columns=columns, where={"item.level": "2"})
    (example,) = found
    assert example.meta == {"type": "2", "source": "own", "kind": "own", "item.level": 2}
    parsed = parse_files("q", [path], columns, {}, "q")
    assert parsed.reading == (
        "read: id, story from item.story, question from item.question.stem, options from choices, answer from key, "
        "type from item.level, source from kind; in meta, not in the card's prompt: kind, item.level"
    )
    (plain,) = read_examples(write(tmp_path / "nested.jsonl", ROW | {"item": {"level": 1, "tags": ["x"]}, "n": 2}))
    assert plain.meta == {"n": 2, "item.level": 1}
    nested = parse_files("q", [tmp_path / "nested.jsonl"], {}, {})
    assert nested.reading.endswith("; in meta, not in the card's prompt: n, item.level")
    with pytest.raises(DataError, match=r"where: no column 'item.levl' \(did you mean 'item.level'\?\)"):
        read_examples(path, columns=columns, where={"item.levl": "2"})
    with_type = write(tmp_path / "typed.jsonl", *[row | {"type": "old"} for row in rows])
    assert {one.meta["type"] for one in read_examples(with_type, columns=columns)} == {"1", "2", "2.0"}


def survey(key, *options, **more):
    return {"id": "x", "story": "s", "question": "q", "item": {"choices": list(options)}, "answer": key} | more


def keyed(name, *labels):
    return [{name: label, "text": text} for label, text in zip(labels, ("Ann", "Ben"), strict=True)]


INNER, WHOLE = {"options": "item.choices.text"}, {"options": "item.choices"}


@pytest.mark.parametrize("columns", [INNER, WHOLE])
@pytest.mark.parametrize(
    ("key", "options", "found"),
    [
        ("b", keyed("value", "a", "b"), "B"),
        ("B", keyed("key", "a", "b"), "B"),
        ("Ben", keyed("value", "a", "b"), "B"),
        (2, keyed("label", 1, 2), "B"),
        (17, keyed("id", 16, 17), "B"),
        ("no", keyed("value", "yes", "no"), "B"),
        (1, keyed("value", 0, 1), "B"),
        (1, [{"text": "Ann"}, {"text": "Ben"}], "B"),  # without labels, counted from first_label
        (1, keyed("value", True, False), "B"),  # a flag labels nothing
        ("b", [*keyed("value", "a", "b"), {"value": "c", "text": None}], "B"),
        ("c", [*keyed("value", "a", "b"), {"value": "c", "text": None}], "not among"),
        ("b", keyed("value", "b", "a"), "labelled 'b', 'a'; expected A, B"),
        (1, keyed("value", "yes", "no"), "'1' is not among"),
        ("Ben", [{"value": "a"}, {"value": "b", "text": "Ben"}], "option A is empty"),
        (
            "Ben",
            [{"text": {"en": "Ann"}}, {"text": {"en": "Ben"}}],
            "'en'.*write plain texts|holds an object.*with: 'en'",
        ),
    ],
)
def test_options_that_are_objects(tmp_path, columns, key, options, found):
    path = write(tmp_path / "q.jsonl", survey(key, *options))
    if len(found) > 1:
        with pytest.raises(DataError, match=found):
            read_examples(path, columns=columns)
    else:
        (example,) = read_examples(path, columns=columns)
        assert (example.options, example.answer, example.meta) == (("Ann", "Ben"), found, {})


def test_options_whose_objects_have_other_names(tmp_path):
    titled = [{"value": "a", "title": "Ann"}, {"value": "b", "title": "Ben"}]
    path = write(tmp_path / "q.jsonl", survey("b", *titled))
    with pytest.raises(DataError, match=r"objects with 'value', 'title', not with 'text'; name .*item.choices.title"):
        read_examples(path, columns=WHOLE)
    with pytest.raises(DataError, match=r"no column 'item.choices.titel' \(did you mean 'item.choices.title'\?\)"):
        read_examples(path, columns={"options": "item.choices.titel"})
    (example,) = read_examples(path, columns={"options": "item.choices.title"})
    assert (example.options, example.answer) == (("Ann", "Ben"), "B")
    table = write(tmp_path / "q.csv", {**ROW, "options": json.dumps(keyed("value", "a", "b")), "answer": "b"})
    assert read_examples(table)[0].answer == "B"
    parsed = parse_files("q", [path], {"options": "item.choices.title"}, {})
    assert parsed.reading == "read: id, story, question, options from item.choices.title, answer"


@pytest.mark.parametrize(
    ("lists", "columns", "bad"),
    [
        (([], ["Ann", "Ben"], [], "[]"), {"options": "opts"}, [1, 3, 4]),
        (([], []), {"options": "opts"}, []),  # all free text
        ((None, ["Ann", "Ben"]), {"options": "opts"}, []),
        (([], ["Ann", "Ben"]), {"options": "options"}, [1]),
        (([], ["Ann", "Ben"]), {}, []),  # not named
    ],
)
def test_an_empty_list_of_options_that_are_named(tmp_path, lists, columns, bad):
    name = columns.get("options", "options")
    rows = [without("options") | {"id": str(i), "answer": "Ann", name: one} for i, one in enumerate(lists)]
    parsed = parse_files("q", [write(tmp_path / "q.jsonl", *rows)], columns, {})
    assert [row.row for row in parsed.bad] == bad
    assert all(row.reason.startswith(f"no options, though columns names '{name}'") for row in parsed.bad)
    assert len(parsed.examples) + len(bad) == len(rows)


# ----------------------------------------------------------------------------------------------------------------- hub


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that holds one dataset of two splits, the training one in two parts."""
    import huggingface_hub

    folder = tmp_path / "snapshot"
    (folder / "data").mkdir(parents=True)
    for name, ident in (("train-00000", "a"), ("train-00001", "b"), ("test-00000", "c")):
        write(folder / "data" / f"{name}.jsonl", ROW | {"id": ident})
    (folder / "dataset_infos.json").write_text("{}")

    def snapshot_download(repo, *, repo_type, allow_patterns):
        assert repo_type == "dataset"
        assert not any(".bin" in pattern or ".py" in pattern for pattern in allow_patterns)
        if repo != "owner/stories":
            raise OSError(f"Repository Not Found: {repo}\nand more lines")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return folder


def test_hub_dataset_by_split(hub):
    assert [example.id for example in read_examples("owner/stories")] == ["a", "b"]
    assert [example.id for example in read_examples("owner/stories:test")] == ["c"]
    with pytest.raises(DataError, match=r"no file of the split 'dev' among data/test-00000\.jsonl"):
        read_examples("owner/stories:dev")


def test_parts_of_a_hub_dataset_continue_row_numbers(hub):
    for part in (hub / "data").glob("train-*.jsonl"):
        write(part, without("id"), without("id"))
    assert [example.id for example in read_examples("owner/stories")] == [f"stories-{i}" for i in (1, 2, 3, 4)]


def test_hub_dataset_that_cannot_be_had(hub):
    with pytest.raises(DataError, match=r"owner/none: .*\(Repository Not Found: owner/none\); give a path") as caught:
        read_examples("owner/none")
    assert "\n" not in str(caught.value)


def test_hub_offline(monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="owner/stories: no such file here, and the hub dataset could not be loaded"):
        tables.read_all_rows("owner/stories")


# ---------------------------------------------------------------------------------------------------------- real files


@pytest.mark.skipif(not BENCHMARKS.exists(), reason="no benchmark files here")
def test_hitom():
    rows = read_examples(
        BENCHMARKS / "hitom/Hi-ToM_data.json", columns={"id": "sample_id"}, where={"prompting_type": "CoTP"}
    )
    assert len(rows) == 600
    assert {len(row.options) for row in rows} == {15}
    first = rows[0]
    assert first.story.startswith(
        "1 Avery, Charlotte, Isabella, Elizabeth and Owen entered the living_room.\n2 The lettuce"
    )
    assert (first.question, first.options[10], first.answer) == ("Where is the lettuce really?", "green_drawer", "K")
    raw = {
        str(row["sample_id"]): row for row in json.loads((BENCHMARKS / "hitom/Hi-ToM_data.json").read_text())["data"]
    }
    for row in rows:
        choices = ", ".join(f"{letter}. {text}" for letter, text in zip("ABCDEFGHIJKLMNO", row.options, strict=True))
        assert choices == raw[row.id]["choices"]
        assert row.options[ord(row.answer) - ord("A")] == raw[row.id]["answer"]


@pytest.mark.skipif(not BENCHMARKS.exists(), reason="no benchmark files here")
def test_simpletom_and_tombench():
    rows = read_examples(BENCHMARKS / "simpletom/judgment-qa/test.jsonl", columns={"answer": "answerKey"})
    assert len(rows) == 1147
    assert {row.options[ord(row.answer) - ord("A")].lower() for row in rows} == {"reasonable"}
    columns = {"options": "OPTION-A, OPTION-B, OPTION-C, OPTION-D", "answer": "答案\nANSWER"}
    counts = {}
    for path in sorted((BENCHMARKS / "tombench/data").glob("*.jsonl")):
        for row in read_examples(path, columns=columns):
            counts[len(row.options)] = counts.get(len(row.options), 0) + 1
    assert counts == {2: 483, 4: 2377}


def test_reading_questions_needs_no_jax():
    code = (
        "import sys, socialr1_jax.data.question_files, socialr1_jax.questions.pipeline\n"
        "print(sorted({'jax', 'grain', 'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
