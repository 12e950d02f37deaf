"""Prompt to token ids: chat template, cut and padded on the right. Source: klein-facts D.

A tokenizer.json may come from anyone, and may hold expressions that backtrack for hours or
normalizers that make gigabytes of a word. So only what Qwen's tokenizers are built of is used.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as _Tokenizer
from torch import Tensor

from kleinod.errors import WeightsError

_TEMPLATE = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

# what the template needs; other models' tokenizers lack one or the other
_NEEDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
# Qwen3's words outside of vocab.json, in the order of their numbers
_ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think>"
).split()
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|"
_WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLIT = _CONTRACTIONS + _WORDS
# with and without English contractions: the built-in model's has none
_SPLITS = (_SPLIT, _WORDS)
_MAX_BYTES = 64_000_000
_MAX_STEPS = 4

T = TypeVar("T")


class Tokenizer:
    """A tokenizer of Qwen3's family."""

    def __init__(self, backend: _Tokenizer, max_length: int = 512) -> None:
        self._backend, self.max_length = backend, max_length
        backend.no_padding()
        backend.no_truncation()
        self.pad_id = backend.token_to_id("<|endoftext|>")

    @classmethod
    def from_file(cls, path: str | Path, max_length: int = 512) -> "Tokenizer":
        """Read tokenizer.json, or vocab.json with the merges.txt beside it. Raises WeightsError."""
        path = Path(path)
        is_apart = path.name == "vocab.json"
        kind = "vocab.json with a merges.txt" if is_apart else "tokenizer.json"
        read = _from_vocabulary if is_apart else _from_json
        backend = _guarded(lambda: read(path), f"{path}: is not a {kind}", "fetch it again")
        num_tokens = backend.get_vocab_size(with_added_tokens=True)
        for token in _NEEDED:
            number = backend.token_to_id(token)
            if number is None:
                raise WeightsError(f"{path}: has no {token}; take a Qwen3 tokenizer")
            if number >= num_tokens:
                raise WeightsError(
                    f"{path}: {token} has the number {number} of {num_tokens} tokens; "
                    "take a Qwen3 tokenizer"
                )
        return cls(backend, max_length)

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, added tokens included; every token's number is below it."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def word_ids(self, text: str) -> list[int]:
        """The tokens of a text alone, without the template. Raises WeightsError."""
        ids: list[int] = _guarded(
            lambda: self._backend.encode(text, add_special_tokens=False).ids,
            "tokenizer: fails at this prompt",
            "take Qwen3's tokenizer",
        )
        if ids and max(ids) >= self.num_tokens:
            raise WeightsError(
                f"tokenizer: gives the number {max(ids)} for one of its {self.num_tokens} tokens; "
                "take Qwen3's tokenizer"
            )
        return ids

    def count(self, prompt: str) -> int:
        """The tokens of a prompt in the chat template, also those over max_length."""
        return len(self._template_ids(prompt))

    def _template_ids(self, prompt: str) -> list[int]:
        return self.word_ids(_TEMPLATE.format(prompt="{}").replace("{}", prompt))

    def encode(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids (b, max_length), int64, and their mask (1 word, 0 padding)."""
        ids = torch.full((len(prompts), self.max_length), self.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            words = self._template_ids(prompt)[: self.max_length]
            ids[row, : len(words)] = torch.tensor(words)
            mask[row, : len(words)] = 1
        return ids, mask


def _guarded(compute: Callable[[], T], problem: str, remedy: str) -> T:
    """What the library computes. Raises WeightsError for whatever it raises.

    Its errors have no class of their own, and a panic in its Rust code is no Exception: it would
    end a thread of the server.
    """
    try:
        return compute()
    except (WeightsError, KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise WeightsError(f"{problem} ({error}); {remedy}") from error


def _from_json(path: Path) -> _Tokenizer:
    if path.stat().st_size > _MAX_BYTES:
        raise WeightsError(f"{path}: is over {_MAX_BYTES} bytes; take a Qwen3 tokenizer")
    backend = _Tokenizer.from_file(str(path))
    for name, part, is_known in (
        ("normalizer", backend.normalizer, _is_qwen_normalizer),
        ("pre_tokenizer", backend.pre_tokenizer, _is_qwen_pre_tokenizer),
    ):
        if part is not None and not all(is_known(step) for step in _steps(part)):
            raise WeightsError(
                f"{path}: its {name} is not one of Qwen's tokenizers; take a Qwen3 tokenizer"
            )
    model = backend.model
    if not isinstance(model, models.BPE) or model.dropout:
        raise WeightsError(f"{path}: is not a byte-pair encoding; take a Qwen3 tokenizer")
    return backend


def _steps(part: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - the library's base classes differ
    """The settings of a part, or of each part of a sequence."""
    state: dict[str, Any] = json.loads(part.__getstate__())
    if state.get("type") != "Sequence":
        return [state]
    steps = state.get("normalizers") or state.get("pretokenizers") or []
    return steps if len(steps) <= _MAX_STEPS else [{"type": "too many"}]


def _is_qwen_normalizer(step: dict[str, Any]) -> bool:
    return step.get("type") == "NFC"


def _is_qwen_pre_tokenizer(step: dict[str, Any]) -> bool:
    """Qwen's expression, or the splitting into bytes, whose own expression is the library's."""
    if step.get("type") == "ByteLevel":
        return step.get("add_prefix_space") is False
    pattern = step.get("pattern")
    return (
        step.get("type") == "Split"
        and isinstance(pattern, dict)
        and pattern.get("Regex") in _SPLITS
        and step.get("behavior") == "Isolated"
        and step.get("invert") is False
    )


def _from_vocabulary(path: Path) -> _Tokenizer:
    """Qwen's byte-level BPE from its two files; what neither says is as published."""
    backend = _Tokenizer(models.BPE.from_file(str(path), str(path.with_name("merges.txt"))))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in _ADDED])
    return backend
