"""The authors' wording as data: texts read out of made-up sources, prompts made of them, and files that do not fit."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from socialr1_jax.evaluation.metrics import Metric
from socialr1_jax.evaluation.request import Wording
from socialr1_jax.evaluation.results import headline_table
from socialr1_jax.evaluation.runner import TaskResult
from socialr1_jax.evaluation.task import BenchmarkError, Data
from socialr1_jax.evaluation.tasks import get_task, tactfultom
from socialr1_jax.evaluation.wording import content_of, note_on, with_wording, wording_of
from socialr1_jax.evaluation.wording_sources import SOURCES, AuthorsConstant, TextSource

main = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "benchmark_prompts.py"))["main"]

TOMBENCH = "".join(
    f'''
SystemEvaluatePrompt_{lang} = \\
"""Pick, {lang}.
Say [[A]]."""
SystemEvaluatePrompt_{lang}_cot = """Think {{}}, {lang}."""
UserEvaluatePrompt4Choices_{lang} = """S: {{story}} Q: {{question}}
A. {{choice_a}} B. {{choice_b}} C. {{choice_c}} D. {{choice_d}}"""
UserEvaluatePrompt2Choices_{lang} = "S: {{story}} Q: {{question}} A. {{choice_a}} B. {{choice_b}}"
'''
    for lang in ("en", "zh")
)
EMOBENCH_PROMPTS = """
sys:
  en: |
    Take part.
  zh: 参与
EU:
  en: |
    {scenario}
    How does {subject} feel?
    {emo_choices}
    Why does {subject}?
    {cause_choices}
  zh: "{scenario} {subject} {emo_choices} {cause_choices}"
EA:
  en: "{scenario} Best {q_type} of {subject}? {choices}"
  zh: "{scenario} {q_type} {subject} {choices}"
"""
EMOBENCH_ANSWERS = "\n".join(
    f"{name}:\n  en: >\n    {name} of\n    it\n  zh: '{name}'" for name in ("base", "cot", "EA", "EU", "reasoning")
)
EMOBENCH_FORMAT = """
import nothing_that_is_there

def get_response_format(task, lang, use_cot):
    res_format = '''
{statement}
    {{
    {conditions}
    }}'''
    return res_format.format(statement="", conditions="")
"""
MOTIVEBENCH = """
raise SystemExit("this was run")

def load_questions(input_file, order):
    for item in data:
        if args.cot:
            question_1 = "Why, with thoughts? " + item["Q 1"] + " Of: " + str(moved(item["O 1"], order)) + " Think."
            question_2 = "What, with thoughts? " + item["Q 2"] + " Of: " + str(moved(item["O 2"], order))
            question_3 = "Both, with thoughts? " + item["Q 3"] + " Of: " + str(moved(item["O 3"], order))
        else:
            question_1 = "Why? " + item["Q 1"] + "\\nOf: " + str(moved(item["O 1"], order)) + "\\nOne {letter}."
            question_2 = "What? " + item["Q 2"] + " Of: " + str(moved(item["O 2"], order))
            question_3 = "Both? " + item["Q 3"] + " Of: " + str(moved(item["O 3"], order))

def get_model_response(question):
    messages = [{"role": "system", "content": "Help."}, {"role": "user", "content": question}]
"""
TACTFULTOM = (
    """
class LLM:
    def generate_set(self, inputs):
        inputs[0][1]["content"] += replies[0] + "\\n\\nSo: "

def get_user_prompt(kind, context, question, options=None, information_prompt=None, cot=None):
    context_prompt = f"# About\\n{context}\\n\\n"
    if not information_prompt:
        information_prompt = ""
    question_prompt = f"# Asked\\n{question}\\n\\n"
    if options:
        options_text = "\\n".join([f"{i+1}. {option}" for i, option in enumerate(options)])
        option_prompt = f"# Of\\n{options_text}\\n\\n"
    else:
        option_prompt = ""
    cot_prompt = "By steps:\\n" if False else ""
    if cot:
        cot_prompt = "By steps:\\n"

def get_system_prompt(kind, cot):
"""
    + "".join(f'    system_prompt = "System {number}."\n' for number in range(8))
    + """

