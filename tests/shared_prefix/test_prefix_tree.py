import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solar_repro.shared_prefix.prefix_tree import plan_prefixes

heads = st.sampled_from([[1], [1, 5, 5, 5, 5, 5, 5, 5], [2, 2, 2, 2, 2]])
tails = st.lists(st.integers(0, 2), max_size=6)
sequences = st.lists(st.builds(lambda head, tail: head + tail, heads, tails), min_size=1, max_size=25)


def _read_back(plan, place):
    """The sequence a place stands for, following parents from its last slot up to the stem."""
    group = plan.groups[place.group]
    tail = []
    if place.row >= 0:
        row, slot = group.rows[place.row], int(place.slots[-1])
        while slot >= 0:
            tail.append(int(row.tokens[slot]))
            assert row.parents[slot] < slot
            slot = int(row.parents[slot])
    return group.stem[: place.stem].tolist() + tail[::-1]


@settings(max_examples=200, deadline=None)
@given(sequences, st.integers(1, 20))
def test_every_sequence_can_be_read_back_from_its_place(rows, row_tokens):
    plan = plan_prefixes([np.array(row, dtype=np.int32) for row in rows], row_tokens)
    assert [_read_back(plan, place) for place in plan.places] == rows
    for place, row in zip(plan.places, rows, strict=True):
        tokens = plan.groups[place.group].rows[place.row].tokens[place.slots] if place.row >= 0 else []
        assert list(tokens) == row[place.stem :]


@settings(max_examples=200, deadline=None)
@given(sequences)
def test_distinct_tokens_counts_the_prefixes_that_occur(rows):
    plan = plan_prefixes([np.array(row, dtype=np.int32) for row in rows])
    assert plan.distinct_tokens == len({tuple(row[: end + 1]) for row in rows for end in range(len(row))})


def test_a_prefix_shared_by_all_is_one_stem_and_a_short_common_start_is_not():
    subject = list(range(100))
    shared = plan_prefixes([np.array([*subject, 200 + i, 300 + i], dtype=np.int32) for i in range(5)])
    assert [len(group.stem) for group in shared.groups] == [100]
    long = plan_prefixes(
        [np.array([7, 7, *range(1000 * i, 1000 * i + 500)], dtype=np.int32) for i in range(1, 4)]
    )
    assert [len(group.stem) for group in long.groups] == [502, 502, 502]
