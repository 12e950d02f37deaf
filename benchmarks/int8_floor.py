"""klein-4b's int8 blocks beside their products and attention alone, in turn: medians of the ratios.

    python benchmarks/int8_floor.py [--rounds 20]

256 x 256 pixels and 512 words, of which 30 are no padding; random weights. The products are those
of kernels/products.c with plain results, of rows that are quantised already; so a ratio of 1 would
mean that norms, rotations, activations, quantising and sums cost nothing.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from blocks_cpu import CONFIG, STEPS, TEXT, _filled, _int8
from torch import nn

from kleinod.compute import workspace
from kleinod.kernels import native
from kleinod.memory import use_large_pages
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer

IMAGE, WORDS, KEYS = 256, 512, 64
Pair = tuple[Callable[[], object], Callable[[], object]]


@torch.inference_mode()
def main() -> None:
    """Build, run in turn, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    use_large_pages()
    if not native.is_usable():
        raise SystemExit(f"error: no code of our own here: {native.why_unused() or 'no AVX512'}")
    found = {name: _in_turn(pair, rounds) for name, pair in _pairs().items()}
    for name, times in found.items():
        ratio = median(block / floor for block, floor in times)
        best = [1000 * min(column) for column in zip(*times, strict=True)]
        print(f"{name}: {ratio:.2f} times the floor; best {best[0]:.0f} and {best[1]:.0f} ms")
    parts = {"double": 5 * STEPS, "single": 20 * STEPS / 3, "text": 27 / 3}
    whole = [
        sum(count * median(row[i] for row in found[name]) for name, count in parts.items())
        for i in (0, 1)
    ]
    print(f"all blocks of a call, from medians: {whole[0] / whole[1]:.2f} times the floor")


def _pairs() -> dict[str, Pair]:
    """A double block, three single ones and three text layers; and the floor of each."""
    transformer, text = _int8(_filled(Transformer(CONFIG))), _int8(_filled(TextEncoder(TEXT, (3,))))
    x = torch.randn(1, WORDS + IMAGE, CONFIG.hidden_dim).bfloat16()
    rotation = torch.rand(x.shape[1], 64), torch.rand(x.shape[1], 64)
    mod = tuple(torch.randn(1, 1, CONFIG.hidden_dim).bfloat16() for _ in range(6))
    words, mask = torch.randint(TEXT.vocab_size, (1, WORDS)), (torch.arange(WORDS) < 30)[None]
    double, singles = transformer.double_blocks[0], transformer.single_blocks

    def run_double() -> None:
        with workspace.kept(True):
            workspace.again()
            double(x[:, WORDS:], x[:, :WORDS], rotation, mod, mod)

    def run_singles() -> None:
        with workspace.kept(True):
            y = x
            for block in singles:
                workspace.again()
                y = block(y, rotation, mod)

    streams = (double.img_attn, double.img_mlp), (double.txt_attn, double.txt_mlp)
    image, written = (
        [linear for part in stream for linear in _linears(part)] for stream in streams
    )
    layers = text.model.layers
    seen = [getattr(layer.self_attn, name) for layer in layers for name in ("k_proj", "v_proj")]
    others = [linear for layer in layers for linear in _linears(layer) if linear not in seen]
    attend = _attention(x.shape[1])
    return {
        "double": (run_double, _floor([(IMAGE, image), (WORDS, written)], [attend])),
        "single": (run_singles, _floor([(x.shape[1], _linears(singles))], [attend] * len(singles))),
        "text": (lambda: text(words, mask), _floor([(WORDS, others), (KEYS, seen)], [])),
    }


def _linears(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if hasattr(part, "channel_scale")]


def _floor(
    work: list[tuple[int, list[nn.Module]]], more: list[Callable[[], object]]
) -> Callable[[], None]:
    """Runs the products of linears by so many rows, and more."""
    calls = []
    for rows, linears in work:
        widths = {linear.in_features for linear in linears}
        tiles = {n: native.quantized(torch.randn(rows, n).bfloat16()) for n in widths}
        weights = [(m.in_features, native.Int8Weight(m.codes, m.channel_scale)) for m in linears]
        calls += [(tiles[n], weight) for n, weight in weights]

    def run() -> None:
        for tiles, weight in calls:
            native.product(tiles, weight)
        for call in more:
            call()

    return run


def _attention(length: int) -> Callable[[], object]:
    shape = (1, length, CONFIG.num_attention_heads, CONFIG.attention_head_dim)
    q, k, v = (torch.randn(shape).bfloat16() for _ in range(3))
    return lambda: native.attention(q, k, v)


def _in_turn(pair: Pair, rounds: int) -> list[tuple[float, float]]:
    """Seconds of both, after one round to warm up."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        pair[0]()
        middle = time.perf_counter()
        pair[1]()
        times.append((middle - start, time.perf_counter() - middle))
    return times[1:]


if __name__ == "__main__":
    main()
