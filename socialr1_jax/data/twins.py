"""Groups of twins: questions that share `meta["twin_id"]`, with the same words but for one perception."""

from collections.abc import Iterable, Mapping, Sequence

from socialr1_jax.data.examples import Example


def twin_groups(examples: Iterable[tuple[int, Example]]) -> list[list[int]]:
    """Return the places of each group of two questions or more of (place, question), in the order of the first ones."""
    groups: dict[str, list[int]] = {}
    for place, example in examples:
        if name := twin_name(example):
            groups.setdefault(name, []).append(place)
    return [places for places in groups.values() if len(places) > 1]


def twin_name(example: Example) -> str:
    """Return the name that the question shares with its twins; "" when it has none."""
    name = example.meta.get("twin_id", "")
    return "" if name.lower() == "nan" else name  # a table writes "nan" for none


def cluster_name(example: Example) -> str:
    """Return the name shared by questions that are not independent: of their twins, else of their story."""
    if name := twin_name(example):
        return f"twins {name}"
    return example.meta.get("story_id") or example.story or example.question


def whole_groups(order: Iterable[int], groups: Sequence[Sequence[int]], count: int) -> list[int]:
    """Return the first `count` places of `order` with each group of twins whole.

    A group is taken where its first question comes. One that does not fit whole is left out, so the places may be
    fewer than `count`.
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
