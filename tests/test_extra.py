"""A reward function of the user's own: what it is given, and that each way to fail names file, line and response."""

import re

import pytest

from socialr1_jax.rewards.extra import extra_rewards, load_extra

RECORDS = [
    {"id": f"q{i}", "response": f"response {i}", "thoughts": f"thoughts {i}", "meta": {"level": level}}
    for i, level in enumerate((1, 2, "three", 4))
]
IN_A_LOOP = """
def reward(records):
    first = 0.0
    return [level_of(record) + first for record in records]


def level_of(record):
    return float(record["meta"]["level"])
"""


@pytest.fixture
def function(tmp_path, monkeypatch, request):
    """function(body) -> the function `reward` of a module with this text, and its file."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(body):
        name = f"own_{request.node.name.partition('[')[0]}_{abs(hash(body)) % 10**9}"
        (tmp_path / f"{name}.py").write_text(body)
        made.append(name)
        return load_extra(f"{name}:reward"), tmp_path / f"{name}.py"

    return make


@pytest.mark.parametrize(
    ("body", "at", "line", "words"),
    [
        (IN_A_LOOP, " at response 3 of 4 (id 'q2')", 8, "ValueError: could not convert string to float: 'three'"),
        (
            "def reward(records):\n    for r in records:\n        r['meta']['level'] + 1\n    return []\n",
            " at response 3 of 4 (id 'q2')", 3, "TypeError: can only concatenate str",
        ),
        (  # only the text of the response was handed on
            "def reward(records):\n    return [size(r['response']) for r in records]\n\n\n"
            "def size(text):\n    return 1 / (text != 'response 1')\n",
            " at response 2 of 4 (id 'q1')", 6, "ZeroDivisionError: division by zero",
        ),
        (  # in a library, called by the user's line
            "import json\n\n\ndef reward(records):\n    return [json.loads(r['response']) for r in records]\n",
            " at response 1 of 4 (id 'q0')", 5, "JSONDecodeError: Expecting value",
        ),
        (  # in no response
            "def reward(records):\n    raise RuntimeError('all\\n\\x1b[31mtogether')\n",
            "", 2, r"RuntimeError: all \x1b[31mtogether",
        ),
        ("def reward(records):\n    yield from records[0]['nothing']\n", "", 2, "KeyError: 'nothing'"),
    ],
)  # fmt: skip
def test_a_function_that_raises_names_file_line_and_response(body, at, line, words, function):
    reward, file = function(body)
    error = extra_rewards(reward, RECORDS)["error"]
    assert error.startswith(f"rewards.extra: reward failed{at}: {file}:{line}: {words}"), error
    assert error.isprintable()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "gave None; give a list of 4 numbers"),
        (3.0, "gave 3.0; give a list of 4 numbers"),
        ([1.0], "gave 1 numbers for 4 records"),
        ([1.0, None, 0.0, 0.0], "reward gave None for response 2 of 4 (id 'q1')"),
        ([1.0, 1.0, "good", 0.0], "reward gave 'good' for response 3 of 4 (id 'q2')"),
        ([1.0, 1.0, 1.0, float("inf")], "infinite number for response 4 of 4 (id 'q3')"),
    ],
)
def test_what_is_no_reward_names_the_response(given, reason):
    def reward(records):
        return given

    assert reason in extra_rewards(reward, RECORDS)["error"]


def test_what_is_a_reward():
    class Reward:  # has no name
        def __call__(self, records):
            return (value for value in (1, True, "0.5", float("nan")))

    rewards = extra_rewards(Reward(), RECORDS)["rewards"]
    assert rewards[:3] == [1.0, 1.0, 0.5]
    assert rewards[3] != rewards[3]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("def reward(records:\n", r":1: SyntaxError: "),
        ("x = 1\nundefined_name\n", r":2: NameError: name 'undefined_name' is not defined"),
        ("\nimport not_there_at_all\n", r":2: ModuleNotFoundError: No module named 'not_there_at_all'"),
    ],
)
def test_a_module_that_cannot_be_imported_names_its_line(body, reason, function):
    with pytest.raises(ValueError, match=r"rewards\.extra: cannot import 'own_") as error:
        function(body)
    assert re.search(rf"own_\w+\.py{re.escape(reason)}", str(error.value)), error.value


def test_a_module_that_is_not_there():
    with pytest.raises(ValueError, match="cannot import 'no_such_module': ModuleNotFoundError: No module named"):
        load_extra("no_such_module:reward")
