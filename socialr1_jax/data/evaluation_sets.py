"""Benchmark files whose authors forbid training on them, known by their checksums, and the refusal to train on one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from socialr1_jax.data.tables import DataError, source_files
from socialr1_jax.runtime.files import sha256

_TOLD_DIGITS = 12
_LARGEST = 32 * 2**20  # bytes; every file of the table is smaller, and a larger one need not be read

# Benchmark -> SHA-256 -> file. ToMBench as of zhchen18/ToMBench @ 4f491f0; FANToM: the official archive, and
# the set that is put together again from mirrors; TactfulToM as of nii-cl/tactful-tom @ 0881b0d, and the first nine
# conversations of its first file. Copies that were changed, a line end included, are not recognised.
EVALUATION_SETS = {
    "ToMBench": {
        "c99f365b6d3d0e982228623d4328afbafe11cf9a8da3a2838ed6c846e4f154d0": "Ambiguous Story Task.jsonl",
        "cb68348ef3eb53d7c6bf0e426b9279856264748b94f181ce042c91dcf56ba5af": "Completion of Failed Actions.jsonl",
        "73093d99923efac243e3610c393613c000b5dc04f88771c39a3b641b993a6b70": "Discrepant Desires.jsonl",
        "100b7f05ba5b76aeaa8d2daf3897c90c6a4f08dc23b75a0dd87be0e82db11bf4": "Discrepant Emotions.jsonl",
        "d72c8353aa5b65f35073d72808996b6f8e980f7683539e25510a251ed8f1dac2": "Discrepant Intentions.jsonl",
        "553d0ee61733cddfa3a9c531c3f7306c40929edc9f0e1e1dda7088ed8804c96c": "Emotion Regulation.jsonl",
        "1a5c38362c4c883b219381e24d7b51c1f60abd959f39b6dc3e977ca11d7abff8": "False Belief Task.jsonl",
        "374272690aedfe34529cb83fc4368a38960da288fb8d787a7bf50aba65dd349c": "Faux-pas Recognition Test.jsonl",
        "57d0882eafddca8fb8d81148bf4291db0c5c6bbdd3a8ad5004c445d249b05124": "Hidden Emotions.jsonl",
        "fd3a930403c7e0514e8730c48030da17d8bcd8a453e96001ca0795cbaee61afa": "Hinting Task Test.jsonl",
        "9ea4c7bfc2086d4ebaa2a31cc1993ea2774f72e642d7415dbb9c9c0e21ead94f": "Knowledge-Attention Links.jsonl",
        "67e3d451089db0a3ac4a7702f4c6c58c2909dbe338aa53bda5e00e4cf9396242": "Knowledge-Pretend Play Links.jsonl",
        "fac3eb293d2901b35274eab8244515b7e138e9cb3311037d5c4a0bda3810dd51": "Moral Emotions.jsonl",
        "7a49186ab802a2a199806ca191160019ae21d9ff85db9203799fb36b8960a914": "Multiple Desires.jsonl",
        "dda5b279b926eef0e0c440cef4ef68cbebbf82fc6c7b109b213c15c2f9d94804": "Percepts-Knowledge Links.jsonl",
        "aefef5b6beb7097370cf3bc0c6503ed8caa495530297a4b184c4c31002e23169": "Persuasion Story Task.jsonl",
        "23c56589e459d253bafc2cdc0ea786fba1912c8bf388861a96042666f10b8a47": "Prediction of Actions.jsonl",
        "4264d1842f556f8bcfd7fd56c5058aa8c55f6001931d27d253a85d7ecc19247e": "Scalar Implicature Test.jsonl",
        "f0a1c6e12b9d9b8b5c936ea3383b24100ef28ed6610078c1fc7bd6769d7ef914": "Strange Story Task.jsonl",
        "f4ee872c98e17480272c40d5406a8eca31eed29b455f4155b9684328bf6dbf9c": "Unexpected Outcome Test.jsonl",
    },
    "FANToM": {
        "1d08dfa0ea474c7f83b9bc7e3a7b466eab25194043489dd618b4c5223e1253a4": "fantom.tar.gz",
        "e9751ab3822e951ecd014e7a0daac67fb1d58e3b58fda42a97b8dea3762f3855": "fantom_v1_recovered.json",
    },
    "TactfulToM": {
        "ced957f109b1a355737219f69e5561ae80ac82b35d75895d38617eb0c9b5b8f8": "Tactful_conv_set_0.json",
        "6977fa7afc14340d95c1f0b4e279c285618c6186e0ff37a80b715778be983eba": "Tactful_conv_set_1.json",
        "24f42d45ea93abb7f60f39e925694f748b3b719945cee00a7827f6d3fc411e81": "Tactful_conv_set_2.json",
        "61655e1489706a37dbe523be176d0e516605bae52027367049ebea11e5781d68": "Tactful_conv_set_3.json",
        "27bcf48a284bd79e85851014d5b932ed79c962bb913d97153fe9beee837e9ec9": "Tactful_conv_set_4.json",
        "ebbf4ea3b3defd8eeab62fe3be3a2394c56853dd682936988afc887bbfea10d4": "Tactful_conv_set_0.first9.json",
    },
}


def refuse_evaluation_sets(sources: Sequence[str | Path], told: str = "") -> None:
    """Raises DataError when one of the training sources is a file of an evaluation-only benchmark.

    Unless ``told`` (`data.train_on_evaluation_set`) names the file too: the first 12 digits of its SHA-256, several
    with commas between them. Files that cannot be read are left to what opens them.
    """
    meant = {part.strip().lower() for part in told.split(",")}
    for source, file in _files(sources):
        if (found := evaluation_set(file)) is None or found[2][:_TOLD_DIGITS] in meant:
            continue
        benchmark, name, digest = found
        raise DataError(
            f"{source}: {file.name} is {name} of {benchmark}, whose authors forbid training on it: a model that has "
            "seen it cannot be measured by it any more. Take another source; or, if you mean it, set "
            f"data.train_on_evaluation_set={digest[:_TOLD_DIGITS]} as well"
        )


def evaluation_set(file: Path) -> tuple[str, str, str] | None:
    """Return (benchmark, its file's name, SHA-256) of an evaluation-only benchmark's file; None for any other.

    None as well for a file that cannot be read.
    """
    try:
        if file.stat().st_size > _LARGEST:
            return None
        digest = sha256(file)
    except OSError:
        return None
    for benchmark, files in EVALUATION_SETS.items():
        if digest in files:
            return benchmark, files[digest], digest
    return None


def _files(sources: Sequence[str | Path]) -> Iterator[tuple[str, Path]]:
    for source in map(str, sources):
        if source.partition(":")[0] == "stories":
            continue
        yield from ((source, file) for file in source_files(source) if file.is_file())
