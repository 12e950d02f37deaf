"""The public pipeline: `kleinod.load("mini").generate("a fox").images[0].save("fox.png")`.

A loaded model with everything that `kleinod generate` does around it: moderated, watermarked, with
a receipt, signed, written to the audit log where one is configured. `Pipeline.sampler` is the bare
model for engines and research.
"""

import inspect
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
from PIL import Image
from torch import Tensor

from kleinod.catalog import ModelInfo
from kleinod.diffusers_names import hint_on_pipeline
from kleinod.diffusion import loading, preview
from kleinod.diffusion.sampler import Sampler
from kleinod.display import quoted
from kleinod.errors import InputError
from kleinod.keywords import check_keywords
from kleinod.progress import progress_line
from kleinod.provenance import facts
from kleinod.provenance.container import FORMATS
from kleinod.provenance.facts import ModelFile
from kleinod.provenance.receipt import ProvenanceOptions
from kleinod.request import Components, ImageRequest, as_integer
from kleinod.request_warnings import RequestWarning
from kleinod.safety.verdicts import DEFAULT_TOLERANCE
from kleinod.session.finish import finish
from kleinod.session.prepare import OutputOptions, PreparedRequest, Session, check, prepare
from kleinod.session.results import BlockedImage, GeneratedImage, Result

_log = logging.getLogger(__name__)

# what `generate` has and `stream` has not
_NOT_STREAMS = ("self", "progress", "on_step")
_SHORT = {"num_inference_steps": "steps", "guidance_scale": "guidance"}


@dataclass(frozen=True)
class Step:
    """A denoising step that is done, counted from 1; the last one has the result.

    latents: (b, 128, h, w). sigma: what the step started from, 1 (noise) to 0.
    """

    index: int
    num_steps: int
    sigma: float
    latents: Tensor = field(repr=False)
    result: Result | None = field(repr=False)
    _preview: Callable[[], Image.Image] = field(repr=False)

    @property
    def images(self) -> list[GeneratedImage]:
        """The finished images; empty before the last step."""
        return self.result.images if self.result else []

    def preview(self) -> Image.Image:
        """The first image as this step predicts it, a quarter of its width and height."""
        return self._preview()


class StepStream(Iterator[Step]):
    """The steps of a request as they are done; to drop it, or `close`, cancels the rest."""

    def __init__(self, steps: Generator[Step], num_steps: int, num_images: int) -> None:
        self._steps, self._num_done = steps, 0
        self.num_steps, self.num_images = num_steps, num_images

    def __next__(self) -> Step:
        step = next(self._steps)
        self._num_done = step.index
        return step

    def __repr__(self) -> str:
        images = "1 image" if self.num_images == 1 else f"{self.num_images} images"
        return f"<StepStream {self._num_done} of {self.num_steps} steps done, {images}>"

    def close(self) -> None:
        """Cancel the steps that are left."""
        self._steps.close()


class _PipelineType(type):
    """So that `Pipeline.from_pretrained` says what to call."""

    def __getattr__(cls, name: str) -> NoReturn:
        raise _no_attribute(name)


def _no_attribute(name: str) -> AttributeError:
    hint = hint_on_pipeline(name)
    return AttributeError(f"Pipeline has no attribute {name!r}" + (f"; {hint}" if hint else ""))