def get_llm_input(question, kind, context, cot):
    if "information" in question:
        information_prompt = f"# Known\\n{question['information']}\\n\\n"
    else:
        information_prompt = ""
        for key in keys:
            information_prompt = f"# Target\\n{question[key]}\\n\\n"
"""
)
HITOM = "{}\nStory:\n1 Ann came.\n2 Ann left.\nQuestion: Where?\nChoices: A. x, B. y\n\nNote: {{}}.\n"
SIMPLETOM = '''
def question_prompt(story_data, extra=None, final_prompt="Only say"):
    prompt = f"""Answer with {labels}.

{story_text}
{before}
Q: {make(question, choices)}

{final_prompt} {quoted}
"""
    return {"prompt": prompt}
'''
MADE_UP = {
    "tombench": {"prompts.py": TOMBENCH},
    "emobench": {
        "src/utils.py": EMOBENCH_FORMAT,
        "src/configs/prompts.yaml": EMOBENCH_PROMPTS,
        "src/configs/response.yaml": EMOBENCH_ANSWERS,
    },
    "motivebench": {"client_eval.py": MOTIVEBENCH},
    "tactfultom": {"code/get_original_results.py": TACTFULTOM},
    "hitom": {
        f"Hi-ToM_prompts/No_Tell/{folder}/length_1/sample_1/order_0.txt": HITOM.format(first)
        for folder, first in (("CoT", "Think."), ("MC", "Answer."))
    },
    "simpletom": {
        "inference/utils.py": SIMPLETOM,
        "inference/prompts.py": "COT_PROMPT = 'Think ' + \\\n    'first, say '",
        "inference/run_inference.py": 'def run_qa(models):\n    ask([{"role": "system", "content": "Help."}])',
    },
}


def checkout(folder, name, **changed):
    for file, content in {**MADE_UP[name], **changed}.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def run(folder, name, output, capsys):
    code = main([f"--benchmark={name}", f"--source={folder}", f"--output={output}"])
    return code, capsys.readouterr()


EU = {
    "part": "EU",
    "qid": "1",
    "language": "en",
    "scenario": "S {subject}",
    "subject": "Jo",
    "coarse_category": "c",
    "emotion_choices": ["joy", "fear"],
    "emotion_label": "joy",
    "cause_choices": ["x", "y"],
    "cause_label": "y",
}
EA = {
    "part": "EA",
    "qid": "1",
    "language": "zh",
    "scenario": "景",
    "subject": "某",
    "category": "c",
    "question type": "Action",
    "choices": ["x", "y"],
    "label": "y",
}
SHOWN = {"story": "T", "question": "Who?", "gold": "A"}
FOUR, TWO = ("Ann", "Ben", "Cy", "Di"), ("是", "否")
TOM = {
    "task": "False Belief Task",
    "number": 1,
    "abilities": ["belief: x"],
    "answer": "A",
    "en": SHOWN | {"options": FOUR},
    "zh": SHOWN | {"options": TWO},
    "written": {"en": ["A.Ann", *FOUR[1:]], "zh": [*TWO, "nan", "nan"]},
}
MOTIVES = {"source": "Blog", "idx": 7} | {
    key: value
    for number, field in enumerate(("Motivation", "Behavior", "Motivation and Behavior"), 1)
    for key, value in {
        f"{field} Reasoning Question": f"Q{number}",
        f"Options {number}": [f"{letter}. it's {letter.lower()}" for letter in "ABCDEF"],
        f"Correct Answer {number}": "A",
    }.items()
}
LIE = {"set_id": "s", "file": "f", "lie_type": "altruistic", "full_context": "A: hi."}
LIE |= {field: [] for field, _ in tactfultom.CATEGORIES.values()} | {"justificationQA": []}
LIES = LIE | {
    "beliefQAs": [
        {"q_id": "b", "question": "Why?", "correct_answer": "r", "wrong_answer": "w", "fact_question_truth": "So?"}
    ],
    "infoAccessibilityQAs_binary": [
        {"q_id": "i", "question": "Knows?", "correct_answer": "yes", "information": "I {x}"}
    ],
}
MOVED = {
    "sample_id": 3,
    "story_id": "t",
    "story": "1 Ann came.\n\n***",
    "question": "Where?",
    "options": ["x", "y"],
    "answer": "y",
    "question_order": 0,
    "story_length": 1,
    "deception": False,
}
KNOWS = {
    "id": "k_aware",
    "set": "simpletom",
    "type": "mental_state",
    "story_id": "k",
    "story": "T.",
    "question": "Q?",
    "choices": {"text": ["Yes", "No"], "label": ["A", "B"]},
    "answerKey": "B",
}
MOTIVE_OPTIONS = str([f"{letter}. it's {letter.lower()}" for letter in "ABCDEF"])
ASKED = {  # benchmark -> (items, id of a prompt -> the messages that the made-up authors would send)
    "emobench": (
        [EU, EA],
        {
            "EU-en-1": [
                "Take part.\n\nbase of it\n\n    {\n    EU of it\n\n    }",
                "S {subject}\nHow does Jo feel?\nA) joy\nB) fear\nWhy does Jo?\nA) x\nB) y\n",
            ],
            "EA-zh-1": ["参与\nbase\n    {\n    EA\n    }", "景 Action 某 A) x\nB) y"],
        },
    ),
    "motivebench": (
        [MOTIVES],
        {
            "Blog-7-motivation-order1": ["Help.", f"Why? Q1\nOf: {MOTIVE_OPTIONS}\nOne {{letter}}."],
            "Blog-7-both-order1": ["Help.", f"Both? Q3 Of: {MOTIVE_OPTIONS}"],
        },
    ),
    "tactfultom": (
        [LIES],
        {
            "i-yes_no": ["System 0.", "# About\nA: hi.\n\n# Known\nI {x}\n\n# Asked\nKnows?\n\n"],
            "b-free": ["System 1.", "# About\nA: hi.\n\n# Target\nSo?\n\n# Asked\nWhy?\n\n"],
        },
    ),
    "hitom": (
        [MOVED],
        {"CoTP-3": ["Think.\nStory:\n1 Ann came.\nQuestion: Where?\nChoices: A. x, B. y\n\nNote: {}.\n"]},
    ),
    "simpletom": (
        [KNOWS],
        {
            "k_aware": [
                "Help.",
                'Answer with (A) or (B).\n\nT.\n\nQ: Q? \n(A) Yes \n(B) No\n\nOnly say "(A)" or "(B)"\n',
            ]
        },
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_prompts_are_in_the_authors_words(tmp_path, name):
    content = content_of(name, checkout(tmp_path, name))
    assert set(content["files"]) == set(MADE_UP[name])
    items, prompts = ASKED[name]
    wording = Wording(content["texts"], content["sha256"])
    asked = {
        one.id: one for one in get_task(name).requests(Data(items=items, files={}, wording=wording), "official", 0)
    }
    for id, texts in prompts.items():
        assert [message["content"] for message in asked[id].messages] == texts
    own = get_task(name).requests(Data(items=items, files={}), "official", 0)
    assert [(one.id, one.gold, one.meta) for one in own] == [(one.id, one.gold, one.meta) for one in asked.values()]


@pytest.mark.parametrize(
    ("name", "protocol", "id", "messages"),
    [
        ("tombench", "official_cot", "False Belief Task-1-zh-try1", ["Think {}, zh.", None]),
        (
            "emobench",
            "official_cot",
            "EA-zh-1",
            ["参与\ncot\n    {\n    reasoning,\nEA\n    }", "景 Action 某 A) x\nB) y"],
        ),
        (
            "motivebench",
            "official_cot",
            "Blog-7-motivation-order1",
            ["Help.", f"Why, with thoughts? Q1 Of: {MOTIVE_OPTIONS} Think."],
        ),
        ("motivebench", "official_18", "Blog-7-both-order1", ["Help.", f"Both? Q3 Of: {MOTIVE_OPTIONS}"]),
        (
            "tactfultom",
            "official_cot",
            "b-free",
            ["System 5.", "# About\nA: hi.\n\n# Target\nSo?\n\n# Asked\nWhy?\n\nBy steps:\nIt {x}\n\nSo: "],
        ),
        (
            "hitom",
            "official_vp",
            "VP-3",
            ["Answer.\nStory:\n1 Ann came.\nQuestion: Where?\nChoices: A. x, B. y\n\nNote: {}.\n"],
        ),
        (
            "simpletom",
            "official_cot",
            "k_aware",
            [
                "Help.",
                'Answer with (A) or (B).\n\nT.\n\nQ: Q? \n(A) Yes \n(B) No\n\nThink first, say  "(A)" or "(B)"\n',
            ],
        ),
    ],
)
def test_other_protocols_use_the_authors_words(tmp_path, name, protocol, id, messages):
    """Of two calls, the second one: it repeats the first with the reply "It {x}" behind it."""
    content, task = content_of(name, checkout(tmp_path, name)), get_task(name)
    items = {"tombench": [TOM], "hitom": [MOVED | {"vp_answer": "x"}]}.get(name) or ASKED[name][0]
    data = Data(items=items, files={}, wording=Wording(content["texts"], content["sha256"]))
    one = next(one for one in task.requests(data, protocol, 0) if one.id == id)
    if one.follow_up:
        one = task.follow_up(one, protocol, "It {x}")
    sent = [message["content"] for message in one.messages]
    assert [text for text, known in zip(sent, messages, strict=True) if known] == [known for known in messages if known]


@pytest.mark.parametrize("chinese", [TWO, FOUR], ids=len)
def test_tombench_shows_options_as_the_authors_do(tmp_path, chinese):
    """As many in both languages as the Chinese row has."""
    item = TOM | {"zh": SHOWN | {"options": chinese}}
    content = content_of("tombench", checkout(tmp_path, "tombench"))
    task, wording = get_task("tombench"), Wording(content["texts"], content["sha256"])
    asked = task.requests(Data(items=[item], files={}, wording=wording), "official", 0)
    own = task.requests(Data(items=[item], files={}), "official", 0)
    assert [(one.id, one.gold, one.meta) for one in asked] == [(one.id, one.gold, one.meta) for one in own]
    for one in asked:
        system, user = (message["content"] for message in one.messages)
        language, shown = one.meta["language"], one.meta["shown"]
        assert len(shown) == len(chinese)
        texts = dict(zip("ABCD", TOM["written"][language], strict=True))
        listed = [f"{letter}. {texts[behind]}" for letter, behind in shown.items()]
        assert system == f"Pick, {language}.\nSay [[A]]."
        assert user == f"S: T Q: Who?{' ' if len(shown) == 2 else chr(10)}{' '.join(listed)}"


def test_tombench_has_no_text_for_three_options(tmp_path):
    content = content_of("tombench", checkout(tmp_path, "tombench"))
    item = TOM | {language: SHOWN | {"options": FOUR[:3]} for language in ("en", "zh")}
    data = Data(items=[item], files={}, wording=Wording(content["texts"], ""))
    with pytest.raises(
        BenchmarkError, match=r"False Belief Task-1 \(en\): 3 options; the authors' prompts have two or"
    ):
        get_task("tombench").requests(data, "official", 0)


@pytest.mark.parametrize(
    ("code", "fields", "text"),
    [
        ("x = 'plain {}'", (), "plain {{}}"),
        ("x = 'a {b} {{c}} {b}'", ("b",), "a {b} {{c}} {b}"),
        ("x = f'a {who} {{c}}'", ("b",), "a {b} {{c}}"),
        ("x = 'a %s, 100 %% of %s' % (f(), g)", ("b", "c"), "a {b}, 100 % of {c}"),
        ("x = 'a ' + one['k'] + ('{' + f'{two}')", ("b", "c"), "a {b}{{{c}"),
        ("x: str = 'a' 'b'", (), "ab"),
        ("if (x := 'a'): pass", (), "a"),
        ("call(y, x='a')", (), "a"),
        ("y['x'] = 'a'\nx = other", (), "a"),
        ("class C:\n    x = 'a'\n    def f(self):\n        x = 'b'", (), "a"),
    ],
)
def test_the_forms_of_a_text(tmp_path, code, fields, text):
    (tmp_path / "a.py").write_text(code)
    source = TextSource(version="who/what @ 123", known="", places=[AuthorsConstant("a.py", "x", {"t": fields})])
    assert source.read(tmp_path)[0] == {"t": text}


def test_fields_are_filled_as_they_are():
    wording = Wording({"t": "{a}{{b}} }} {b} {", "u": ""}, "")
    assert wording.text("t", a="{b}", b="}}") == "{b}{b} } }} {"
    assert wording.text("u", a="") == ""


PROMPTS, UTILS, CLIENT = "prompts.py", "src/utils.py", "client_eval.py"


@pytest.mark.parametrize(
    ("name", "changed", "reason"),
    [
        (
            "tombench",
            {PROMPTS: TOMBENCH.replace("SystemEvaluatePrompt_zh =", "System_zh =")},
            "prompts.py: 'SystemEvaluatePrompt_zh' has 0 texts instead of 1",
        ),
        (
            "tombench",
            {PROMPTS: TOMBENCH.replace("{choice_d}", "{choice_e}")},
            "prompts.py: 'UserEvaluatePrompt4Choices_en' has the field 'choice_e'",
        ),
        (
            "tombench",
            {PROMPTS: TOMBENCH.replace(" D. {choice_d}", "")},
            "prompts.py: 'UserEvaluatePrompt4Choices_en' has no field 'choice_d'",
        ),
        ("tombench", {PROMPTS: TOMBENCH.replace("{choice_d}", "{choice_d")}, "'UserEvaluatePrompt4Choices_en'"),
        ("tombench", {PROMPTS: "x = ("}, "prompts.py: cannot be read (SyntaxError"),
        ("tombench", {PROMPTS: "x = 1\0"}, "prompts.py: cannot be read ("),
        ("tombench", {PROMPTS: "-" * 100_000 + "1"}, "prompts.py: cannot be read ("),
        ("emobench", {"src/configs/prompts.yaml": "sys: ["}, "prompts.yaml: cannot be read (ParserError"),
        ("emobench", {"src/configs/prompts.yaml": "- sys"}, "prompts.yaml: 'sys.en' has 0 texts instead of 1"),
        (
            "emobench",
            {UTILS: EMOBENCH_FORMAT.replace("def get_", "def give_")},
            "utils.py: 'get_response_format.res_format' has 0 texts",
        ),
        (
            "motivebench",
            {CLIENT: MOTIVEBENCH.replace('question_2 = "What? ', 'question_4 = "What? ')},
            "client_eval.py: 'load_questions.question_2' has 1 texts instead of 2",
        ),
        (
            "motivebench",
            {CLIENT: MOTIVEBENCH.replace(' + "\\nOf: " + str(moved(item["O 1"], order))', "")},
            "client_eval.py: 'load_questions.question_1' has 1 fields instead of 2",
        ),
        ("hitom", {next(iter(MADE_UP["hitom"])): "Think.\nTale:\n"}, "order_0.txt: "),
    ],
)
def test_a_text_that_moved_is_one_line(tmp_path, capsys, name, changed, reason):
    code, said = run(checkout(tmp_path, name, **changed), name, tmp_path / "out.json", capsys)
    assert (code, said.out) == (2, "")
    assert said.err.count("\n") == 1
    assert reason in said.err
    assert f"give a checkout of {SOURCES[name].version}" in said.err
    assert not (tmp_path / "out.json").exists()


def test_folder_without_a_checkout_is_one_line(tmp_path, capsys):
    code, said = run(tmp_path / "none", "hitom", tmp_path / "out.json", capsys)
    assert code == 2
    assert "order_0.txt: there is no such file" in said.err
    assert said.err.count("\n") == 1
    with pytest.raises(SystemExit):
        run(tmp_path, "fantom", tmp_path / "out.json", capsys)
    assert "'fantom' is not one of tombench" in capsys.readouterr().err


def test_only_an_unedited_file_is_replaced(tmp_path, capsys):
    source, output = checkout(tmp_path / "theirs", "hitom"), tmp_path / "hitom" / "prompts.json"
    for _ in range(2):
        code, said = run(source, "hitom", output, capsys)
        assert code == 0
        assert said.out.startswith("2 texts of ying-hui-he/Hi-ToM_dataset @ 56dda76 in ")
        assert "is not ying-hui-he/Hi-ToM_dataset @ 56dda76: figures may not be comparable" in said.err
    written = output.read_text()
    for content in (written.replace("Think.", "Think!"), '{"benchmark": "hitom"}', "[]", "mine"):
        output.write_text(content)
        code, said = run(source, "hitom", output, capsys)
        assert (code, output.read_text()) == (2, content)
        assert "is there and is not an unedited prompts.json of this program" in said.err


def made(folder, name="hitom"):
    content = content_of(name, checkout(folder / "theirs", name))
    return content, folder / "prompts.json"


def loaded(file, content, name="hitom"):
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return with_wording(name, file.parent, Data(items=(), files={}))


def test_the_wording_is_named_with_its_hash(tmp_path, monkeypatch):
    content, file = made(tmp_path)
    monkeypatch.setitem(
        SOURCES, "hitom", TextSource(version="a/b @ 1", known=content["sha256"], places=SOURCES["hitom"].places)
    )
    data = loaded(file, content)
    assert note_on("hitom", data) == f"official: the wording of a/b @ 1 (SHA-256 of the texts {content['sha256']})"
    assert wording_of("hitom", data) == content["sha256"]
    assert list(data.files) == ["prompts.json"]
    content["texts"]["user"] += "Be quick."
    edited = loaded(file, content)
    assert edited.wording.text("user", story="", question="", choices="").endswith("Be quick.")
    assert "edited by hand: figures may not be comparable" in note_on("hitom", edited)
    assert wording_of("hitom", edited) in note_on("hitom", edited)
    assert wording_of("hitom", edited) != content["sha256"]
    other = loaded(file, content | {"sha256": wording_of("hitom", edited)})
    assert "of another version than a/b @ 1" in note_on("hitom", other)
    file.unlink()
    own = with_wording("hitom", tmp_path, Data(items=(), files={}))
    assert own.wording is None
    assert note_on("hitom", own).startswith("official: own wording, not that of a/b @ 1")
    assert wording_of("hitom", own) == "own wording"
    assert wording_of("socialiqa", own) == ""


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"benchmark": "tombench"}, "is for 'tombench', not hitom"),
        ({"benchmark": None}, "is for None, not hitom"),
        ({"texts": {"user": "{story} {question} {choices}"}}, "the text 'user_vp' is missing"),
        ({"texts": {"user": 5, "user_vp": ""}}, "the text 'user' is missing"),
        ({"texts": ["user"]}, "has no object 'texts'"),
        ({"texts": {"user": "{story} {question}", "user_vp": ""}}, "the text 'user' has the fields"),
        ({"texts": {"user": "{story} {question} {choices} {x}", "user_vp": ""}}, "the text 'user' has the fields"),
        ("{", "is not JSON, or cut"),
        ("[]", "does not hold a JSON object"),
    ],
)
def test_unfit_file_is_one_line(tmp_path, changed, reason):
    content, file = made(tmp_path)
    with pytest.raises(BenchmarkError) as error:
        loaded(file, changed if isinstance(changed, str) else content | changed)
    assert reason in str(error.value)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_text_and_a_folder_are_refused(tmp_path):
    content, file = made(tmp_path)
    content["texts"]["usre"] = "x"
    with pytest.raises(BenchmarkError, match="the text 'usre' is not one of hitom's, which are 'user', 'user_vp'"):
        loaded(file, content)
    file.unlink()
    file.mkdir()
    with pytest.raises(BenchmarkError, match="is a folder"):
        with_wording("hitom", tmp_path, Data(items=(), files={}))


def test_tables_name_the_wording():
    figures = {"official/accuracy": Metric(0.5, 0.1, 10), "social_r1/accuracy": Metric(0.5, 0.1, 10)}
    status = {"official": {"ok": 1.0}, "social_r1": {"ok": 1.0}}
    results = [
        TaskResult(task=task, metrics=figures, status=status, replies=10, wording=wording)
        for task, wording in (("hitom", "own wording"), ("simpletom", "0123456789abcdef"), ("socialiqa", ""))
    ]
    head, rows = headline_table(results)
    assert head[-2:] == ("wording", "replies not ok")
    assert [row[-2] for row in rows] == ["own wording", "", "01234567", "", "", ""]
    assert "wording" not in headline_table(results[2:])[0]
