"""A matrix as its file holds it, and the modules that compute with it.

A stored weight keeps its bytes (on the CPU: the mapped file's) and is expanded piece by piece while
it is multiplied, so that no format ever takes more memory than it takes on the disk.
"""

from itertools import accumulate

import torch
from torch import Tensor, nn

from kleinod.compute.matmul import piecewise, product_dtype

# Expanded at a time on the CPU: what stays in a core's second-level cache.
_NUMBERS_AT_ONCE = 2**19
# Multiplied at a time on the CPU: large enough for a matrix product, small beside the layer.
_ROWS_AT_ONCE = 512

Rows = slice | Tensor


class StoredWeight(nn.Module):
    """A matrix of logical shape (rows, columns). Each format says how its rows are expanded."""

    shape: torch.Size

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = torch.Size(shape)

    @property
    def device(self) -> torch.device:
        """Where the stored bytes are."""
        return next(self.buffers()).device

    def fill(self, out: Tensor, rows: Rows) -> None:
        """Write the named rows into out (n, columns), rounded once to its dtype."""
        raise NotImplementedError

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The whole matrix."""
        return self.block(dtype, slice(0, self.shape[0]))

    def block(self, dtype: torch.dtype, rows: slice) -> Tensor:
        """The rows from start to stop."""
        num_rows, columns = rows.stop - rows.start, self.shape[1]
        out = torch.empty(num_rows, columns, dtype=dtype, device=self.device)
        step = max(1, _NUMBERS_AT_ONCE // columns) if self.device.type == "cpu" else num_rows
        for start in range(0, num_rows, max(1, step)):
            stop = min(start + step, num_rows)
            self.fill(out[start:stop], slice(rows.start + start, rows.start + stop))
        return out

    def lookup(self, dtype: torch.dtype, indices: Tensor) -> Tensor:
        """The rows (n, columns) of indices (n,)."""
        out = torch.empty(len(indices), self.shape[1], dtype=dtype, device=self.device)
        self.fill(out, indices)
        return out

    def fitted(self, shape: tuple[int, ...]) -> "StoredWeight":
        """The same matrix without the padding that its format added to `shape`."""
        return self


class PlainWeight(StoredWeight):
    """Ordinary numbers, beside pieces that are stored narrower or multiplied in other numbers."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__((weight.shape[0], weight.shape[1]))
        self.register_buffer("weight", weight)

    def fill(self, out: Tensor, rows: Rows) -> None:
        """Copy."""
        out.copy_(self.weight[rows])


class SwappedHalves(StoredWeight):
    """A matrix whose upper and lower half have changed places."""

    def __init__(self, weight: StoredWeight) -> None:
        super().__init__((weight.shape[0], weight.shape[1]))
        self.weight = weight

    def fill(self, out: Tensor, rows: Rows) -> None:
        """Expand each half from where it lies."""
        count = self.shape[0]
        if isinstance(rows, Tensor):
            self.weight.fill(out, (rows + count // 2) % count)
            return
        middle = min(max(count // 2 - rows.start, 0), len(out))
        for part, start in ((out[:middle], rows.start), (out[middle:], rows.start + middle)):
            if len(part):
                first = (start + count // 2) % count
                self.weight.fill(part, slice(first, first + len(part)))


class StoredLinear(nn.Module):
    """Stands in for nn.Linear without a bias: its weight is one stored matrix or several in a row.

    The scale is folded into the expanded weight, which is rounded once: the product is that of
    the dequantised weight, in every dtype.
    """

    def __init__(self, parts: tuple[StoredWeight, ...]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self._ends = list(accumulate(part.shape[0] for part in parts))

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, sum of the pieces' rows)."""
        out = x.new_empty(*x.shape[:-1], self._ends[-1])
        dtype = product_dtype(x.dtype, x.device)
        flat = out.view(-1, self._ends[-1])
        multiply = piecewise(x.to(dtype).reshape(-1, x.shape[-1]))
        for part, end in zip(self.parts, self._ends, strict=True):
            assert isinstance(part, StoredWeight)
            count = part.shape[0]
            columns = flat[:, end - count : end]
            step = _ROWS_AT_ONCE if x.device.type == "cpu" else count
            for start in range(0, count, step):
                rows = slice(start, min(start + step, count))
                multiply(part.block(dtype, rows), columns[:, rows])
        return out


class StoredEmbedding(nn.Module):
    """Stands in for nn.Embedding: only the rows that are looked up are expanded."""

    def __init__(self, table: StoredWeight, dtype: torch.dtype) -> None:
        super().__init__()
        self.table, self.dtype = table, dtype

    def forward(self, token_ids: Tensor) -> Tensor:
        """(…) to (…, columns)."""
        return self.table.lookup(self.dtype, token_ids.flatten()).view(*token_ids.shape, -1)


Weight = Tensor | StoredWeight