class Pipeline(metaclass=_PipelineType):
    """A model that stays loaded; see the module. Make one with `kleinod.load`."""

    def __init__(
        self, sampler: Sampler, session: Session | None = None, *, files: Sequence[ModelFile] = ()
    ) -> None:
        if not isinstance(session, Session):
            raise InputError("Pipeline: it needs a Session; call kleinod.load('mini') instead")
        self.sampler, self.session, self._files = sampler, session, tuple(files)
        self._preview_map: preview.PreviewMap | None = None
        self._warnings: tuple[RequestWarning, ...] = ()

    @property
    def info(self) -> ModelInfo:
        """Name, licence and defaults of the model."""
        return self.sampler.info

    def __repr__(self) -> str:
        sampler = self.sampler
        dtype = str(sampler.dtype).removeprefix("torch.")
        safety = "on" if self.session.guard else "off"
        c2pa = "on" if self.session.provenance.c2pa else "off"
        return (
            f"Pipeline({self.info.name!r}, device={str(sampler.device)!r}, dtype={dtype!r}, "
            f"safety={safety!r}, c2pa={c2pa!r})"
        )

    def __getattr__(self, name: str) -> NoReturn:
        raise _no_attribute(name)

    @check_keywords
    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        reference_images: Any = (),  # noqa: ANN401 - as in ImageRequest
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance: float | None = None,
        negative_prompt: str = "",
        seed: int | None = None,
        num_images: int = 1,
        format: str = "png",
        quality: int | None = None,
        progress: bool | None = None,
        on_step: Callable[[Step], None] | None = None,
    ) -> Result:
        """Finished images for a prompt, or for several prompts in one request.

        reference_images: one picture or several to edit or draw from: paths, PIL images, bytes,
        images that were generated.
        steps, guidance: short for num_inference_steps, guidance_scale. format: png, jpeg, webp,
        avif; quality: 0 to 100 of a lossy one. progress: a bar on stderr or in a notebook; None:
        where somebody can see it. on_step: called after each step; raising in it cancels. An image
        that a filter blocks is in `Result.blocked`. Raises InputError, FilterError, NumericalError,
        MemoryLimitError, and ModeratedError where no image is left.
        """
        if on_step is not None:
            _check_callback(on_step)
        arguments = {key: value for key, value in locals().items() if key not in _NOT_STREAMS}
        stream = self.stream(**arguments)
        with progress_line(progress) as report:
            for step in stream:
                report("denoising", step.index / step.num_steps)
                if on_step is not None:
                    on_step(step)
        assert step.result is not None  # the last step has it
        return step.result

    __call__ = generate

    @check_keywords
    def stream(
        self,
        prompt: str | Sequence[str],
        *,
        reference_images: Any = (),  # noqa: ANN401 - as in ImageRequest
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        steps: int | None = None,
        guidance_scale: float | None = None,
        guidance: float | None = None,
        negative_prompt: str = "",
        seed: int | None = None,
        num_images: int = 1,
        format: str = "png",
        quality: int | None = None,
    ) -> StepStream:
        """Each denoising step as it is done; leaving the loop cancels. The last has the images.

        Arguments and errors are those of `generate`; all of the user's mistakes are raised at
        once, before the first step.
        """
        request = ImageRequest(
            _prompts(prompt),
            reference_images,
            width=width,
            height=height,
            num_inference_steps=_either("steps", steps, "num_inference_steps", num_inference_steps),
            guidance_scale=_either("guidance", guidance, "guidance_scale", guidance_scale),
            negative_prompt=negative_prompt,
            seed=seed,
            num_images=num_images,
        )
        try:
            return self.stream_request(request, _output(format, quality))
        except InputError as error:
            # in the spelling that the caller used
            typed = {"num_inference_steps": steps, "guidance_scale": guidance}
            raise _respelled(error, typed) from None

    def stream_request(
        self, request: ImageRequest, output: OutputOptions | None = None
    ) -> StepStream:
        """The same for a request that was made before."""
        start = time.perf_counter()
        if not isinstance(request, ImageRequest):
            raise InputError(f"request: {quoted(request)} is no ImageRequest; call pipe.stream")
        checked = check(request, self.session, output)
        prepared = prepare(checked, self.sampler, self._files)
        self._log_warnings(prepared)
        resolved = prepared.resolved
        steps = self._steps(prepared, start)
        return StepStream(steps, resolved.num_inference_steps, len(resolved.seeds))

    def _log_warnings(self, prepared: PreparedRequest) -> None:
        """Those that the request before had not; a log must not hold a private prompt's words."""
        logged, self._warnings = self._warnings, prepared.warnings
        if not self.session.provenance.private:
            for warning in self._warnings:
                if warning not in logged:
                    _log.warning("%s", warning)

    def _steps(self, prepared: PreparedRequest, start: float) -> Generator[Step]:
        timings = {"check_seconds": time.perf_counter() - start}
        for one in self.sampler.steps(prepared.resolved, timings=timings):
            result = None
            if one.index == one.num_steps:
                result = self._finish(prepared, one.latents, timings)
                timings["total_seconds"] = time.perf_counter() - start
            yield Step(
                index=one.index,
                num_steps=one.num_steps,
                sigma=one.sigma,
                latents=one.latents,
                result=result,
                _preview=partial(self._preview, one.clean_latents),
            )

    def _finish(
        self, prepared: PreparedRequest, latents: Tensor, timings: dict[str, float]
    ) -> Result:
        start = time.perf_counter()
        pictures = self.sampler.decode(latents)
        decoded = time.perf_counter()
        outcomes = list(finish(prepared, pictures))
        timings["decode_seconds"] = decoded - start
        timings["finish_seconds"] = time.perf_counter() - decoded
        images = [one for one in outcomes if isinstance(one, GeneratedImage)]
        blocked = [one for one in outcomes if isinstance(one, BlockedImage)]
        if not images:
            raise blocked[0].located_error()
        for one in blocked:
            _log.warning("%s", one.located_error())
        return Result(images, blocked, timings, prepared.warnings)

    def _preview(self, clean_latents: Tensor) -> Image.Image:
        if self._preview_map is None:
            # fitted to the autoencoder, once
            self._preview_map = preview.fitted(self.sampler.encode_references)
        return self._preview_map.picture(clean_latents[:1])


