"""Reward functions of the user's own: how they are set, and that each way to fail names file, line and response."""

import re

import pytest
import yaml

from socialr1_jax.config.loading import load_config, to_yaml
from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.rewards.extra import extra_rewards, load_extras

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


def load_one(function):
    return load_extras(RewardConfig(extra={"own": {"function": function}}))["own"]


@pytest.fixture
def function(tmp_path, monkeypatch, request):
    """function(body) -> the function `reward` of a module with this text, and its file."""
    monkeypatch.syspath_prepend(tmp_path)
    made = []

    def make(body):
        name = f"own_{request.node.name.partition('[')[0]}_{abs(hash(body)) % 10**9}"
        (tmp_path / f"{name}.py").write_text(body)
        made.append(name)
        return load_one(f"{name}:reward"), tmp_path / f"{name}.py"

    return make


@pytest.mark.parametrize(
    ("body", "at", "line", "words"),
    [
        (IN_A_LOOP, " at response 3 of 4 (id 'q2')", 8, "ValueError: could not convert string to float: 'three'"),
        (
            "def reward(records):\n    for r in records:\n        r['meta']['level'] + 1\n    return []\n",
            " at response 3 of 4 (id 'q2')",
            3,
            "TypeError: can only concatenate str",
        ),
        (  # only the text of the response was handed on
            "def reward(records):\n    return [size(r['response']) for r in records]\n\n\n"
            "def size(text):\n    return 1 / (text != 'response 1')\n",
            " at response 2 of 4 (id 'q1')",
            6,
            "ZeroDivisionError: division by zero",
        ),
        (  # in a library, called by the user's line
            "import json\n\n\ndef reward(records):\n    return [json.loads(r['response']) for r in records]\n",
            " at response 1 of 4 (id 'q0')",
            5,
            "JSONDecodeError: Expecting value",
        ),
        (  # in no response
            "def reward(records):\n    raise RuntimeError('all\\n\\x1b[31mtogether')\n",
            "",
            2,
            r"RuntimeError: all \x1b[31mtogether",
        ),
        ("def reward(records):\n    yield from records[0]['nothing']\n", "", 2, "KeyError: 'nothing'"),
        (
            "def reward(records):\n    return [r['meta']['lvl'] for r in records]\n",
            " at response 1 of 4 (id 'q0')",
            2,
            "KeyError: 'lvl'; meta has 'level'",
        ),
    ],
)
def test_raising_function_names_file_line_and_response(body, at, line, words, function):
    reward, file = function(body)
    error = extra_rewards("own", reward, RECORDS)["error"]
    assert error.startswith(f"rewards.extra.own: reward failed{at}: {file}:{line}: {words}"), error
    assert error.isprintable()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "gave None; give a list of 4 numbers"),
        (3.0, "gave 3.0; give a list of 4 numbers"),
        ([1.0], "gave 1 number for 4 responses"),
        ([1.0, None, 0.0, 0.0], "gave None for response 2 of 4 (id 'q1')"),
        ([1.0, 1.0, "good", 0.0], "gave 'good' for response 3 of 4 (id 'q2')"),
        ([1.0, 1.0, 1.0, float("inf")], "gave an infinite number for response 4 of 4 (id 'q3')"),
    ],
)
def test_what_is_no_reward_names_the_response(given, reason):
    def reward(records):
        return given

    line = reward.__code__.co_firstlineno
    assert extra_rewards("own", reward, RECORDS)["error"].startswith(
        f"rewards.extra.own: reward ({__file__}:{line}) {reason}"
    )


def test_what_is_a_reward():
    class Reward:  # has no name
        def __call__(self, records):
            return (value for value in (1, True, "0.5", float("nan")))

    rewards = extra_rewards("own", Reward(), RECORDS)["rewards"]
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
def test_broken_module_names_its_line(body, reason, function):
    with pytest.raises(ValueError, match=r"rewards\.extra\.own: cannot import 'own_") as error:
        function(body)
    assert re.search(rf"own_\w+\.py{re.escape(reason)}", str(error.value)), error.value


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("no_such_module:reward", "cannot import 'no_such_module': ModuleNotFoundError: No module named"),
        ("no_such_file.py:reward", "cannot import 'no_such_file.py': FileNotFoundError: there is no such file"),
        ("math:no_such", "math has no function 'no_such'"),
        ("math:pi", "math has no function 'pi'"),
    ],
)
def test_a_function_that_is_not_there(function, reason):
    with pytest.raises(ValueError, match=re.escape(f"rewards.extra.own: {reason}")):
        load_one(function)


