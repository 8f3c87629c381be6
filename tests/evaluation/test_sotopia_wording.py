"""SOTOPIA in its authors' words: made-up sources of both versions, and what is asked and kept with their texts."""

import json
import runpy
from pathlib import Path

import pytest
from test_evaluate import loopback
from test_sotopia import act, after, setting, written
from test_sotopia_judging import verdict

from socialr1_jax.config.evaluation import EvaluateConfig
from socialr1_jax.config.loading import load_config
from socialr1_jax.evaluation import evaluate as whole
from socialr1_jax.evaluation.request import Wording
from socialr1_jax.evaluation.sotopia.judging import DIMENSIONS, judge_messages
from socialr1_jax.evaluation.sotopia.official import judge_schema
from socialr1_jax.evaluation.sotopia.run import load_benchmark
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.wording import content_of
from socialr1_jax.evaluation.wording_sources import SOURCES

main = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "benchmark_prompts.py"))["main"]

GENERATE = '''
raise SystemExit("this was run")

async def agenerate_action(agent, script_like):
    if script_like:
        template = """
            Write a script.
        """
    else:
        template = """
            Be {agent}. {agent}: {history}.
            At {turn_number}: {action_list}.
            As {format_instructions}
        """
    return await agenerate(template=template, input_values=dict(agent=agent))
'''
MESSAGES = """
class Message(BaseModel):
    def to_natural_language(self):
        raise NotImplementedError

class Observation(Message):
    last_turn: str = Field(description="what was last")

    def to_natural_language(self):
        if self.turn_number == 0:
            return f"\\n{self.last_turn}\\nIt starts:\\n"
        else:
            return f"T{self.turn_number - 1}: {self.last_turn}\\n"
"""
TAGGED = (
    MESSAGES
    + '''
class ScriptBackground(Message):
    def to_natural_language(self):
        if self.p1_background or self.p2_background:
            p1_background = self.p1_background if self.p1_background else "Unknown"
            return format_docstring(
                f"""About:
                In {self.scenario}
                {self.p1_name}, {self.p2_name}
                {self.p1_name} is {p1_background}
                {self.p2_name} is {p2_background}
                {self.p1_name} wants {self.p1_goal}
                {self.p2_name} wants {self.p2_goal}
            """
            )
        else:
            return format_docstring(f"""About: {self.scenario}""")

class AgentAction(Message):
    action_type: ActionType = Field(description="a kind")
    argument: str = Field(description="a text")

    def to_natural_language(self):
        match self.action_type:
            case "none":
                return "idled"
            case "speak":
                return f'spoke: "{self.argument}"'
            case "non-verbal communication":
                return f"<{self.action_type}> {self.argument}"
            case "action":
                return f"<{self.action_type}> {self.argument}"
            case "leave":
                return "went"
'''
)
HEAD = (
    MESSAGES
    + '''
class ScriptBackground(Message):
    def to_natural_language(self):
        if len(self.agent_names) == 1:
            participants_str = self.agent_names[0]
        elif len(self.agent_names) == 2:
            participants_str = f"{self.agent_names[0]} + {self.agent_names[1]}"
        else:
            participants_str = ", ".join(self.agent_names[:-1]) + f", + {self.agent_names[-1]}"
        if any(self.agent_backgrounds):
            backgrounds_text = ""
            for name, background in zip(self.agent_names, self.agent_backgrounds):
                if self.hide_unknown:
                    backgrounds_text += f"{name} is {background}\\n"
                else:
                    backgrounds_text += f"{name} is now {bg_text}\\n"
            goals_text = ""
            for name, goal in zip(self.agent_names, self.agent_goals):
                if self.hide_unknown:
                    goals_text += f"{name} wants {goal}\\n"
                else:
                    goals_text += f"{name} now wants {goal}\\n"
            return format_docstring(
                f"""About:
                In {self.scenario}
                {participants_str}
                {backgrounds_text.strip()}
                {goals_text.strip()}
            """
            )
        else:
            for name, goal in zip(self.agent_names, self.agent_goals):
                goals_text += f"{name} wants {goal}\\n"
            return format_docstring(f"""About: {self.scenario}""")

class AgentAction(Message):
    action_type: ActionType = Field(description="a kind")
    argument: str = Field(description="a text")
    to: list[str] = Field(description="some names")

    def to_natural_language(self):
        recipients_prefix = "" if not self.to else f"[to {self.to}] "
        action_str = ""
        match self.action_type:
            case "none":
                action_str = "idled"
            case "speak":
                action_str = f'spoke: "{self.argument}"'
            case "non-verbal communication":
                action_str = f"<{self.action_type}> {self.argument}"
            case "action":
                action_str = f"<{self.action_type}> {self.argument}"
            case "leave":
                action_str = "went"
        return f"{recipients_prefix}_{action_str}"

    @field_validator("to")
    def validate_to(cls, to):
        return to
'''
)
OF_ALL = "{p.age} {adjective(p.gender)} {p.occupation.lower()} {p.pronouns} {p.public}"
OWN = "{p.values} {p.first_name}'s: {p.secret}"
TAG = "<p viewer='agent_{agent_id}'>"
PARALLEL = f"""
def _agent_profile_to_stranger_self(p, agent_id):
    return f"<root>{TAG}{{p.first_name}} {{p.last_name}} {OF_ALL} {OWN}</p></root>"

def _agent_profile_to_name_self(p, agent_id):
    return f"{{p.first_name}} {{p.last_name}} {TAG}{OF_ALL} {OWN}</p>"

def _agent_profile_to_aquaintance_self(p, agent_id):
    return f"{{p.first_name}} {{p.last_name}} {OF_ALL} {TAG}{OWN}</p>"

def _agent_profile_to_friendabove_self(p, agent_id):
    return f"{{p.first_name}} {{p.last_name}} {OF_ALL} {{p.values}} {TAG}{{p.first_name}}'s: {{p.secret}}</p>"

class Env:
    async def %s(self, actions):
        self.recv_message("Environment", SimpleMessage(message=f"Turn {{self.turn_number}}"))
"""
JUDGE = '''
class EpisodeLLMEvaluator:
    async def __acall__(self, messages):
        agent_instruction = ""
        if num_agents > 0:
            agent_instruction = (
                "Of "
                + str(num_agents)
                + " agents: "
                + ", ".join([f'"agent_{i+1}"' for i in range(num_agents)])
                + ".\\n"
            )
        await agenerate(template="""%s
            Judge. %s
            As {format_instructions}
        """, input_values=dict(history=history, agent_instruction=agent_instruction))
'''
SCORES = '''
class SotopiaDimensions(BaseModel):
    """Made up"""

''' + "".join(f'    {name}: Score = Field(..., description="How {name}? "\n        "Say.")\n' for name in DIMENSIONS)
KINDS = "".join(
    f"""
class {kind}ReasoningScore(BaseModel):
    reasoning: str = Field(..., description="why {kind}")
    score: int = Field(..., description="how {kind}")

    @field_validator("score")
    def check(cls, v):
        return v
"""
    for kind in ("Negative", "Positive", "Bidirectional")
)
FILES = {
    "0.1.4": {
        "sotopia/generation_utils/generate.py": GENERATE,
        "sotopia/messages/message_classes.py": TAGGED,
        "sotopia/envs/parallel.py": PARALLEL % "astep",
        "sotopia/envs/evaluators.py": SCORES + JUDGE % ("{history},", "Now."),
    },
    "head": {
        "sotopia/generation_utils/generate.py": GENERATE.replace(
            "if script_like", "if mine:\n        template = mine\n    elif script_like"
        ),
        "sotopia/messages/message_classes.py": HEAD,
        "sotopia/envs/parallel.py": PARALLEL % "_process_incoming_actions",
        "sotopia/envs/evaluators.py": JUDGE % ("{history}", "{agent_instruction}"),
        "sotopia/database/evaluation_dimensions.py": KINDS + SCORES,
    },
}
VERSIONS = dict(zip(FILES, SOURCES["sotopia"].versions, strict=True))
both = pytest.mark.parametrize("rules", FILES)