@check_keywords
def load(
    model: str | Path = "mini",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    components: Components | None = None,
    offload: str = "auto",
    quantize: str | None = None,
    compile: bool | None = None,
    safety: str | bool | None = None,
    safety_tolerance: int = DEFAULT_TOLERANCE,
    provenance: ProvenanceOptions | None = None,
    progress: bool | None = None,
    residency: str | None = None,
) -> Pipeline:
    """A pipeline whose images are moderated, watermarked and signed.

    model: a name (`kleinod models`), a Hub repository id, a folder in the diffusers layout or a
    transformer's single file with `components`. device: cpu, cuda, cuda:0, mps. dtype: float32,
    bfloat16, float16. offload: none (all components stay on the device), model (one at a time),
    block (one block at a time); residency: its old name. quantize: int8 or fp8, not quite the same
    image. compile: the blocks; None: on CUDA cards. safety: "on", "off" or a bool; None: as
    `safety.toml` says, else on. safety_tolerance: 0 (strict) to 5 (loose). progress: as in
    `Pipeline.generate`. Raises InputError, WeightsError, MemoryLimitError.
    """
    components, offload = _components(components), _offload(offload, residency)
    session = Session.configured(safety=safety, tolerance=safety_tolerance, provenance=provenance)
    with progress_line(progress) as report:
        sampler = loading.load_sampler(
            model,
            device=device,
            dtype=dtype,
            components=components,
            offload=offload,
            quantize=quantize,
            compile=compile,
            progress=lambda stage, fraction: report("loading", fraction),
        )
    files = facts.model_files(model, components, full_hashes=session.provenance.full_hashes)
    return Pipeline(sampler, session, files=files)


def _offload(offload: str, residency: str | None) -> str:
    """The value of offload, whichever of its names it was given by."""
    if residency is None:
        return offload
    return str(_either("residency", residency, "offload", None if offload == "auto" else offload))


def _components(components: Components | None) -> Components:
    if not isinstance(components, Components | None):
        raise InputError(
            f"components: {quoted(components)} is no kleinod.Components; give "
            "kleinod.Components(text_encoder=…, autoencoder=…)"
        )
    return components or Components()


def _prompts(prompt: str | Sequence[str]) -> str | tuple[str, ...]:
    """As ImageRequest takes them; anything else is left for its own check."""
    return tuple(prompt) if isinstance(prompt, list) else prompt  # type: ignore[return-value]


def _either(short: str, short_value: Any, name: str, value: Any) -> Any:  # noqa: ANN401
    """The value of one of two spellings of an argument. Raises InputError for two values."""
    if short_value is not None and value is not None and short_value != value:
        raise InputError(f"{short}: {short_value} contradicts {name} {value}; give one of them")
    return value if short_value is None else short_value


def _output(format: str, quality: int | None) -> OutputOptions:
    """The kind of file. Raises InputError."""
    output = OutputOptions(_format_name(format), as_integer(quality))
    if quality is not None and output.format_name == "PNG":
        _log.warning("quality: %s has no effect on a PNG, which loses nothing", quoted(quality))
    return output


def _respelled(error: InputError, typed: Mapping[str, object]) -> InputError:
    """The error with its field as the caller spelled it: steps for num_inference_steps."""
    field_name, colon, rest = str(error).partition(":")
    if typed.get(field_name) is not None:
        error.args = (f"{_SHORT[field_name]}{colon}{rest}", *error.args[1:])
    return error


def _check_callback(on_step: object) -> None:
    """Raise InputError unless it can be called with a step."""
    if not callable(on_step):
        raise InputError(f"on_step: {quoted(on_step)} is no function; give one that takes a step")
    try:
        signature = inspect.signature(on_step)
    except (TypeError, ValueError):  # some functions of C have none
        return
    try:
        signature.bind(None)
    except TypeError:
        raise InputError(
            f"on_step: {quoted(on_step)} cannot be called with one argument, its parameters are "
            f"{quoted(str(signature))}; give a function that takes a step"
        ) from None


def _format_name(name: str) -> str:
    """PNG of png, JPEG of jpg. Raises InputError."""
    kind = FORMATS.get(f".{name.lower().removeprefix('.')}") if isinstance(name, str) else None
    if kind is None:
        known = ", ".join(suffix.removeprefix(".") for suffix in FORMATS)
        raise InputError(f"format: {quoted(name)} is unknown; give {known}")
    return kind
