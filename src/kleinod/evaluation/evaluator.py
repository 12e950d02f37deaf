"""Paint the stored cases with a sampler, mark them, and sum up.

Prompts without references are painted in batches, all with seeds counted from 1000. The Fréchet
distance compares the oracle's features of the single objects painted with those of many composed:
|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^½).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from kleinod.diffusion.sampler import Sampler
from kleinod.evaluation import case_set
from kleinod.evaluation.case_set import FOLDER, Case
from kleinod.evaluation.judge import Oracle
from kleinod.evaluation.scoring import Mark, mark, outside_error
from kleinod.icons.held_out_rules import EDITS, JOININGS

FIRST_SEED = 1000
BATCH = 12
Report = Callable[[str, float], None]
Scores = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How to paint; None takes the model's own."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int = FIRST_SEED


@dataclass(frozen=True)
class Evaluation:
    """What was painted and how it was marked, case by case."""

    pictures: list[np.ndarray]
    marks: list[Mark]
    scores: Scores


def evaluate(
    sampler: Sampler,
    cases: list[Case],
    *,
    settings: Settings,
    oracle: Oracle,
    report: Report,
) -> Evaluation:
    """Paint and mark every case; report(task, fraction) while it goes."""
    pictures = list(painted(sampler, cases, settings, report))
    marks = [mark(oracle, case, p) for case, p in zip(cases, pictures, strict=True)]
    scores = summed(marks)
    singles = [p for case, p in zip(cases, pictures, strict=True) if case.task == "single"]
    if len(singles) > 1:
        scores["frechet"] = frechet(oracle.features(singles), *composed_statistics())
    edits = [case for case in cases if case.task == "edit"]
    if edits:
        scores["edit outside error, autoencoder alone"] = autoencoder_error(sampler, edits)
    return Evaluation(pictures, marks, scores)


def painted(
    sampler: Sampler, cases: list[Case], settings: Settings, report: Report
) -> Iterator[np.ndarray]:
    """Pictures of the cases, in their order."""
    done = {case.task: 0 for case in cases}
    totals = {task: sum(case.task == task for case in cases) for task in done}
    for batch in _batches(cases):
        seed = settings.seed + done[batch[0].task]
        for picture in _paint(sampler, batch, replace(settings, seed=seed)):
            yield np.asarray(picture)
        done[batch[0].task] += len(batch)
        report(batch[0].task, done[batch[0].task] / totals[batch[0].task])


def _batches(cases: list[Case]) -> Iterator[list[Case]]:
    """Cases of one task and size that can be painted together; those with references alone."""
    for _, group in groupby(cases, key=lambda case: (case.task, case.target.size)):
        members = list(group)
        size = 1 if members[0].references else BATCH
        yield from (members[i : i + size] for i in range(0, len(members), size))


def _paint(sampler: Sampler, batch: list[Case], settings: Settings) -> list[Image.Image]:
    references = tuple(Image.fromarray(p) for p in batch[0].pictures[:-1])
    fields: dict[str, Any] = {"seed": settings.seed, "reference_images": references}
    if batch[0].task == "size":
        fields["width"], fields["height"] = batch[0].target.size
    result = sampler.generate(
        tuple(case.prompt for case in batch),
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        **fields,
    )
    return [made.image for made in result.images]


def summed(marks: list[Mark]) -> Scores:
    """Shares in %, by task and kind; errors in % of the range."""
    of = {task: [m for m in marks if m.case.task == task] for task in case_set.TASKS}
    scores: Scores = {}
    if of["single"]:
        for aspect in ("concept", "clear", "style", "background"):
            scores[f"single {aspect}"] = _mean(m.aspects[aspect] for m in of["single"])
    if of["pair"]:
        scores["pair both"] = _mean(m.is_right for m in of["pair"])
        scores["pair each"] = _mean(m.aspects["each"] for m in of["pair"])
    for task in ("count", "size"):
        if of[task]:
            scores[task] = _mean(m.is_right for m in of[task])
    _sum_kinds(scores, of["edit"], EDITS)
    _sum_kinds(scores, of["joining"], JOININGS)
    return scores


def _sum_kinds(scores: Scores, marks: list[Mark], kinds: tuple[str, ...]) -> None:
    if not marks:
        return
    task = marks[0].case.task
    scores[task] = _mean(m.is_right for m in marks)
    errors = [m.outside_error for m in marks if m.outside_error is not None]
    if errors:
        scores[f"{task} outside error"] = float(np.mean(errors))
    for kind in kinds:
        own = [m for m in marks if m.case.kind == kind]
        errors = [m.outside_error for m in own if m.outside_error is not None]
        if own:
            scores[f"{task} {kind}"] = _mean(m.is_right for m in own)
        if errors:
            scores[f"{task} {kind} outside error"] = float(np.mean(errors))


def _mean(shares: Any) -> float:  # noqa: ANN401 - an iterable of bools or floats
    return 100 * float(np.mean([float(share) for share in shares]))


@torch.inference_mode()
def autoencoder_error(sampler: Sampler, edits: list[Case]) -> float:
    """The error outside the edit that the autoencoder alone makes of perfect targets, in %."""
    autoencoder = sampler.residents.use("autoencoder")
    errors = []
    for case in edits:
        pixels = torch.from_numpy(case.pictures[-1].copy()).permute(2, 0, 1)[None].float()
        latents = autoencoder.encode((pixels / 127.5 - 1).to(sampler.device, sampler.dtype))
        errors.append(outside_error(case, np.asarray(sampler.decode(latents)[0])))
    return float(np.mean([error for error in errors if error is not None]))


def composed_statistics(folder: Path = FOLDER) -> tuple[Tensor, Tensor]:
    """Mean (f,) and covariance (f, f) of the oracle's features of composed single objects."""
    stored = load_file(folder / "statistics.safetensors")
    return stored["mean"].double(), stored["covariance"].double()


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of features (n, f)."""
    return features.double().mean(0), torch.cov(features.double().T)


def frechet(features: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """The Fréchet distance of features (n, f) from a normal distribution."""
    own_mean, own_covariance = moments(features)
    values, vectors = torch.linalg.eigh(covariance)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ own_covariance @ root).clamp(min=0).sqrt().sum()
    traces = own_covariance.trace() + covariance.trace()
    return float((own_mean - mean).pow(2).sum() + traces - 2 * shared)
