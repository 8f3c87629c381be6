"""Group twins: questions with the same `meta["twin_id"]`, whose stories differ in one perception."""

from collections.abc import Iterable, Mapping, Sequence

from socialr1_jax.data.examples import Example


def twin_groups(examples: Iterable[tuple[int, Example]]) -> list[list[int]]:
    """Return the places of each group of at least two twins, given (place, question), in order of first occurrence."""
    groups: dict[str, list[int]] = {}
    for place, example in examples:
        if name := twin_name(example):
            groups.setdefault(name, []).append(place)
    return [places for places in groups.values() if len(places) > 1]


def twin_name(example: Example) -> str:
    """Return the id that the question shares with its twins; "" if it has none."""
    name = example.meta.get("twin_id", "")
    return "" if name.lower() == "nan" else name  # tables write "nan" for a missing value


def cluster_name(example: Example) -> str:
    """Return a name shared by questions that are not independent: their twins' id, else their story's."""
    if name := twin_name(example):
        return f"twins {name}"
    return example.meta.get("story_id") or example.story or example.question


def whole_groups(order: Iterable[int], groups: Sequence[Sequence[int]], count: int) -> list[int]:
    """Return up to `count` places in `order`, keeping groups of twins whole.

    A group is placed at its first question. A group that no longer fits is left out, so fewer than `count` places may
    be returned.
    """
    group_of: Mapping[int, Sequence[int]] = {place: group for group in groups for place in group}
    chosen: dict[int, None] = {}
    for place in order:
        if len(chosen) >= count:
            break
        group = group_of.get(place, (place,))
        if place not in chosen and len(chosen) + len(group) <= count:
            chosen.update(dict.fromkeys(group))
    return list(chosen)