def checkout(folder, rules, **changed):
    for file, content in (FILES[rules] | changed).items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def worded(tmp_path, rules, **more):
    content = content_of("sotopia", checkout(tmp_path, rules))
    assert content["source"] == VERSIONS[rules].version
    assert set(content["files"]) == set(FILES[rules])
    wording = Wording(content["texts"], content["sha256"])
    one = setting(rules=rules, **more)
    return type(one)(pair=one.pair, tested=one.tested, rules=rules, wording=wording)


ADA = "Ada Stone 41 female night porter She/her Ada keeps bees."
BO = "Bo Stone 41 female night porter She/her Bo keeps bees."
ACTIONS = '["none", "speak", "non-verbal communication", "action", "leave"]'
KIND = f'"action_type": {{"description": "a kind", "enum": {ACTIONS}, "title": "Action Type", "type": "string"}}'
TEXT = '"argument": {"description": "a text", "title": "Argument", "type": "string"}'
TO = '"to": {"description": "some names", "items": {"type": "string"}, "title": "To", "type": "array"}'
ACTION = f'{{"properties": {{{KIND}, {TEXT}}}, "required": ["action_type", "argument"], "title": "AgentAction", '
ACTION_HEAD = (
    f'{{"additionalProperties": false, "properties": {{{KIND}, {TEXT}, {TO}}}, '
    '"required": ["action_type", "argument", "to"], "title": "AgentAction", '
)
SPACE = " "
ASKED = {  # what Bo is asked after Ada has spoken, by version
    "0.1.4": f"""Be Bo Stone. Bo Stone:{SPACE}
About:
In They share a taxi.
Ada Stone, Bo Stone
Ada Stone is {ADA} Ada is blunt.{SPACE}
Bo Stone is {BO} Bo is blunt. Bo's: Bo owes a debt.
Ada Stone wants Unknown
Bo Stone wants Pay half, of 30 at most
It starts:

T0: Ada Stone spoke: "Say "a" {{b}}."
.
At 1: none speak non-verbal communication action leave.
As {ACTION}"type": "object"}}""",
    "head": f"""Be Bo Stone. Bo Stone:{SPACE}
About:
In They share a taxi.
Ada Stone + Bo Stone
Ada Stone is now Unknown
Bo Stone is now {BO} Bo is blunt. Bo's: Bo owes a debt.
Ada Stone now wants Unknown
Bo Stone now wants Pay half, of 30 at most
It starts:

T0: Ada Stone _spoke: "Say "a" {{b}}."
.
At 1: none speak non-verbal communication action leave.
As {ACTION_HEAD}"type": "object"}}""",
}


