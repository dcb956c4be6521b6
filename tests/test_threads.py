"""Work that is done side by side on a CPU."""

from __future__ import annotations

import torch
from published import CPU

from vpr.runtime.threads import side_by_side


def test_results_keep_their_order_and_few_items_use_all_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert side_by_side(lambda i: (i, torch.get_num_threads()), range(5), CPU) == [
            (0, 1),
            (1, 1),
            (2, 1),
            (3, 1),
            (4, 2),
        ]
        assert side_by_side(lambda _: torch.get_num_threads(), [0], CPU) == [2]
        assert side_by_side(str, [], CPU) == []
    finally:
        torch.set_num_threads(before)
