"""What a model was not trained for and a request asks all the same: a line for each, no error.

    empty_prompt  unknown_words  edit_words  no_object  prompt_too_long  size  references
    base_steps  kv_edits

The image is generated as asked. Knows nothing of who is told: command line, HTTP, Python.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kleinod.catalog import KNOWN, ModelInfo
from kleinod.request import ResolvedRequest
from kleinod.vocabulary import Vocabulary, has_words

# fewer steps than this are for a distilled model
MIN_BASE_STEPS = 10
MAX_NAMED_WORDS, MAX_LISTED_WORDS, MAX_WORD_CHARACTERS = 8, 50, 40
EMPTY_PROMPT = "empty_prompt"
UNKNOWN_WORDS = "unknown_words"
EDIT_WORDS = "edit_words"
NO_OBJECT = "no_object"
PROMPT_TOO_LONG = "prompt_too_long"
SIZE = "size"
REFERENCES = "references"
BASE_STEPS = "base_steps"
KV_EDITS = "kv_edits"

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class RequestWarning:
    """One line that says what to expect and what to do; details are JSON values by name."""

    code: str
    message: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    def as_json(self) -> dict[str, Any]:
        """{"code": …, the details, "message": …}."""
        return {"code": self.code, **self.details, "message": self.message}


@dataclass(frozen=True)
class PromptLength:
    """How a model counts a prompt's tokens, its chat template included, and how many it reads."""

    count: CountTokens
    limit: int


def request_warnings(
    request: ResolvedRequest,
    info: ModelInfo,
    length: PromptLength | None = None,
    *,
    list_command: str | None = None,
) -> tuple[RequestWarning, ...]:
    """Every warning for a request. list_command: what lists the vocabulary, for the message."""
    found = [*_empty_prompts(request)]
    if info.vocabulary is not None:
        command = list_command or _list_command(info)
        found += _vocabulary_warnings(request, info.name, info.vocabulary, command)
    if length is not None:
        found += _too_long(request, info.name, length)
    return (*found, *setting_warnings(request, info))


def setting_warnings(request: ResolvedRequest, info: ModelInfo) -> Iterator[RequestWarning]:
    """Steps, guidance and references that the model's variant was not trained for."""
    steps, guidance = request.num_inference_steps, request.guidance_scale
    if not info.is_distilled and (steps < MIN_BASE_STEPS or guidance == 1.0):
        yield RequestWarning(
            BASE_STEPS,
            f"{info.name} is a base model: {steps} steps at guidance {guidance} are a distilled "
            f"model's and give a poor picture; leave both out ({info.num_inference_steps} steps, "
            f"guidance {info.guidance_scale})",
            {"num_inference_steps": steps, "guidance_scale": guidance},
        )
    if request.references and "kv" in re.split(r"[^a-z0-9]+", info.name.lower()):
        yield RequestWarning(
            KV_EDITS,
            f"{info.name} was trained to read references once, as if finished; here they are read "
            "at every step, and edits may be poor: take klein-9b for edits",
        )


def _list_command(info: ModelInfo) -> str:
    return f"kleinod models {info.name}" if info.name in KNOWN else ""


def _empty_prompts(request: ResolvedRequest) -> Iterator[RequestWarning]:
    num_empty = sum(not has_words(prompt) for prompt in request.prompts)
    count = len(request.prompts)
    subject = "the prompt is empty" if count == 1 else f"{num_empty} of {count} prompts are empty"
    if num_empty:
        yield RequestWarning(EMPTY_PROMPT, f"{subject}; say what to generate")


def _vocabulary_warnings(
    request: ResolvedRequest, name: str, vocabulary: Vocabulary, command: str
) -> Iterator[RequestWarning]:
    unknown = _unknown_words(request, vocabulary, is_edit=True)
    of_edits = _unknown_words(request, vocabulary, is_edit=bool(request.references))
    of_edits = [word for word in of_edits if word not in unknown]
    known = f"It knows {len(vocabulary.objects)} objects" + (f": {command}" if command else "")
    if unknown:
        yield _unknown_warning(unknown, name, vocabulary, known)
    elif of_edits:
        yield RequestWarning(
            EDIT_WORDS,
            f"{name} knows {_enumeration(of_edits)} only from edits; give a reference image",
            {"words": of_edits[:MAX_LISTED_WORDS]},
        )
    elif not request.references and not all(
        vocabulary.has_object(prompt) for prompt in request.prompts if has_words(prompt)
    ):
        yield RequestWarning(NO_OBJECT, f"the prompt names no object that {name} knows. {known}")
    yield from _shape_warnings(request, name, vocabulary)


def _shape_warnings(
    request: ResolvedRequest, name: str, vocabulary: Vocabulary
) -> Iterator[RequestWarning]:
    size = (request.width, request.height)
    if vocabulary.native_sizes and size not in vocabulary.native_sizes:
        yield _size_warning(size, name, vocabulary)
    limit, count = vocabulary.max_references, len(request.references)
    if limit is not None and count > limit:
        yield RequestWarning(
            REFERENCES,
            f"{name} was trained with at most {limit} references; {count} give a poor image",
            {"references": count, "limit": limit},
        )


def _unknown_words(request: ResolvedRequest, vocabulary: Vocabulary, *, is_edit: bool) -> list[str]:
    """Over all prompts, each once, and none longer than a message can hold."""
    words = (
        word
        for prompt in request.prompts
        for word in vocabulary.unknown_words(prompt, is_edit=is_edit)
    )
    shown = (
        word if len(word) <= MAX_WORD_CHARACTERS else f"{word[: MAX_WORD_CHARACTERS - 1]}…"
        for word in words
    )
    return list(dict.fromkeys(shown))


def _unknown_warning(
    words: list[str], name: str, vocabulary: Vocabulary, known: str
) -> RequestWarning:
    listed = words[:MAX_LISTED_WORDS]
    nearest = {word: near for word in listed if (near := vocabulary.nearest(word))}
    hints = [nearest[word] for word in words[:MAX_NAMED_WORDS] if word in nearest]
    hint = f"; did you mean {', '.join(dict.fromkeys(hints))}?" if hints else "."
    return RequestWarning(
        UNKNOWN_WORDS,
        f"{name} does not know: {_enumeration(words)}{hint} {known}",
        {"words": listed, "nearest": nearest},
    )


def _enumeration(words: list[str]) -> str:
    shown = ", ".join(words[:MAX_NAMED_WORDS])
    more = len(words) - MAX_NAMED_WORDS
    return f"{shown} and {more} more" if more > 0 else shown


def _size_warning(size: tuple[int, int], name: str, vocabulary: Vocabulary) -> RequestWarning:
    trained = [f"{width}x{height}" for width, height in vocabulary.native_sizes]
    return RequestWarning(
        SIZE,
        f"{name} was trained at {', '.join(trained[:MAX_NAMED_WORDS])}; "
        f"{size[0]}x{size[1]} gives a poor image",
        {"width": size[0], "height": size[1], "native_sizes": vocabulary.native_sizes},
    )


def _too_long(
    request: ResolvedRequest, name: str, length: PromptLength
) -> Iterator[RequestWarning]:
    tokens = max(map(length.count, request.texts))
    if tokens > length.limit:
        yield RequestWarning(
            PROMPT_TOO_LONG,
            f"the prompt has {tokens} tokens with its template, and {name} reads {length.limit}; "
            "the end is cut off: shorten it",
            {"tokens": tokens, "limit": length.limit},
        )
