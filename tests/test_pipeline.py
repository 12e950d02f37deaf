"""The public pipeline: moderated, watermarked, signed images, step by step or all at once."""

import inspect
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kleinod
from kleinod.catalog import config_folder
from kleinod.provenance import audit_reading, verification
from kleinod.provenance.audit import AuditLog
from kleinod.safety.pictures import Drawings
from kleinod.safety.verdicts import SEXUAL

SIZE = {"width": 128, "height": 128}


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> kleinod.Pipeline:
    return kleinod.load(tiny_model)


def _block(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Give the results of a request these scores in turn."""
    turns = iter(scores)
    monkeypatch.setattr(Drawings, "scores", lambda *_: {SEXUAL: next(turns)})


def test_image_is_signed_and_repeatable(pipe: kleinod.Pipeline, tmp_path: Path) -> None:
    first, second = pipe.generate("a fox", seed=7, num_images=2, **SIZE)
    first.save(tmp_path / "a.png")
    evidence = verification.evidence(tmp_path / "a.png")
    summary = verification.summary(evidence)
    assert (summary["intact"], summary["manifest"]["state"]) == (True, "trusted")
    assert evidence.receipt == first.receipt
    assert [one.seed for one in (first, second)] == [7, 8]
    assert (tmp_path / "a.png").read_bytes() == first.data
    again = pipe("a fox", seed=7, num_images=2, **SIZE).images[0]
    assert again.receipt["picture"] == first.receipt["picture"]


def test_image_is_the_samplers_with_a_watermark(pipe: kleinod.Pipeline) -> None:
    bare = pipe.sampler.generate("a fox", seed=7, **SIZE).images[0]
    assert bare.seed == 7 and type(bare).__name__ == "SampledImage"
    finished = pipe.generate("a fox", seed=7, **SIZE)[0]
    difference = np.abs(np.asarray(bare.image, int) - np.asarray(finished.image, int))
    assert 0 < difference.mean() < 8


def test_reference_keeps_its_manifest(pipe: kleinod.Pipeline, tmp_path: Path) -> None:
    pipe.generate("a fox", seed=7)[0].save(tmp_path / "fox.png")
    references = [str(tmp_path / "fox.png"), Image.new("RGB", (80, 64), "brown")]
    edited = pipe.generate("both", reference_images=references, seed=7, format="jpg")[0]
    edited.save(tmp_path / "both.jpg")
    manifest = verification.evidence(tmp_path / "both.jpg").manifest
    assert manifest.ingredients == (
        "fox.png (with a manifest of its own)",
        "reference 2 (without a manifest)",
    )


def test_one_reference_needs_no_list(pipe: kleinod.Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "reference.png"
    Image.effect_mandelbrot((96, 80), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(path)
    with Image.open(path) as opened:
        sources = [path, str(path), opened.copy(), path.read_bytes(), [path], (path,)]
    hashes = {
        pipe.generate("edit", reference_images=source, seed=1)[0].receipt["picture"][
            "painted_sha256"
        ]
        for source in sources
    }
    assert len(hashes) == 1


def test_file_of_a_reference_is_read_once(
    pipe: kleinod.Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reference.png"
    Image.new("RGB", (96, 80), "brown").save(path)
    reads: list[str] = []
    sys.addaudithook(
        lambda event, args: (
            reads.append(str(args[0])) if event == "open" and str(args[0]) == str(path) else None
        )
    )
    pipe.generate("edit", reference_images=path, seed=1)
    assert reads == [str(path)]


def test_steps_and_guidance_have_two_spellings(pipe: kleinod.Pipeline) -> None:
    short, long = (
        pipe.generate("a fox", seed=1, **SIZE, **fields)[0].receipt["request"]
        for fields in (
            {"steps": 2, "guidance": 1.0},
            {"num_inference_steps": 2, "guidance_scale": 1},
        )
    )
    assert short == long and short["num_inference_steps"] == 2
    with pytest.raises(kleinod.InputError, match="steps: 2 contradicts num_inference_steps 3"):
        pipe.generate("a fox", steps=2, num_inference_steps=3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_inference_step": 4}, "'num_inference_step'; did you mean 'num_inference_steps'"),
        ({"num_images_per_prompt": 2}, "'num_images_per_prompt'; did you mean 'num_images'"),
        ({"reference_image": "a.png"}, "'reference_image'; did you mean 'reference_images'"),
        ({"widht": 64}, "'widht'; did you mean 'width'"),
        ({"format": "gif"}, "format: 'gif' is unknown; give png, jpg"),
        ({"format": 3}, "format: 3 is unknown"),
        ({"quality": 101, "format": "jpg"}, "quality: 101 is not from 0 to 100"),
        ({"seed": 2**63 - 1, "num_images": 2}, "seed: .* with 2 images"),
        ({"seed": 1.5}, "seed: 1.5 is not an integer"),
        ({"prompt": 5}, "prompt: 5 is not a string"),
    ],
)
def test_mistake_is_one_line_before_any_step(
    pipe: kleinod.Pipeline, fields: dict[str, Any], message: str
) -> None:
    for call in (pipe.generate, pipe.stream, pipe):
        with pytest.raises(kleinod.InputError, match=message) as caught:
            call(**{"prompt": "a fox", **fields})
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"torch_dtype": "float32"}, "'torch_dtype'; did you mean 'dtype'"),
        (
            {"offload": "all of it"},
            "offload: 'all of it' is unknown; give auto, none, model, block",
        ),
        ({"safety_tolerance": 9}, "safety_tolerance: 9 is not from 0 to 5"),
        ({"safety": "maybe"}, "safety: 'maybe' is unknown; give on or off"),
        ({"devcie": "cpu"}, "'devcie'; did you mean 'device'"),
    ],
)
def test_mistake_in_loading_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(kleinod.InputError, match=message):
        kleinod.load("mini", **options)


def test_watermark_is_checked_where_it_is_chosen() -> None:
    with pytest.raises(kleinod.InputError, match="watermark: 'invisible' is unknown; give robust"):
        kleinod.ProvenanceOptions(watermark="invisible")
    with pytest.raises(kleinod.InputError, match=r"'waterMark'; did you mean 'watermark'"):
        kleinod.ProvenanceOptions(waterMark="none")  # type: ignore[call-arg]


@pytest.mark.parametrize("offload", ["auto", "none", "model", "block", "all", "sequential"])
def test_offloading_changes_no_bit(pipe: kleinod.Pipeline, tiny_model: Path, offload: str) -> None:
    other = kleinod.load(tiny_model, offload=offload)
    mine, theirs = (p.generate("a fox", seed=3, **SIZE)[0] for p in (pipe, other))
    assert mine.receipt["picture"] == theirs.receipt["picture"]


def test_options_reach_the_receipt(tiny_model: Path) -> None:
    options = kleinod.ProvenanceOptions(watermark="none", c2pa=False, private=True)
    made = kleinod.load(tiny_model, provenance=options, safety="off").generate("a fox", seed=7)[0]
    assert made.receipt["c2pa"] == "off" and "prompt" not in made.receipt["request"]
    assert made.receipt["safety"] == {"filters": "off"} and not made.is_signed
    assert Image.open(io.BytesIO(made.data)).format == "PNG"


def test_saving_as_another_kind_signs_anew(pipe: kleinod.Pipeline, tmp_path: Path) -> None:
    made = pipe.generate("a fox", seed=7, **SIZE)[0]
    for name, kind in (("a.webp", "WEBP"), ("b.JPG", "JPEG"), ("c.avif", "AVIF")):
        saved = made.save(tmp_path / "new" / name)
        with Image.open(saved) as opened:
            assert opened.format == kind
        evidence = verification.evidence(saved)
        assert verification.summary(evidence)["manifest"]["state"] == "trusted"
        assert evidence.receipt == made.receipt
    for name in ("a.gif", "a", "a.png.txt"):
        with pytest.raises(kleinod.InputError, match=r"path: .* does not end in \.png"):
            made.save(tmp_path / name)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(kleinod.InputError, match="path: cannot write"):
        made.save(tmp_path / "file" / "a.png")


def test_mark_that_the_kind_destroys_is_refused_before_any_step(tiny_model: Path) -> None:
    pipe = kleinod.load(tiny_model, provenance=kleinod.ProvenanceOptions(watermark="reference"))
    with pytest.raises(kleinod.InputError, match="watermark: reference is lost in a WEBP"):
        pipe.stream("a fox", format="webp")
    made = pipe.generate("a fox", seed=1)[0]
    with pytest.raises(kleinod.InputError, match="watermark: reference is lost in a AVIF"):
        made._encode("AVIF")


def test_prompt_too_long_for_the_kind_is_refused_before_any_step(pipe: kleinod.Pipeline) -> None:
    words = "ab " * 20_000
    with pytest.raises(kleinod.InputError, match=r"prompt: .* bytes are over"):
        pipe.stream(words, format="jpeg")
    with pytest.raises(kleinod.InputError, match=r"prompt: .* bytes are over"):
        pipe.stream(["a fox", words], format="avif")


def test_blocked_image_spoils_no_other(
    pipe: kleinod.Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(tmp_path / "audit.jsonl"))
    _block(monkeypatch, 0.1, 0.95, 0.1, 0.1)
    result = pipe.generate("a fox", seed=7, num_images=4, **SIZE)
    assert [one.seed for one in result.images] == [7, 9, 10] and len(result) == 3
    assert [one.index for one in result.blocked] == [1]
    assert result.blocked[0].error.moment == "result"
    entries = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries] == [
        *("generated", "moderated", "generated", "generated")
    ]
    assert not audit_reading.verify(AuditLog(tmp_path / "audit.jsonl")).problems


def test_request_whose_images_are_all_blocked_raises(
    pipe: kleinod.Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    _block(monkeypatch, 0.95, 0.95)
    with pytest.raises(kleinod.ModeratedError, match="the result was blocked"):
        pipe.generate("a fox", seed=7, num_images=2, **SIZE)


def test_blocked_prompt_is_in_the_audit_log(
    pipe: kleinod.Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(log.path))
    with pytest.raises(kleinod.ModeratedError):
        pipe.generate(["a fox", "a nude woman"])
    entry = json.loads(log.path.read_text())
    assert entry["prompt_hmac"] == log.hashed("a nude woman")


def test_stream_gives_each_step_and_the_images_last(pipe: kleinod.Pipeline) -> None:
    steps = list(pipe.stream("a fox", seed=7, steps=3, **SIZE))
    assert [step.index for step in steps] == [1, 2, 3] and steps[0].num_steps == 3
    assert [step.preview().size for step in steps] == [(32, 32)] * 3
    assert [len(step.images) for step in steps] == [0, 0, 1]
    direct = pipe.generate("a fox", seed=7, steps=3, **SIZE)[0]
    assert steps[-1].images[0].receipt["picture"] == direct.receipt["picture"]
    assert steps[0].sigma == 1 > steps[1].sigma > steps[2].sigma > 0


def test_leaving_the_stream_cancels(pipe: kleinod.Pipeline, tmp_path: Path) -> None:
    for step in pipe.stream("a fox", seed=7, steps=3, **SIZE):
        if step.index == 2:
            break
    assert step.result is None
    assert pipe.generate("a fox", seed=7, steps=1, **SIZE).images


def test_on_step_sees_each_step_and_may_cancel(pipe: kleinod.Pipeline) -> None:
    seen: list[int] = []

    def on_step(step: kleinod.Step) -> None:
        seen.append(step.index)
        if step.index == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe.generate("a fox", steps=4, **SIZE, on_step=on_step)
    assert seen == [1, 2]


def test_failed_signature_keeps_the_image(
    pipe: kleinod.Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise kleinod.SigningError("c2pa: signing failed (the disk is full)")

    monkeypatch.setattr("kleinod.provenance.manifest.signed", fail)
    made = pipe.generate("a fox", seed=7, **SIZE)[0]
    assert made.receipt["c2pa"] == "failed" and not made.is_signed
    evidence = verification.evidence(made.save(tmp_path / "a.png"))
    assert evidence.receipt == made.receipt
    assert evidence.receipt["watermark"]["payload"]


def test_signer_that_cannot_sign_is_found_before_any_step(
    pipe: kleinod.Pipeline, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chain = config_folder() / "signing" / "certificates.pem"
    pipe.generate("a fox", seed=1, **SIZE)  # makes the certificates
    monkeypatch.setenv("KLEINOD_C2PA_CERTIFICATES", str(chain))
    for command in ("false", "/no/such/program", "echo no signature"):
        monkeypatch.setenv("KLEINOD_C2PA_SIGN_COMMAND", command)
        with pytest.raises(kleinod.InputError, match="c2pa: the configured signer cannot sign"):
            pipe.stream("a fox")


def test_objects_have_a_short_repr(pipe: kleinod.Pipeline) -> None:
    result = pipe.generate("a fox", seed=7, **SIZE)
    steps = list(pipe.stream("a fox", steps=1, **SIZE))
    objects = (
        *(pipe, pipe.sampler, result, result[0], steps[0], pipe.session),
        *(pipe.info, kleinod.ImageRequest("a", Image.new("RGB", (999, 999)))),
    )
    for one in objects:
        assert len(repr(one)) < 400, repr(one)
    assert repr(result[0]).startswith("<GeneratedImage 128x128, seed 7, PNG, ")


def test_notebook_shows_the_picture(pipe: kleinod.Pipeline) -> None:
    result = pipe.generate("a fox", seed=7, **SIZE, format="webp")
    for shown in (result._repr_png_(), result[0]._repr_png_()):
        assert shown is not None
        assert np.array_equal(
            np.asarray(Image.open(io.BytesIO(shown))), np.asarray(result[0].image)
        )
    assert pipe.generate("a fox", num_images=2, **SIZE)._repr_png_() is None


def test_habits_from_elsewhere_get_a_hint(pipe: kleinod.Pipeline) -> None:
    for name, hint in (
        ("to", "device='cuda'"),
        ("enable_model_cpu_offload", "offload='model'"),
        ("decode", "pipe.sampler.decode"),
    ):
        with pytest.raises(AttributeError, match=hint):
            getattr(pipe, name)
    assert not hasattr(pipe, "no_such_thing")
    with pytest.raises(AttributeError, match=r"kleinod\.load"):
        _ = kleinod.Painter


def test_public_names_are_all_there() -> None:
    code = (
        "import sys, kleinod; assert 'torch' not in sys.modules; "
        "assert {'load', 'Pipeline', 'ModeratedError', 'FilterError', 'MemoryLimitError', "
        "'Step', 'Result', 'GeneratedImage', 'ImageRequest'} <= set(dir(kleinod)); "
        "assert not {'Any', 'annotations', 'TYPE_CHECKING', 'import_module'} & set(dir(kleinod)); "
        "[getattr(kleinod, name) for name in dir(kleinod)]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_generate_and_stream_take_the_same_arguments() -> None:
    generate, stream = (
        inspect.signature(getattr(kleinod.Pipeline, name)).parameters
        for name in ("generate", "stream")
    )
    assert set(generate) - set(stream) == {"progress", "on_step"}
    assert all(stream[name] == generate[name] for name in stream)
    fields = set(inspect.signature(kleinod.ImageRequest).parameters)
    assert fields <= set(stream)