@both
def test_an_agent_is_asked_in_the_authors_words(tmp_path, rules):
    episode = after(worded(tmp_path, rules), act(argument='Say "a" {b}.'))
    assert [message["content"] for message in episode.messages()] == [ASKED[rules]]
    quiet = after(worded(tmp_path, rules), act("none", "")).messages()[0]["content"]
    assert "T0: \n" in quiet
    token = after(worded(tmp_path, rules), act(argument="<|im_end|>")).messages()[0]["content"]
    assert "‹|im_end|>" in token


@pytest.mark.parametrize(
    ("relationship", "seen"), enumerate(["Unknown", "Ada Stone ", f"{ADA} ", *[f"{ADA} Ada is blunt. "] * 3])
)
def test_what_is_seen_of_another(tmp_path, relationship, seen):
    episode = after(worded(tmp_path, "0.1.4", relationship=relationship), act())
    assert f"\nAda Stone is {seen}\nBo Stone is {BO} Bo is" in episode.messages()[0]["content"]


@both
def test_the_judge_is_asked_in_the_authors_words(tmp_path, rules):
    """Without what is idle; characters of JSON, tags and chat tokens in what was said are others."""
    one = worded(tmp_path, rules, relationship=0)
    episode = after(
        one, act(argument='Say "a" {b} <c>.'), act(argument="I idled."), act("none"), act("action", "waves")
    )
    dash, now = ("_", " now") if rules == "head" else ("", "")
    names, comma = ("Ada Stone + Bo Stone", "") if rules == "head" else ("Ada Stone, Bo Stone", ",")
    ask = 'Of 2 agents: "agent_1", "agent_2".\n' if rules == "head" else "Now."
    assert judge_messages(episode) == (
        {
            "role": "user",
            "content": f"""About:
In They share a taxi.
{names}
Ada Stone is{now} {ADA} Ada is blunt. Ada's: Ada owes a debt.
Bo Stone is{now} {BO} Bo is blunt. Bo's: Bo owes a debt.
Ada Stone{now} wants Get out first
Bo Stone{now} wants Pay half, of 30 at most
Turn 1
Ada Stone {dash}spoke: "Say 'a' (b) ‹c›."
Turn 2
Bo Stone {dash}spoke: "I idled."
Turn 3
Turn 4
Bo Stone {dash}<action> waves{comma}
Judge. {ask}
As {json.dumps(judge_schema(one.wording, DIMENSIONS))}""",
        },
    )
    again = judge_messages(episode, "not a JSON object")[0]["content"]
    assert again.endswith(
        "}\n\nYour last reply could not be used (not a JSON object). Give the whole JSON object, in this form."
    )


