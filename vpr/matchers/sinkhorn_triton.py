"""Sinkhorn's iterations on a GPU with one pass over the matrix each, instead of two.

Each program scales a group of rows and, while it holds them, sums their columns. The sums of the groups are added up
at the start of the next iteration, always in the same order, so that every run gives the same bits.
"""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

GROUPS = 8  # programs a matrix: 32 matrices then fill the 132 multiprocessors of an H200 twice
ROWS = 4  # rows that a program holds at once


@triton.jit  # type: ignore[untyped-decorator]
def _iterate(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    kernel,
    row_mass,
    column_mass,
    sums_before,
    sums_after,
    a,
    rows,
    last,
    rows_per_group,
    GROUPS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One iteration on one group of rows of one matrix; ``last`` is the dustbin's column, kept apart from the others.

    That the dustbin is apart lets 1024 points take a block of 1024 columns, not of the next power of two.
    """
    pair = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1)
    columns = tl.arange(0, COLUMNS)
    inside = columns < last
    total = tl.zeros((COLUMNS,), tl.float32)
    total_last = 0.0
    for other in tl.static_range(GROUPS):
        start = sums_before + (pair * GROUPS + other) * (last + 1)
        total += tl.load(start + columns, mask=inside, other=0.0)
        total_last += tl.load(start + last)
    masses = column_mass + pair * (last + 1)
    b = tl.load(masses + columns, mask=inside, other=0.0) / tl.maximum(total, 1e-37)
    b_last = tl.load(masses + last) / tl.maximum(total_last, 1e-37)
    sums = tl.zeros((COLUMNS,), tl.float32)
    sums_last = tl.zeros((ROWS,), tl.float32)
    for step in range(0, rows_per_group, ROWS):
        row = group * rows_per_group + step + tl.arange(0, ROWS)
        here = row < rows
        places = kernel + (pair * rows + row) * (last + 1)
        tile = tl.load(places[:, None] + columns[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        tile_last = tl.load(places + last, mask=here, other=0.0)
        product = tl.sum(tile * b[None, :], axis=1) + tile_last * b_last
        mass = tl.load(row_mass + pair * rows + row, mask=here, other=0.0)
        scale = mass / tl.maximum(product, 1e-37)
        tl.store(a + pair * rows + row, scale, mask=here)
        sums += tl.sum(tile * scale[:, None], axis=0)
        sums_last += tile_last * scale
    out = sums_after + (pair * GROUPS + group) * (last + 1)
    tl.store(out + columns, sums, mask=inside)
    tl.store(out + last, tl.sum(sums_last, axis=0))


def sweep(kernel: Tensor, row_mass: Tensor, column_mass: Tensor, b: Tensor, *, steps: int) -> tuple[Tensor, Tensor]:
    """See vpr.matchers.sinkhorn.sweep; for float32 matrices of at least two rows and columns."""
    pairs, rows, columns = kernel.shape
    kernel, row_mass, column_mass = kernel.contiguous(), row_mass.contiguous(), column_mass.contiguous()
    a = torch.empty_like(row_mass)
    before = kernel.new_zeros(pairs, GROUPS, columns)
    before[:, 0] = column_mass / b.clamp_min(1e-37)  # the sums after which b would be what it is
    after = torch.empty_like(before)
    rows_per_group = triton.cdiv(triton.cdiv(rows, GROUPS), ROWS) * ROWS
    for _ in range(steps):
        _iterate[(pairs, GROUPS)](
            kernel,
            row_mass,
            column_mass,
            before,
            after,
            a,
            rows,
            columns - 1,
            rows_per_group,
            GROUPS=GROUPS,
            ROWS=ROWS,
            COLUMNS=triton.next_power_of_2(columns - 1),
            num_warps=8,
            enable_fp_fusion=True,
        )
        before, after = after, before
    return a, column_mass / before.sum(1).clamp_min(1e-37)
