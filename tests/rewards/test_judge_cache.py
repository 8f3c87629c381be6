"""The judge's cache: what makes a key, that files are whole and checked, and that processes can share a folder."""

import json
import subprocess
import sys
import threading

import pytest

from socialr1_jax.rewards.judge_cache import JudgeCache, answer_key

MESSAGES = [{"role": "system", "content": "rubric"}, {"role": "user", "content": "thoughts"}]
ASKED = {
    "judge": "endpoint",
    "model": "m",
    "version": "1",
    "messages": MESSAGES,
    "parameters": {"temperature": 0.0, "max_tokens": 64},
}
KEY = answer_key(**ASKED)


@pytest.mark.parametrize(
    "changed",
    [
        {"judge": "local"},
        {"model": "m2"},
        {"version": "2"},
        {"messages": MESSAGES[::-1]},
        {"messages": [MESSAGES[0], {"role": "user", "content": "thoughts "}]},
        {"parameters": {"temperature": 0.1, "max_tokens": 64}},
        {"parameters": {"temperature": 0.0, "max_tokens": 64, "seed": 1}},
    ],
)
def test_everything_that_is_asked_makes_another_key(changed):
    assert answer_key(**ASKED | changed) != KEY


def test_key_is_equal_in_every_process_and_order():
    turned = {"max_tokens": 64, "temperature": 0.0}
    assert answer_key(**ASKED | {"parameters": turned}) == KEY
    command = f"from socialr1_jax.rewards.judge_cache import answer_key; print(answer_key(**{ASKED!r}))"
    assert subprocess.check_output([sys.executable, "-c", command], text=True).strip() == KEY


@pytest.mark.parametrize("reply", ["", "plain", '{"total": 0.5}', "line\nline ü 汉 \u2028 😀 \ud800", "x" * 100_000])
def test_what_is_stored_comes_back(tmp_path, reply):
    JudgeCache(tmp_path).put(KEY, reply)
    assert JudgeCache(tmp_path).get(KEY) == reply
    assert JudgeCache(tmp_path).get("0" * 64) is None
    assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.json")] == [f"{KEY[:2]}/{KEY}.json"]


def test_there_are_at_most_256_folders(tmp_path):
    cache = JudgeCache(tmp_path)
    for number in range(40):
        cache.put(answer_key(**ASKED | {"model": str(number)}), "r")
    assert all(len(folder.name) == 2 for folder in tmp_path.iterdir())
    assert len(list(tmp_path.rglob("*.json"))) == 40


def test_a_missing_folder_is_an_empty_cache(tmp_path):
    assert JudgeCache(tmp_path / "a" / "b").get(KEY) is None
    assert not (tmp_path / "a").exists()


def test_cut_file_counts_as_absent_and_is_replaced(tmp_path):
    cache = JudgeCache(tmp_path)
    cache.put(KEY, "the reply")
    (file,) = tmp_path.rglob("*.json")
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        assert cache.get(KEY) is None, length
    cache.put(KEY, "another")
    assert cache.get(KEY) == "another"


def test_a_garbled_file_counts_as_absent(tmp_path):
    cache = JudgeCache(tmp_path)
    cache.put(KEY, "the reply")
    (file,) = tmp_path.rglob("*.json")
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert cache.get(KEY) in (None, "the reply"), place
    stored = json.loads(whole)
    for content in (
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        *(
            json.dumps(part).encode()
            for part in (
                stored | {"reply": "the reply."},
                stored | {"reply": None},
                stored | {"key": "0" * 64},
                {"key": KEY, "reply": "the reply"},
            )
        ),
    ):
        file.write_bytes(content)
        assert cache.get(KEY) is None, content[:40]
    file.write_bytes(whole)
    assert cache.get(KEY) == "the reply"


def test_a_copy_under_another_name_is_not_taken(tmp_path):
    cache = JudgeCache(tmp_path)
    cache.put(KEY, "the reply")
    (file,) = tmp_path.rglob("*.json")
    other = KEY[:2] + "0" * 62
    file.rename(file.with_name(f"{other}.json"))
    assert cache.get(other) is None


def test_full_disk_and_blocked_folder_lose_no_answer(tmp_path):
    (tmp_path / KEY[:2]).write_text("a file where the folder should be")
    cache = JudgeCache(tmp_path)
    assert cache.get(KEY) is None
    with pytest.raises(OSError):
        cache.put(KEY, "reply")


WRITER = """
import sys
from socialr1_jax.rewards.judge_cache import JudgeCache
cache = JudgeCache(sys.argv[1])
for number in range(60):
    key = f"{number % 3:064x}"
    reply = sys.argv[2] * (1 + number * 997 % 30_000)
    cache.put(key, reply)
    read = cache.get(key)
    assert read and len(set(read)) == 1, (key, read and read[:50])
"""


def test_concurrent_writers_never_leave_half_a_file(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), letter]) for letter in "ab"]
    cache = JudgeCache(tmp_path)
    errors = []

    def write(letter):
        try:
            for number in range(60):
                cache.put(f"{number % 3:064x}", letter * (1 + number * 991 % 30_000))
                read = cache.get(f"{number % 3:064x}")
                assert read
                assert len(set(read)) == 1
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "cd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert errors == []
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 3  # and no temporary file