def test_the_schema_of_a_verdict(tmp_path):
    """Its keys are in the order that pydantic gives them."""
    (old, head) = (judge_schema(worded(tmp_path / rules, rules).wording, DIMENSIONS) for rules in FILES)
    of_agent = old["$defs"]["SotopiaDimensions"]
    assert list(of_agent) == ["description", "properties", "required", "title", "type"]
    assert of_agent["description"] == "Made up"
    assert json.dumps(of_agent["properties"]["social_rules"]) == (
        '{"description": "How social_rules? Say.", "maxItems": 2, "minItems": 2, "prefixItems": '
        '[{"type": "string"}, {"type": "integer"}], "title": "Social Rules", "type": "array"}'
    )
    assert json.dumps({**old, "$defs": 0}) == (
        '{"$defs": 0, "properties": {"agent_1_evaluation": {"$ref": "#/$defs/SotopiaDimensions"}, '
        '"agent_2_evaluation": {"$ref": "#/$defs/SotopiaDimensions"}}, "required": ["agent_1_evaluation", '
        '"agent_2_evaluation"], "title": "EvaluationForTwoAgents[SotopiaDimensions]", "type": "object"}'
    )
    kinds = {name: one["$ref"].split("/")[-1] for name, one in head["$defs"]["SotopiaDimensions"]["properties"].items()}
    assert kinds == {
        name: {0: "Positive", -5: "Bidirectional", -10: "Negative"}[one.low] + "ReasoningScore"
        for name, one in DIMENSIONS.items()
    }
    assert json.dumps(head["$defs"]["NegativeReasoningScore"]) == (
        '{"additionalProperties": false, "properties": {"reasoning": {"description": "why Negative", "title": '
        '"Reasoning", "type": "string"}, "score": {"description": "how Negative", "title": "Score", "type": '
        '"integer"}}, "required": ["reasoning", "score"], "title": "NegativeReasoningScore", "type": "object"}'
    )
    assert json.dumps({**head, "$defs": sorted(head["$defs"]) == list(head["$defs"])}) == (
        '{"$defs": true, "additionalProperties": false, "properties": {"evaluations": {"additionalProperties": '
        '{"$ref": "#/$defs/SotopiaDimensions"}, "title": "Evaluations", "type": "object"}}, "required": '
        '["evaluations"], "title": "EvaluationForAgents[SotopiaDimensions]", "type": "object"}'
    )


MESSAGES_FILE, JUDGE_FILE = "sotopia/messages/message_classes.py", "sotopia/envs/evaluators.py"


@pytest.mark.parametrize(
    ("rules", "file", "old", "new", "reason"),
    [
        (
            "0.1.4",
            MESSAGES_FILE,
            "class Observation",
            "class Seen",
            "'Observation.to_natural_language.return' has 0 texts instead of 2",
        ),
        ("0.1.4", MESSAGES_FILE, '(description="a kind")', "()", "'AgentAction.description' has 1 texts instead of 2"),
        ("0.1.4", JUDGE_FILE, '    """Made up"""', "    pass", "'SotopiaDimensions.__doc__' has 0 texts instead of 1"),
        (
            "0.1.4",
            "sotopia/generation_utils/generate.py",
            "At {turn_number}",
            "At {turn}",
            "'agenerate_action.template' has the field 'turn', which is not one of agent, history, turn_number",
        ),
        (
            "head",
            MESSAGES_FILE,
            "backgrounds_text += ",
            "text += ",
            "'ScriptBackground.to_natural_language.backgrounds_text' has 0 texts instead of 2",
        ),
        (
            "head",
            "sotopia/envs/parallel.py",
            "def _process_incoming_actions",
            "def _process",
            "'_process_incoming_actions.message' has 0 texts instead of 1",
        ),
        (
            "head",
            "sotopia/database/evaluation_dimensions.py",
            "class NegativeReasoningScore",
            "class Negative",
            "'NegativeReasoningScore.description' has 0 texts instead of 2",
        ),
    ],
)
def test_a_text_that_moved_is_one_line(tmp_path, capsys, rules, file, old, new, reason):
    assert old in FILES[rules][file]
    folder = checkout(tmp_path, rules, **{file: FILES[rules][file].replace(old, new)})
    code = main(["--benchmark=sotopia", f"--source={folder}", f"--output={tmp_path / 'out.json'}"])
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert f"{folder / file}: {reason}" in said.err
    assert said.err.endswith(f"give a checkout of {VERSIONS[rules].version}\n")
    assert not (tmp_path / "out.json").exists()