ARGUMENTS = """
import functools


def plain(records): return []
def named_otherwise(batch, scale=1.0, *, completions=None, **rest): return []
def anything(*arguments, **named): return []
def two(records, scale): return []
def trl(completions, **kwargs): return []
def trl_long(prompts, completions, answer, **kwargs): return []
def trl_defaults(prompts=None, completions=None): return []
def named_alone(**kwargs): return []
def keyword(records, *, scale: "a\\nb"): return []
def nothing(): return []
def verl(data_source, solution_str, ground_truth, extra_info=None): return []
def adapt(function):
    @functools.wraps(function)
    def adapted(records): return function(completions=[record["response"] for record in records])
    return adapted


adapted = adapt(trl)
part = functools.partial(two, scale=2.0)
part_trl = functools.partial(trl_long, answer=[])
wordless = lambda records: []
class Reward:
    def __init__(self, *_): pass
    def __call__(self, records): return []
    def method(self, records): return []
    def trl(self, completions): return []
called, method, method_trl = Reward(), Reward().method, Reward().trl
called.__signature__ = "none"
builtin = max
"""


@pytest.mark.parametrize(
    ("names", "takes"),
    [
        ("plain named_otherwise anything adapted part wordless called method builtin", ""),
        ("two", "(records, scale)"),
        ("trl", "(completions, **kwargs), as in TRL"),
        ("trl_long", "(prompts, completions, answer, **kwargs)"),
        ("trl_defaults", "(prompts, completions), as in TRL"),
        ("named_alone", "(**kwargs)"),
        ("keyword", "(records, *, scale)"),
        ("nothing", "()"),
        ("verl", "(data_source, solution_str, ground_truth, extra_info)"),
        ("part_trl", "(prompts, completions, *, answer, **kwargs)"),
        ("method_trl", "(completions), as in TRL"),
    ],
)
def test_function_of_other_arguments_is_refused_when_loaded(names, takes, tmp_path):
    (tmp_path / "own.py").write_text(ARGUMENTS)
    for name in names.split():
        function = f"{tmp_path}/own.py:{name}"
        if not takes:
            assert callable(load_one(function))
            continue
        with pytest.raises(ValueError, match=re.escape(f"rewards.extra.own: {function} takes ")) as refused:
            load_one(function)
        assert str(refused.value).partition(" takes ")[2] == (
            f"{takes}, but is called as {name}(records), with a list of one dict a response; see 'Your own reward "
            "functions' in docs/rewards.md"
        )


def test_file_holds_several_and_imports_its_neighbours(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "beside_it.py").write_text("NUMBER = 3.0\n")
    body = "import beside_it\nCALLS = []\ndef one(r):\n    CALLS.append(1)\n    return [beside_it.NUMBER]\n"
    (tmp_path / "sub" / "json.py").write_text(body + "def two(r):\n    return [float(len(CALLS))]\n")
    monkeypatch.chdir(tmp_path)
    table = {name: {"function": f"sub/json.py:{name}"} for name in ("one", "two")}
    functions = load_extras(RewardConfig(extra=table))
    assert [functions[name](RECORDS[:1]) for name in table] == [[3.0], [1.0]]  # of one module, and not that of Python


# ------------------------------------------------------------------------------------------------------- how it is set

FILE = {"brevity": {"function": "my.py:brevity", "weight": 2}, "kind": {"function": "my:kind", "gated": False}}
FLAT = {"steps": 200, "shape": "linear"}
BREVITY = {"function": "my.py:brevity", "weight": {"start": 2.0, "end": 2.0, **FLAT}, "gated": True}
KIND = {"function": "my:kind", "weight": {"start": 1.0, "end": 1.0, **FLAT}, "gated": False}


def load_table(tmp_path, tables, *overrides):
    files = []
    for number, table in enumerate(tables):
        files.append(tmp_path / f"{number}.yaml")
        files[-1].write_text(yaml.safe_dump({"rewards": {"extra": table}}))
    return load_config(RunConfig, files, ["model.path=m", "data.train=d", *overrides])


