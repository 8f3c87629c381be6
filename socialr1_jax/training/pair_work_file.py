"""The work file of a build of pairs: one line per response or verdict, from which an interrupted build resumes."""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from socialr1_jax.config.pairs import PairsConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.examples import Example
from socialr1_jax.data.tables import DataError
from socialr1_jax.rewards.verdict import Verdict
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.ownership import begins_as, open_own, refuse_foreign_file

_BEGIN = b'{"sampled_by": '


class WorkFile:
    """A cache of responses and verdicts, appended line by line. The first line holds the sampling settings.

    A truncated last line is dropped. Raises ConfigError if the file's samples have other settings, DataError if
    another line is damaged.
    """

    _file: IO[bytes] | None = None  # opened by the first write

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.samples: dict[tuple[str, int], str] = {}
        self.verdicts: dict[str, Verdict] = {}
        self._path = path
        refuse_foreign_file(path, partial(begins_as, begin=_BEGIN), "a work file")
        content = path.read_bytes() if path.exists() else b""
        self._lines = content[: content.rfind(b"\n") + 1] or (json.dumps({"sampled_by": settings}) + "\n").encode()
        for number, text in enumerate(self._lines.splitlines(), 1):
            try:
                line = json.loads(text)
                if number == 1:
                    before = line["sampled_by"]
                    differing = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
                elif "judged" in line:
                    self.verdicts[line["judged"]] = Verdict(float(line["score"]), stages=line["stages"])
                else:
                    self.samples[line["question"], line["sample"]] = line["response"]
            except (ValueError, KeyError, TypeError, AttributeError):
                raise DataError(f"{path} row {number}: not a line of a work file; remove the file") from None
            if differing:
                raise ConfigError(
                    f"{path} holds the samples of other settings ({', '.join(sorted(differing))}): give another output,"
                    " or remove that file"
                )

    def close(self) -> None:
        if self._file:
            self._file.close()

    def add_sample(self, question: str, sample: int, response: str) -> None:
        self._add({"question": question, "sample": sample, "response": response})
        self.samples[question, sample] = response

    def add_verdict(self, key: str, verdict: Verdict) -> None:
        self._add({"judged": key, "score": verdict.score, "stages": dict(verdict.stages)})
        self.verdicts[key] = verdict

    def _add(self, line: Mapping[str, Any]) -> None:
        if self._file is None:
            write_whole(self._path, self._lines)
            self._file = open_own(self._path, "ab", buffering=0)
        self._file.write((json.dumps(line) + "\n").encode())


def sample_settings(config: PairsConfig) -> dict[str, Any]:
    """Return the settings that determine a sample, given its question and number; `group_size` may grow later."""
    if config.source == "responses":
        return {"source": "responses"}
    weights = sorted(Path(config.policy).glob("*.safetensors"))
    files = {file.name: [file.stat().st_size, file.stat().st_mtime_ns] for file in weights}
    return {
        "source": "policy",
        "policy": config.policy,
        "policy's weights": files,
        "dtype": config.dtype,
        "seed": config.seed,
        **config.sampling.draws,
    }


def question_key(example: Example) -> str:
    """Return the key of a question in the work file, a hash of its id and texts."""
    return hash_of(example.id, example.story, example.question, example.options, *map(dict, example.messages))


def hash_of(*parts: object) -> str:
    """Return a SHA-256 hash of JSON values, cut to 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