@pytest.fixture
def server():
    """Plays, and judges in the authors' form."""

    def reply(server, body):
        text = body["messages"][-1]["content"]
        if "Judge." in text:
            assert "<episode-" not in text
            both = {f"{agent}_evaluation": scores for agent, scores in json.loads(verdict(form="list")).items()}
            return 200, {"content": json.dumps(both)}
        return 200, {"content": json.dumps({"action_type": "leave", "argument": ""})}

    yield from loopback(reply)


def test_an_evaluation_says_whose_words_it_was_in(tmp_path, server, capsys):
    """Episodes of another wording are refused, verdicts of another one do not count."""
    data = tmp_path / "data" / "sotopia"
    data.mkdir(parents=True)
    written(data)
    url = f"http://127.0.0.1:{server.server_port}/v1"
    who = [f"{one}=m{i}" for i, one in enumerate(("model", "partner", "judge"))]
    who += [f"{one}={url}" for one in ("base_url", "partner_url", "judge_url")]

    def evaluated(output, *more):
        given = [*who, "tasks=sotopia", f"data_dir={data.parent}", f"output={tmp_path / output}", *more]
        whole.evaluate(load_config(EvaluateConfig, None, given))
        return json.loads((tmp_path / output / "results.json").read_text())

    own = evaluated("own", "predict_only=true")
    assert own["wording"] == {"sotopia": "own wording"}
    assert any("own wording, not that of sotopia-lab/sotopia @ v0.1.4 or" in note for note in own["notes"]["sotopia"])
    assert "wording" not in own["details"]["sotopia"]
    source = checkout(tmp_path / "theirs", "0.1.4")
    assert main(["--benchmark=sotopia", f"--source={source}", f"--output={data / 'prompts.json'}"]) == 0
    assert "theirs is not sotopia-lab/sotopia @ v0.1.4: figures may not be comparable" in capsys.readouterr().err

    with pytest.raises(BenchmarkError, match="has episodes of another"):
        evaluated("own", "predict_only=true")
    found = evaluated("theirs")
    digest = found["wording"]["sotopia"]
    assert len(digest) == 64
    assert found["details"]["sotopia"]["wording"] == digest
    assert found["details"]["sotopia"]["all"]["counts"]["judged"] == 4
    assert any(f"SHA-256 of the texts {digest}" in note for note in found["notes"]["sotopia"])
    assert "prompts.json" in found["files"]["sotopia"]
    schemas = [body["response_format"] for body in server.bodies if "response_format" in body]
    assert all("agent_1_evaluation" in json.dumps(schema) for schema in schemas)
    with pytest.raises(BenchmarkError, match=r"its texts are of version 0\.1\.4, but sotopia_rules is head"):
        evaluated("head", "sotopia_rules=head")

    content = json.loads((data / "prompts.json").read_text())
    content["texts"]["judge"] = content["texts"]["judge"].replace("Judge.", "Judge. Please.")
    (data / "prompts.json").write_text(json.dumps(content))
    edited = load_benchmark(data.parent).wording
    assert "edited by hand" in edited.about
    assert edited.sha256 != digest
    before = (tmp_path / "theirs" / "verdicts_sotopia.jsonl").read_text()
    with pytest.raises(BenchmarkError, match="has episodes of another"):
        evaluated("theirs")
    assert (tmp_path / "theirs" / "verdicts_sotopia.jsonl").read_text() == before
