"""The runner of benchmarks: who answers, what is kept, what is scored, and what results say."""

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from socialr1_jax.command_line import load_config
from socialr1_jax.config import ConfigError
from socialr1_jax.evaluation import evaluate as whole
from socialr1_jax.evaluation.reply_file import ReplyFile
from socialr1_jax.evaluation.rescore import rescore
from socialr1_jax.evaluation.respondents import Asked, Endpoint
from socialr1_jax.evaluation.runner import ask, requests_of, run_task
from socialr1_jax.evaluation.scoring import figures, score
from socialr1_jax.evaluation.task import (
    BenchmarkError,
    Data,
    Grade,
    Metric,
    Request,
    Task,
    accuracy,
    mean_metric,
)  # fmt: skip
from socialr1_jax.evaluation_config import TASKS, EvaluateConfig
from socialr1_jax.rewards.parsing import without_thoughts
from socialr1_jax.server_answers import Reply

ITEMS = [{"id": str(i), "gold": "AB"[i % 2]} for i in range(10)]
TOY = Task(
    name="hitom",  # a name that the settings know
    title="a toy", source="nowhere", licence="none",
    load=lambda folder: Data(items=ITEMS, files={"toy.json": "0" * 64}),
    requests=lambda data, protocol, seed: [
        Request(id=item["id"], item=item["id"], messages=({"role": "user", "content": f"{protocol} {item['id']}"},),
                gold=item["gold"], meta={}, max_new_tokens=8)
        for item in data.items
    ],
    grade=lambda request, protocol, reply: Grade(reply[:1], float(reply[:1] == request.gold)),
    metrics=lambda graded, protocol: {"accuracy": accuracy(graded)},
)  # fmt: skip


class Scripted:
    """Says `say(asked, sample)`, in reverse order; raises at a given call."""

    def __init__(self, say, fail_at=None):
        self.say, self.fail_at, self.calls = say, fail_at, []

    def identity(self):
        return {"model": "scripted"}

    def replies(self, asked) -> Iterator[tuple[int, int, Reply]]:
        for i, one in reversed(list(enumerate(asked))):
            for sample in one.samples:
                if len(self.calls) == self.fail_at:
                    raise KeyboardInterrupt
                self.calls.append((one.key, sample))
                yield i, sample, self.say(one, sample)

    def close(self):
        pass


def right_or_wrong(asked: Asked, sample: int) -> Reply:
    return Reply(f"<think>hm</think>{'AB'[(int(asked.key[-1]) + sample) % 2]}", "stop", 3)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.setattr(whole, "get_task", lambda name: TOY)
    monkeypatch.setattr("socialr1_jax.evaluation.rescore.get_task", lambda name: TOY)
    (tmp_path / "data" / "hitom").mkdir(parents=True)

    def config(**changes) -> EvaluateConfig:
        folders = {"data_dir": str(tmp_path / "data"), "output": str(tmp_path / "out")}
        return EvaluateConfig(**{"model": "m", "tasks": ("hitom",), "temperature": 1.0, **folders, **changes})

    return config


def run(config, respondent):
    with ReplyFile(Path(config.output) / "replies.jsonl", respondent.identity()) as replies:
        data = TOY.load(Path(config.data_dir))
        return run_task(TOY, data, requests_of(TOY, data, config), config, respondent, replies, lambda text: None)


def test_samples_are_averaged_and_voted(toy):
    result = run(toy(num_samples=3), Scripted(right_or_wrong))
    # samples 0 and 2 are right, sample 1 is wrong
    assert result.metrics["official/accuracy"] == (pytest.approx(2 / 3), pytest.approx(0.0), 10)
    assert result.metrics["social_r1/maj@3/accuracy"].value == 1.0
    assert result.metrics["official/pass@3/accuracy"].value == 1.0
    assert result.status["official"]["ok"] == 1.0
    assert result.replies == 60


def test_an_interrupted_run_asks_only_what_is_missing_and_ends_alike(toy, tmp_path):
    whole_run = run(toy(output=str(tmp_path / "whole"), num_samples=2), Scripted(right_or_wrong))
    first, second = Scripted(right_or_wrong, fail_at=13), Scripted(right_or_wrong)
    config = toy(num_samples=2)
    with pytest.raises(KeyboardInterrupt):
        run(config, first)
    with (tmp_path / "out" / "replies.jsonl").open("a") as file:
        file.write('{"key": "cut')  # a kill while a line was written
    again = run(config, second)
    assert set(first.calls).isdisjoint(second.calls)
    assert len(first.calls) + len(second.calls) == 40
    assert again.metrics == whole_run.metrics
    samples = [(folder / "samples_hitom.jsonl").read_text() for folder in (tmp_path / "whole", tmp_path / "out")]
    assert samples[0] == samples[1]
    third = Scripted(right_or_wrong, fail_at=0)
    assert run(config, third).metrics == again.metrics


