"""The decoder for large pictures: stripes of rows, so that only what a sum needs is held whole.

A group norm needs the whole picture's mean and variance, a convolution only the rows beside it. So
each normalised convolution reads its input twice, stripe by stripe: once for the statistics (sums
in float64), once to normalise and convolve. The normalised input is never held, the shortcut is
what is added to. Equal to the plain decoder but for the rounding of the statistics.
Inference only.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Pictures of more pixels than this are decoded so; 1024 x 1024 takes 2.6 GB when it is not.
PLAIN_PIXELS = 1024 * 1024
# convolved at a time, and summed: that in the cache, in float32 without losing digits
_NUMBERS_AT_ONCE, _SUMMED_AT_ONCE = 2**24, 2**20


def decoded(decoder: Any, x: Tensor) -> Tensor:  # noqa: ANN401 - a Decoder, which imports this
    """(b, 32, h/8, w/8) to (b, 3, h, w), one picture after the other."""
    return torch.cat([_decoded(decoder, x[i : i + 1]) for i in range(len(x))])


def _decoded(decoder: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    x = decoder.mid_block(decoder.conv_in(_turned(x)))
    for level in decoder.up_blocks:
        for resnet in level.resnets:
            x = _resnet(resnet, x)
        if hasattr(level, "upsamplers"):
            x = _upsampled(level.upsamplers[0].conv, x)
    return _convolved(decoder.conv_out, x, _normaliser(decoder.conv_norm_out, x))


def _resnet(block: Any, x: Tensor) -> Tensor:  # noqa: ANN401
    y = _convolved(block.conv1, x, _normaliser(block.norm1, x))
    if hasattr(block, "conv_shortcut"):
        x = _convolved(block.conv_shortcut, x, _same)
    return _convolved(block.conv2, y, _normaliser(block.norm2, y), onto=x)


def _same(x: Tensor) -> Tensor:
    return x


def _normaliser(norm: nn.GroupNorm, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Group norm with x's statistics, then SiLU, for any stripe of x (1, c, rows, w)."""
    mean, variance = _statistics(x, norm.num_groups)
    # a batch norm with float32 statistics wants the rest in float32, too
    weight, bias = norm.weight.float(), norm.bias.float()

    def normalised(stripe: Tensor) -> Tensor:
        # with given statistics for each channel that is what a batch norm computes
        y = F.batch_norm(stripe, mean, variance, weight, bias, eps=norm.eps)
        return F.silu(y, inplace=True)

    return normalised


def _statistics(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel's group, float32 (c,)."""
    channels = x.shape[1]
    sums = torch.zeros(2, channels, dtype=torch.float64, device=x.device)
    for rows in _stripes(x.shape, _SUMMED_AT_ONCE):
        # channels last: a picture's numbers are the rows of a matrix
        part = x[0, :, rows].permute(1, 2, 0).reshape(-1, channels).float()
        sums += torch.stack((part.sum(0), part.square().sum(0)))
    count = channels // groups * x.shape[2] * x.shape[3]
    mean, square = sums.view(2, groups, -1).sum(2) / count
    moments = torch.stack((mean, square - mean**2)).float()
    return tuple(moments.repeat_interleave(channels // groups, dim=1))


def _stripes(shape: torch.Size, numbers: int) -> Iterator[slice]:
    """Ranges of rows with so many numbers at most."""
    _, channels, height, width = shape
    step = max(1, numbers // (channels * width))
    return (slice(start, min(start + step, height)) for start in range(0, height, step))


def _convolved(
    conv: nn.Conv2d,
    x: Tensor,
    prepared: Callable[[Tensor], Tensor],
    *,
    onto: Tensor | None = None,
) -> Tensor:
    """conv(prepared(x)), added to another tensor in its place if one is given."""
    out = onto
    if out is None:
        out = _empty(x, conv.out_channels, x.shape[-2], x.shape[-1])
    margin, weight = conv.padding[0], _turned(conv.weight)
    assert isinstance(margin, int)
    for rows in _stripes(x.shape, _NUMBERS_AT_ONCE):
        part = _with_margin(x, rows, margin, prepared)
        made = F.conv2d(part, weight, conv.bias, padding=(0, margin))
        if onto is None:
            out[:, :, rows] = made
        else:
            out[:, :, rows] += made
    return out


def _upsampled(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Twice the size, each number four times, then the convolution."""
    out = _empty(x, conv.out_channels, 2 * x.shape[-2], 2 * x.shape[-1])
    weight = _turned(conv.weight)
    for rows in _stripes(x.shape, _NUMBERS_AT_ONCE // 4):
        part = _with_margin(x, rows, 1, _doubled)
        # of the doubled rows beside the stripe the convolution reads one
        made = F.conv2d(part[:, :, 1:-1], weight, conv.bias, padding=(0, 1))
        out[:, :, 2 * rows.start : 2 * rows.stop] = made
    return out


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _with_margin(
    x: Tensor, rows: slice, margin: int, prepared: Callable[[Tensor], Tensor]
) -> Tensor:
    """prepared(x) in a range of rows and `margin` more on either side, zeros outside of x."""
    start, stop = max(rows.start - margin, 0), min(rows.stop + margin, x.shape[-2])
    part = prepared(x[:, :, start:stop])
    scale = part.shape[-2] // (stop - start)
    above, below = margin - (rows.start - start), margin - (stop - rows.stop)
    is_inside = above == below == 0
    return _turned(part if is_inside else F.pad(part, (0, 0, scale * above, scale * below)))


def _turned(x: Tensor) -> Tensor:
    """Channels last, which oneDNN convolves without turning it there and back."""
    return x.contiguous(memory_format=torch.channels_last)


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    shape = (1, channels, height, width)
    return torch.empty(
        shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last
    )
