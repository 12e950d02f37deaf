"""Signed pictures from Python: `Painter.load("mini").generate("a fox")[0].save("fox.png")`.

The whole way of `kleinod generate` for one model that stays loaded: checked, painted, marked, with
a receipt, signed, written to the audit log where one is configured. `Pipeline.generate` below it
gives bare pictures.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from PIL import Image

from kleinod import generation
from kleinod.assembly import load
from kleinod.generation import FinishedImage
from kleinod.pipeline import Pipeline
from kleinod.provenance import audit, container
from kleinod.provenance.facts import ModelFile
from kleinod.provenance.manifest import Reference
from kleinod.provenance.receipt import Choices
from kleinod.request import Components, Request
from kleinod.safety import Guard, Policy, Screening
from kleinod.safety.verdicts import DEFAULT_TOLERANCE


@dataclass(frozen=True)
class Painter:
    """A loaded model, the hashes of its files, what every picture of it carries, and who judges."""

    pipeline: Pipeline
    files: list[ModelFile]
    choices: Choices
    guard: Guard | None
    safety_tolerance: int = DEFAULT_TOLERANCE

    @classmethod
    def load(
        cls,
        model: str | Path = "mini",
        *,
        components: Components | None = None,
        choices: Choices | None = None,
        **options: Any,  # noqa: ANN401 - those of kleinod.load
    ) -> Self:
        """Load a model by name or path; `options` are device, dtype, … of `kleinod.load`.

        Raises InputError.
        """
        components, choices = components or Components(), choices or Choices()
        guard = Guard.where_on(Policy.configured())
        pipeline = load(model, components=components, **options)
        return cls(pipeline, generation.model_files(model, components, choices), choices, guard)

    def generate(
        self,
        prompt: str | tuple[str, ...],
        *,
        format_name: str = "PNG",
        **fields: Any,  # noqa: ANN401 - those of Request
    ) -> list[FinishedImage]:
        """Finished picture files for Request's fields: PNG, JPEG, WEBP or AVIF.

        Raises InputError, ModeratedError, NumericalError.
        """
        container.check_format(format_name)
        request = Request(prompt, **fields)
        settled = self.pipeline.settled(request)
        screening = Screening(self.guard, tolerance=self.safety_tolerance)
        words = None if self.choices.is_private else "\n".join(settled.prompt)
        with audit.telling_stops(words):
            screening.check_request(settled)
        signing = generation.signing(self.choices, self._references(request, settled))
        drafts = generation.drafts(self.pipeline, settled, self.files, self.choices)
        for step in self.pipeline.steps(settled):
            latents = step.latents
        pictures = zip(self.pipeline.decode(latents), drafts, strict=True)
        finished = []
        for image, draft in pictures:
            with audit.telling_stops(draft["request"].get("prompt")):
                made = generation.finished(
                    image, draft, format_name=format_name, signing=signing, screening=screening
                )
            finished.append(made)
        for made in finished:
            audit.append(audit.generated(made.receipt, made.data))
        return finished

    def _references(self, request: Request, settled: Request) -> list[Reference]:
        """Each as it came: a file keeps its own manifest."""
        pairs = zip(request.reference_images, settled.reference_images, strict=True)
        return [
            _reference(source, image, f"reference {number}", is_private=self.choices.is_private)
            for number, (source, image) in enumerate(pairs, start=1)
        ]


def _reference(source: object, image: object, name: str, *, is_private: bool) -> Reference:
    assert isinstance(image, Image.Image)  # a settled request holds pictures
    if isinstance(source, str | Path):
        path = Path(source)
        return Reference.of_file(name if is_private else path.name, path, image)
    return Reference.of_pixels(name, image)