def test_another_model_or_prompt_is_asked_anew(toy, tmp_path):
    asked = Asked("hitom/official/1", ({"role": "user", "content": "q"},), 8)
    with ReplyFile(tmp_path / "r.jsonl", {"model": "a"}) as replies:
        replies.add(asked, 0, Reply("x", "stop", 1))
        replies.add(asked, 1, Reply("", "error", 0))
    with ReplyFile(tmp_path / "r.jsonl", {"model": "a"}) as replies:
        assert replies.get(asked, 0) == Reply("x", "stop", 1)
        assert replies.get(asked, 1) is None  # what failed is tried again
        assert replies.get(Asked(asked.key, asked.messages, 9), 0) is None
    with ReplyFile(tmp_path / "r.jsonl", {"model": "b"}) as replies:
        assert replies.get(asked, 0) is None


@pytest.mark.parametrize(
    ("text", "reason", "status", "value"),
    [
        ("<think>x</think>A", "stop", "ok", 1.0),
        ("A", "stop", "ok", 1.0),
        ("<think>x</think>B", "stop", "ok", 0.0),
        ("<think>A is it, A", "length", "truncated", 0.0),
        ("<think>A is it, A", "stop", "truncated", 0.0),  # unclosed, however it ended
        ("<think>x</think>A and on", "length", "truncated", 1.0),
        ("x</think>A", "stop", "ok", 1.0),  # the template opened the thoughts
        ("<think>x</think>", "stop", "unparsable", 0.0),
        ("", "error", "error", math.nan),
        ("", "too_long", "too_long", math.nan),
        ("", "refused", "refused", math.nan),
    ],
)
def test_the_status_of_a_reply(text, reason, status, value):
    request = Request(id="0", item="0", messages=(), gold="A")
    found = score(TOY, "official", request, 0, Reply(text, reason, 1))
    assert found.status == status
    assert found.grade.value == pytest.approx(value, nan_ok=True)


def test_the_last_end_of_thoughts_counts():
    assert without_thoughts("<think>a</think>b</think> c ") == "c"
    assert without_thoughts("<think>a") is None


def test_a_mean_over_clusters_by_hand():
    assert mean_metric([1.0, 0.0, 1.0, 1.0]) == (0.75, pytest.approx(0.25), 4)  # s = 0.5, over sqrt(4)
    # two clusters with sums of deviations +0.5 and -0.5: sqrt(2 x 0.5 / 1) / 4
    value, stderr, n = mean_metric([1.0, 1.0, 1.0, 0.0], ["a", "a", "b", "b"])
    assert (value, n) == (0.75, 2)
    assert stderr == pytest.approx(math.sqrt(0.5 * 2 / 1) / 4)
    assert math.isnan(mean_metric([]).value)
    assert math.isnan(mean_metric([1.0]).stderr)


def test_results_say_what_was_done_and_scoring_again_gives_the_same(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "make_respondent", lambda config: Scripted(right_or_wrong))
    config = toy(limit=4)
    content = json.loads(whole.evaluate(config).read_text())
    assert content["results"]["hitom"]["official/accuracy"] == {"value": 1.0, "stderr": 0.0, "n": 4}
    assert content["reportable"] is False
    assert content["files"]["hitom"] == {"toy.json": "0" * 64}
    assert content["model"] == {"model": "scripted"}
    for name in ("results.md", "results.html"):
        assert "NOT REPORTABLE" in (tmp_path / "out" / name).read_text()
        assert "0.7083" in (tmp_path / "out" / name).read_text()  # the published figure beside it
    again = rescore(tmp_path / "out" / "samples_hitom.jsonl")
    assert again["results"] == content["results"]
    assert again["status"] == content["status"]
    with (tmp_path / "out" / "samples_hitom.jsonl").open("a") as file:
        file.write('{"task": "hitom"}\n')
    with pytest.raises(BenchmarkError, match="line 9: not a sample"):
        rescore(tmp_path / "out" / "samples_hitom.jsonl")


def test_prediction_alone_scores_nothing(toy, tmp_path):
    assert run(toy(predict_only=True), Scripted(right_or_wrong)).metrics == {}
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples_hitom.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert {row["value"] for row in rows} == {None}
    assert rescore(tmp_path / "out" / "samples_hitom.jsonl")["results"]["hitom"]["official/accuracy"]["value"] == 1.0


