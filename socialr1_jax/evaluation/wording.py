"""Prompts in the benchmark authors' wording, stored as data in `prompts.json` beside a benchmark's files.

This package contains none of their texts: scripts/benchmark_prompts.py extracts them from their repositories, at the
places listed in `wording_sources.py`. Fields are written `{name}`; `{{` and `}}` are literal braces.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from socialr1_jax.config.sections import Section
from socialr1_jax.data.tables import listed
from socialr1_jax.evaluation.request import Wording
from socialr1_jax.evaluation.task import BenchmarkError, Data
from socialr1_jax.evaluation.wording_sources import SOURCES, TextSource, fields_of
from socialr1_jax.runtime.files import read_json, sha256, write_json
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import print_result, printable, remark

FILE = "prompts.json"
OWN_WORDING = "own wording"
_SHOWN = 8  # digits of a hash in tables


class WordingConfig(Section):
    """Settings of `socialr1 prompts`: benchmark, source and output."""

    benchmark: str = Field(description=f"name of the benchmark: {', '.join(SOURCES)}")
    source: str = Field(min_length=1, description="folder of the authors' repository, at the version in the docs")
    output: str = Field(min_length=1, description="file to write: prompts.json in the benchmark's folder of data_dir")

    @field_validator("benchmark")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in SOURCES:
            raise ValueError(f"{name!r} is not one of {', '.join(SOURCES)}")
        return name


def write_wording(config: WordingConfig) -> None:
    """Write prompts.json and print a summary. Raises BenchmarkError as `content_of`, and ForeignFile."""
    output = Path(config.output)
    refuse_foreign_file(output, _is_unedited, "an unedited prompts.json")
    content = content_of(config.benchmark, Path(config.source))
    write_json(output, content)
    print_result(f"{len(content['texts'])} texts of {content['source']} in {output}, SHA-256 {content['sha256']}")
    if content["sha256"] not in {source.known for source in SOURCES[config.benchmark].versions}:
        remark(f"{config.source} is not {content['source']}: figures may not be comparable")


def content_of(benchmark: str, checkout: Path) -> dict[str, Any]:
    """Return the content of prompts.json: the texts and their SHA-256, and the authors' files with their SHA-256.

    Raises BenchmarkError naming a file or text that is missing in the checkout.
    """
    texts, files, source = SOURCES[benchmark].read(checkout)
    return {
        "benchmark": benchmark,
        "source": source.version,
        "files": files,
        "sha256": texts_sha256(texts),
        "texts": texts,
    }


def texts_sha256(texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of the texts by name, independent of their order."""
    return hashlib.sha256(json.dumps(dict(texts), sort_keys=True).encode()).hexdigest()


def _is_unedited(file: Path) -> bool:
    content = read_json(file)
    return content["benchmark"] in SOURCES and content["sha256"] == texts_sha256(content["texts"])


def with_wording(name: str, folder: Path, data: Data) -> Data:
    """Add the texts of a benchmark's prompts.json to its data, if the file exists.

    Raises BenchmarkError naming the file and its fault.
    """
    path = folder / FILE
    if name not in SOURCES or not path.exists():
        return data
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{printable(str(error), 300)}; {_again(name)}") from None
    texts = _checked(content, name, path)
    digest = texts_sha256(texts)
    about = _origin(SOURCES[name].of_texts(texts), digest, content.get("sha256"))
    return replace(data, wording=Wording(texts, digest, about), files={**data.files, path.name: sha256(path)})


def wording_of(name: str, data: Data) -> str:
    """Return "own wording", the SHA-256 of the authors' texts, or "" for a benchmark without authors' texts."""
    if name not in SOURCES:
        return ""
    return data.wording.sha256 if data.wording else OWN_WORDING


def note_on(name: str, data: Data, protocols: Sequence[str] = ("official",)) -> str:
    """Return a remark for the results on the wording of these protocols' prompts."""
    of = ", ".join(protocols)
    if data.wording:
        return f"{of}: {data.wording.about} (SHA-256 of the texts {data.wording.sha256})"
    versions = " or ".join(source.version for source in SOURCES[name].versions)
    return f"{of}: {OWN_WORDING}, not that of {versions} (no {FILE} beside the data)"


def shown_wording(wording: str, protocol: str) -> str:
    """Return the table cell of a wording: "own wording", first digits of the hash, or "" for the cards' prompt."""
    if not wording or protocol == "social_r1":
        return ""
    return OWN_WORDING if wording == OWN_WORDING or protocol == "paper" else wording[:_SHOWN]


def _origin(source: TextSource, digest: str, written: Any) -> str:
    if digest == source.known:
        return f"the wording of {source.version}"
    which = f"is of another version than {source.version}" if digest == written else "was edited by hand"
    return f"the wording of a {FILE} that {which}: figures may not be comparable"


def _again(name: str) -> str:
    return f"create it with socialr1 prompts --benchmark {name} --source CHECKOUT --output FILE"


def _checked(content: Mapping[str, Any], name: str, path: Path) -> dict[str, str]:
    """Return the texts after checking that all of the benchmark's texts are there, with the expected fields."""
    if (benchmark := content.get("benchmark")) != name:
        raise BenchmarkError(f"{path}: is for {printable(repr(benchmark), 60)}, not {name}; {_again(name)}")
    texts = content.get("texts")
    if not isinstance(texts, dict):
        raise BenchmarkError(f"{path}: has no object 'texts'; {_again(name)}")
    expected = SOURCES[name].of_texts(texts).fields
    if missing := [text for text in expected if not isinstance(texts.get(text), str)]:
        raise BenchmarkError(f"{path}: the text {missing[0]!r} is missing; {_again(name)}")
    if unknown := [text for text in texts if text not in expected]:
        named = printable(repr(unknown[0]), 60)
        raise BenchmarkError(f"{path}: the text {named} is not one of {name}'s, which are {listed(expected)}")
    for text, fields in expected.items():
        if (present := fields_of(texts[text])) != set(fields):
            has, needs = (listed(sorted(names)) or "none" for names in (present, fields))
            raise BenchmarkError(f"{path}: the text {text!r} has the fields {has} instead of {needs}")
    return texts
