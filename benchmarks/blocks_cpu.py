"""Seconds of klein-4b's blocks on the CPU, and of diffusers', and what a call comes to.

    python benchmarks/blocks_cpu.py --engines bfloat16 int8 [--size 256] [--rounds 5] [--json]
    python benchmarks/blocks_cpu.py --engines diffusers

One double block, three single blocks, three text layers and the decoder of the published widths,
with random weights, so that it fits into 8 GB and a minute. Each round runs every engine once; the
table has the best of the rounds. Run diffusers in processes of its own, by turns with ours, which
asks for large pages. A whole call of 4 steps is then added up: 5 double and 20
single blocks, 27 text layers (diffusers: 36 and the vocabulary head, which is left out), decoding.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kleinod.compute.attention import inexact
from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.diffusion.latents import image_position_ids, text_position_ids
from kleinod.memory import use_large_pages
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer
from kleinod.quantization.int8 import Int8Linear
from kleinod.weights.key_maps import TRANSFORMER, to_diffusers

CONFIG = TransformerConfig(num_layers=1, num_single_layers=3)
TEXT = TextEncoderConfig(num_hidden_layers=3, vocab_size=1000)
STEPS, TEXT_TOKENS = 4, 512
_base: list[Tensor] = []


def main() -> None:
    """Build, run by turns, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engines", nargs="+", default=["diffusers", "bfloat16", "int8"])
    parser.add_argument("--without-decoder", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one object")
    options = parser.parse_args()
    if "diffusers" not in options.engines:
        use_large_pages()
    best = measured(options)
    whole = {engine: _whole(engine, times) for engine, times in best.items()}
    if options.json:
        print(json.dumps({"seconds": best, "whole_call": whole, "size": options.size}))
        return
    for engine, times in best.items():
        print(engine, *(f"{name} {1000 * seconds:.1f} ms" for name, seconds in times.items()))
        print(engine, *(f"{name} {seconds:.2f} s" for name, seconds in whole[engine].items()))


@torch.inference_mode()
def measured(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Best seconds by engine and part."""
    jobs = _jobs(options.size, options.engines, is_decoding=not options.without_decoder)
    best: dict[str, dict[str, float]] = {engine: {} for engine in options.engines}
    for _ in range(options.rounds + 1):
        for engine, run in jobs:
            for name, seconds in run().items():
                best[engine][name] = min(best[engine].get(name, seconds), seconds)
    return best


def _whole(engine: str, times: dict[str, float]) -> dict[str, float]:
    step = 5 * times["double"] + 20 * times["single"] + times["rest"]
    text = times["text layer"] * (36 if engine == "diffusers" else 27)
    decode = times.get("decode", 0.0)
    whole = {"text": text, "step": step, "decode": decode}
    return whole | {"new": text + STEPS * step + decode, "cached": STEPS * step + decode}


def _jobs(
    size: int, engines: list[str], *, is_decoding: bool
) -> list[tuple[str, Callable[[], dict[str, float]]]]:
    side = size // 16
    tokens = torch.randn(1, side * side, 128).bfloat16()
    text = torch.randn(1, TEXT_TOKENS, 7680).bfloat16()
    time_, ids = torch.tensor([0.5]).bfloat16(), image_position_ids(side, side)
    text_ids, words = text_position_ids(TEXT_TOKENS), torch.randint(1000, (1, TEXT_TOKENS))
    mask = (torch.arange(TEXT_TOKENS) < 30).long()[None]
    latents = torch.randn(1, 128, side, side).bfloat16()
    plain = _filled(Transformer(CONFIG)), _filled(TextEncoder(TEXT, (1, 2, 3)))
    autoencoder = _filled(Autoencoder(AutoencoderConfig()))
    turned = copy.deepcopy(autoencoder).to(memory_format=torch.channels_last)
    decoders = {"bfloat16": autoencoder, "int8": turned}
    jobs: list[tuple[str, Callable[[], dict[str, float]]]] = []
    for engine in engines:
        if engine == "diffusers":
            theirs = _diffusers(plain[0], autoencoder)
            calls = {
                "transformer": lambda m=theirs: m[0](
                    tokens, text, time_, ids[None], text_ids[None], return_dict=False
                ),
                "text": lambda m=theirs: m[1](words, mask),
                "decode": lambda m=theirs: m[2].decode(latents.reshape(1, 32, 2 * side, 2 * side)),
            }
            parts = [(theirs[0].transformer_blocks, "double")]
            parts += [(theirs[0].single_transformer_blocks, "single")]
        else:
            own = plain if engine != "int8" else (_int8(plain[0]), _int8(plain[1]))
            calls = {
                "transformer": lambda m=own: m[0](tokens, time_, text, ids, text_ids),
                "text": lambda m=own: m[1](words, mask),
                "decode": lambda m=decoders[engine]: m.decode(latents),
            }
            parts = [(own[0].double_blocks, "double"), (own[0].single_blocks, "single")]
        if not is_decoding:
            del calls["decode"]
        jobs.append((engine, _clocked(calls, parts)))
    return jobs


def _clocked(
    calls: dict[str, Callable[[], object]], parts: list[tuple[Any, str]]
) -> Callable[[], dict[str, float]]:
    """Run the calls; seconds of a block of each kind, of the rest, of a text layer, of decoding."""
    taken: dict[str, list[float]] = {"double": [], "single": []}
    for blocks, name in parts:
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, n=name: taken[n].append(-_now()))
            block.register_forward_hook(lambda *_, n=name: taken[n].append(taken[n].pop() + _now()))

    def run() -> dict[str, float]:
        for times in taken.values():
            times.clear()
        seconds = {}
        for name, call in calls.items():
            start = _now()
            call()
            seconds[name] = _now() - start
        made = {name: min(times) for name, times in taken.items()}
        made["rest"] = seconds["transformer"] - sum(map(sum, taken.values()))
        made["text layer"] = seconds["text"] / TEXT.num_hidden_layers
        return made | {name: seconds[name] for name in seconds if name == "decode"}

    return run


_now = time.perf_counter


def _filled(module: nn.Module) -> Any:  # noqa: ANN401
    """Cheap random numbers of a layer's usual size, in bfloat16."""
    if not _base:
        _base.append(torch.randn(2**22 + 77, generator=torch.Generator().manual_seed(0)).bfloat16())
    for name, parameter in module.named_parameters():
        count, fan = parameter.numel(), max(1, parameter[0].numel())
        values = _base[0].repeat(-(-count // len(_base[0])))[:count].view(parameter.shape)
        is_norm = parameter.dim() == 1 and "bias" not in name
        parameter.data = torch.ones_like(values) if is_norm else values * (0.7 * fan**-0.5)
    return module.bfloat16().eval().requires_grad_(False)


def _int8(module: nn.Module) -> nn.Module:
    """A copy that shares what is not a block's linear."""
    layers = [(1, 2, 3)] if isinstance(module, TextEncoder) else []
    with torch.device("meta"):
        made = type(module)(module.config, *layers)
    made.load_state_dict(module.state_dict(), assign=True)
    for name, linear in module.named_modules():
        if isinstance(linear, nn.Linear) and ("blocks." in name or "layers." in name):
            parent, _, child = name.rpartition(".")
            setattr(made.get_submodule(parent), child, Int8Linear((linear.weight,)))
    if isinstance(made, Transformer):
        made.use_attention(inexact)
    return made.eval().requires_grad_(False)


def _diffusers(transformer: Transformer, autoencoder: Autoencoder) -> tuple[Any, Any, Any]:
    """Their modules with the same weights; text weights of the same sizes."""
    from diffusers import AutoencoderKLFlux2, Flux2Transformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    state = transformer.state_dict()
    tensors: dict[str, Tensor] = {
        name: parts[0] if len(parts) == 1 else torch.cat(parts)
        for name, parts in to_diffusers(state, TRANSFORMER).items()
    }
    fields = {k: v for k, v in vars(CONFIG).items()} | {"guidance_embeds": False}
    with torch.device("meta"):
        theirs = Flux2Transformer2DModel(**fields)
        decoder = AutoencoderKLFlux2()
    theirs.load_state_dict(tensors, assign=True)
    decoder.load_state_dict(autoencoder.state_dict(), assign=True)
    text = Qwen3Model(
        Qwen3Config(
            vocab_size=TEXT.vocab_size,
            hidden_size=TEXT.hidden_size,
            intermediate_size=TEXT.intermediate_size,
            num_hidden_layers=TEXT.num_hidden_layers,
            num_attention_heads=TEXT.num_attention_heads,
            num_key_value_heads=TEXT.num_key_value_heads,
            head_dim=TEXT.head_dim,
        )
    )
    return theirs.eval(), _filled(text), decoder.eval()


if __name__ == "__main__":
    main()