def test_data_that_are_missing_are_told_before_anything_is_asked(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "make_respondent", lambda config: pytest.fail("asked"))
    (tmp_path / "data" / "hitom").rmdir()
    with pytest.raises(BenchmarkError, match=r"hitom: there is no folder .*; get the data from nowhere"):
        whole.evaluate(toy())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["tasks=hitomm"], "unknown hitomm; the tasks are tombench"),
        (["num_samples=2", "temperature=0"], "equal replies"),
        (["base_url=http://x", "thinking=budget"], "an endpoint takes on or off"),
        (["batch_size=many"], "batch_size"),
    ],
)
def test_settings_that_do_not_fit_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(EvaluateConfig, None, ["model=m", *override])


def test_groups_name_their_tasks():
    assert load_config(EvaluateConfig, None, ["model=m", "tasks=all", "judge=j"]).task_names == TASKS
    assert load_config(EvaluateConfig, None, ["model=m", "tasks=fantom,static,fantom"]).task_names[0] == "fantom"


# ------------------------------------------------------------------------------------------------------- an endpoint


def loopback(reply) -> Iterator[ThreadingHTTPServer]:
    """An OpenAI-compatible endpoint on loopback: reply(server, body) is (status, message). `bodies`: what was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                self.server.bodies.append(body)
                status, message = reply(self.server, body)
            choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
            about = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            answer = about | {"choices": [choice], "usage": usage} if status == 200 else {"error": {"message": "no"}}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    lock = threading.Lock()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.bodies = []
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def server():
    """Repeats the prompt; `status` is what it answers with."""

    def reply(server, body):
        return server.status, {"content": "A " + body["messages"][-1]["content"]} | server.extra

    for httpd in loopback(reply):
        httpd.status, httpd.extra = 200, {}
        yield httpd


def endpoint(server, **changes) -> Endpoint:
    pytest.importorskip("openai")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    settings = {"model": "m", "base_url": url, "retries": 0, "temperature": 0.5, "call_timeout": 20.0, **changes}
    return Endpoint(EvaluateConfig(**settings))


def test_an_endpoint_answers_every_sample_with_a_seed_of_its_own(server):
    asked = [Asked(f"k{i}", ({"role": "user", "content": str(i)},), 8, (0, 1)) for i in range(6)]
    model = endpoint(server)
    found = {(i, s): reply for i, s, reply in model.replies(asked)}
    model.close()
    assert found[3, 1] == Reply("A 3", "stop", 5)
    assert len(found) == 12
    assert len({body["seed"] for body in server.bodies}) == 12
    assert {body["max_tokens"] for body in server.bodies} == {8}


def test_thoughts_that_a_server_cut_off_come_back(server):
    server.extra = {"reasoning_content": "hm"}
    model = endpoint(server, thinking="off")
    ((_, _, reply),) = model.replies([Asked("k", ({"role": "user", "content": "q"},), 8)])
    assert reply.text == "<think>hm</think>A q"
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("status", [401, 404, 400])
def test_an_endpoint_that_refuses_every_call_ends_the_run_with_the_reason(server, status):
    server.status = status
    asked = [Asked(f"k{i}", ({"role": "user", "content": "q"},), 8) for i in range(50)]
    with pytest.raises(BenchmarkError, match=f"answers {status}"):
        list(endpoint(server, concurrency=4).replies(asked))
    assert len(server.bodies) < 20


def test_a_call_that_fails_is_an_error_reply_and_is_asked_again(server, toy, tmp_path):
    server.status = 500
    model = endpoint(server)
    request = TOY.requests(TOY.load(tmp_path), "official", 0)[0]
    with ReplyFile(tmp_path / "r.jsonl", model.identity()) as replies:
        ((_, _, reply),) = ask("hitom", "official", [request], toy(), model, replies, lambda text: None)
    assert reply.finish_reason == "error"
    server.status = 200
    with ReplyFile(tmp_path / "r.jsonl", model.identity()) as replies:
        ((_, _, reply),) = ask("hitom", "official", [request], toy(), model, replies, lambda text: None)
    assert reply.text == "A official 0"


def test_results_with_calls_that_failed_are_not_reportable(server, toy, capsys):
    server.status = 500
    url = f"http://127.0.0.1:{server.server_port}/v1"
    results = json.loads(whole.evaluate(toy(base_url=url, retries=0)).read_text())
    assert not results["reportable"]
    assert results["notes"]["hitom"][0].startswith("20 of 20 replies failed (http_500 20: no); their items are")
    assert "NOT REPORTABLE: hitom: 20 of 20 replies failed" in " ".join(capsys.readouterr().out.split())
    assert (results["results"]["hitom"], results["failed"]) == ({}, {"hitom": "http_500 20: no"})
    server.status = 200
    assert json.loads(whole.evaluate(toy(base_url=url)).read_text())["reportable"]


def test_figures_without_replies_are_none():
    assert figures(TOY, "official", []) == {}
    assert Metric(1.0, 0.0, 1).n == 1
