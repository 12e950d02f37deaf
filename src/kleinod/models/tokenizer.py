"""Prompt to token ids: chat template, cut and padded on the right. Source: klein-facts D."""

from pathlib import Path

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
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


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
        try:
            backend = _from_vocabulary(path) if is_apart else _Tokenizer.from_file(str(path))
        # the library raises nothing narrower
        except Exception as error:
            kind = "vocab.json with a merges.txt" if is_apart else "tokenizer.json"
            raise WeightsError(f"{path}: is no {kind} ({error}); fetch it again") from error
        for token in _NEEDED:
            if backend.token_to_id(token) is None:
                raise WeightsError(f"{path}: has no {token}; take a Qwen3 tokenizer")
        return cls(backend, max_length)

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, added tokens included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    def word_ids(self, text: str) -> list[int]:
        """The tokens of a text alone, without the template."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
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
