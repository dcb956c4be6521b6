"""Mutual best partners from scores."""

from __future__ import annotations

import torch

from vpr.matchers.one_to_many import mutual_partners


def test_mutual_partners_by_a_plain_loop_also_of_equal_scores() -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 4, (40, 5, 4), generator=random).float()
    scores[scores == 0] = -torch.inf
    partner, best = mutual_partners(scores)
    ties = 0
    for pair, table in enumerate(scores.tolist()):
        taken: list[int] = []
        for row, values in enumerate(table):
            column = values.index(max(values))
            in_column = [other[column] for other in table]
            mutual = max(values) > -torch.inf and max(values) == max(in_column)
            ties += mutual and column in taken
            expected = column if mutual and column not in taken else -1
            taken += [column] if mutual else []
            assert partner[pair, row] == expected and best[pair, row] == max(values)
    assert ties > 3
