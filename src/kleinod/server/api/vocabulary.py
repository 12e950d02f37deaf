"""What a served model knows, for clients that offer it: `GET /v1/vocabulary`."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from kleinod.server.api import bfl
from kleinod.server.api import context as contexts
from kleinod.server.api.bfl_models import Refusal
from kleinod.server.api.context import ContextOf

_NO_MODEL: dict[int | str, dict[str, Any]] = {
    404: {"model": Refusal, "description": "No such model."}
}
router = APIRouter(tags=["kleinod"])


class KnownObject(BaseModel):
    """Something that the model can generate; no plural where it is not counted."""

    name: str
    plural: str | None


class VocabularyAnswer(BaseModel):
    """The words and sizes that a model was trained on."""

    model: str
    is_limited: bool = Field(description="False: it is taken to know every word; no lists then.")
    max_text_tokens: int = Field(description="Of a prompt, the chat template included.")
    objects: list[KnownObject] = []
    styles: list[str] = []
    backgrounds: list[str] = []
    colors: list[str] = []
    phrases: list[str] = Field([], description="Forms of prompts; capitals stand for a word.")
    edit_phrases: list[str] = Field([], description="Forms of edits, with one reference.")
    joining_phrases: list[str] = Field([], description="Forms of edits with two references.")
    examples: list[str] = Field([], description="Prompts to try.")
    native_sizes: list[tuple[int, int]] = Field([], description="Width and height in pixels.")
    max_references: int | None = None


@router.get("/v1/vocabulary", responses=bfl.ERRORS | _NO_MODEL)
async def vocabulary(
    context: ContextOf,
    model: Annotated[str | None, Query(description="A name from /v1/models.")] = None,
) -> VocabularyAnswer:
    """The words and sizes that a model was trained on; warnings name what is not among them."""
    served = contexts.served(context, model, status=404)
    known = served.info.vocabulary
    facts = {} if known is None else known.as_json()
    return VocabularyAnswer(
        model=served.name,
        is_limited=known is not None,
        max_text_tokens=served.info.max_text_tokens,
        **{name: value for name, value in facts.items() if name in VocabularyAnswer.model_fields},
    )