@pytest.mark.parametrize(
    ("tables", "overrides", "table"),
    [
        ([FILE], [], {"brevity": BREVITY, "kind": KIND}),
        ([FILE, None], [], {"brevity": BREVITY, "kind": KIND}),
        ([FILE, {"brevity": None}], [], {"kind": KIND}),
        ([FILE], ["kind=null"], {"brevity": BREVITY}),
        ([FILE, {"brevity": None}, {"brevity": FILE["brevity"]}], [], {"kind": KIND, "brevity": BREVITY}),
        (
            [FILE],
            ["kind=null", "kind.function=m:f", "kind.gated=false"],
            {"brevity": BREVITY, "kind": KIND | {"function": "m:f"}},
        ),
        ([], ["brevity.function=my.py:brevity", "brevity.weight=2"], {"brevity": BREVITY}),
        ([], ["brevity.weight=2e0", "brevity.function=my.py:brevity"], {"brevity": BREVITY}),
        ([], ["brevity={function: my.py:brevity, weight: 2.0}"], {"brevity": BREVITY}),
        (
            [{"brevity": FILE["brevity"]}, {"brevity": {"weight": {"end": 0}}}],
            ["brevity.weight.steps=9", "brevity.gated=false"],
            {"brevity": BREVITY | {"weight": {"start": 2.0, "end": 0.0, **FLAT, "steps": 9}, "gated": False}},
        ),
        ([{"brevity": BREVITY | {"weight": {"start": 1, "end": 0}}}], ["brevity.weight=2"], {"brevity": BREVITY}),
    ],
)
def test_a_table_of_functions(tmp_path, tables, overrides, table):
    config = load_table(tmp_path, tables, *(f"rewards.extra.{override}" for override in overrides))
    assert {name: extra.model_dump() for name, extra in config.rewards.extra.items()} == table
    (tmp_path / "saved.yaml").write_text(to_yaml(config))
    assert load_config(RunConfig, tmp_path / "saved.yaml") == config


NEW_FORM = "rewards.extra holds sections under names of your own: set rewards.extra.NAME.function, not "


@pytest.mark.parametrize(
    ("tables", "override", "line"),
    [
        ([], "rewards.extra=my:f", NEW_FORM + "'my:f'"),  # the form of before
        (["my:f"], "", f"0.yaml: {NEW_FORM}'my:f'"),
        ([["my:f"]], "", f"0.yaml: {NEW_FORM}['my:f']"),
        ([{"function": "my:f"}], "", f"0.yaml: {NEW_FORM}'my:f'"),
        ([], "rewards.extra.own=my:f", NEW_FORM + "'my:f'"),
        ([], "rewards.extra_weight.start=2", "did you mean 'rewards.extra.NAME.weight.start'?"),
        ([], "rewards.extra_weight=2", "did you mean 'rewards.extra.NAME.weight'?"),
        ([{"own": {"wight": 1}}], "", "'rewards.extra.own.wight'; did you mean 'rewards.extra.NAME.weight'?"),
        ([], "rewards.extra.a.b.function=m:f", "unknown key 'rewards.extra.a.b.function'"),
        ([], "rewards.extra.own.weight=1", "rewards.extra.own.function is required: module:function"),
        ([{"own": {}}], "", "rewards.extra.own.function is required"),
        ([], "rewards.extra.own.function=reward", "rewards.extra.own.function: 'reward' is not of the form module:fun"),
        ([], "rewards.extra.own.function=:reward", "rewards.extra.own.function: ':reward' is not of the form"),
        ([FILE], "rewards.extra.kind.weight=heavy", "takes a number, or fields such as rewards.extra.kind.weight.st"),
        ([FILE], "rewards.extra.kind.weight=true", "rewards.extra.kind.weight takes a number, or fields"),
        ([FILE], "rewards.extra.kind.weight=-1", "rewards.extra.kind.weight.start must be at least 0.0, not -1"),
        ([FILE], "rewards.extra.kind.gated=1", "rewards.extra.kind.gated: 1 is not true or false"),
        (
            [],
            "rewards.extra.my-own.function=m:f",
            "rewards.extra: 'my-own' is not a valid name: use at most 60 letters",
        ),
        ([], "rewards.extra..function=m:f", "rewards.extra: '' is not a valid name"),
        ([], f"rewards.extra.{'x' * 61}.function=m:f", "is not a valid name: use at most 60 letters"),
        ([], "rewards.extra.format.function=m:f", "rewards.extra: format is already the name of a term"),
        ([], "rewards.extra.own=null", "own is null, which removes what was given before it, and there is none"),
        ([FILE, {"knd": None}], "", "1.yaml: rewards.extra.knd is null, which removes"),
    ],
)
def test_what_is_no_table_of_functions(tmp_path, tables, override, line):
    with pytest.raises(ConfigError) as refused:
        load_table(tmp_path, tables, *([override] if override else []))
    assert line in str(refused.value).splitlines()[0]
