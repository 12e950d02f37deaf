"""The public pipeline: moderated, watermarked, signed images, step by step or all at once."""

import inspect
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import kleinod
from kleinod.audit import audit_log_reader
from kleinod.audit.audit_log import AuditLog
from kleinod.catalog import config_folder
from kleinod.provenance import verification
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
        ({"mask_image": "a.png"}, "'mask_image'; masks are not supported; say in the prompt"),
        ({"output_type": "np"}, r"'output_type'; each of a result's images has \.image"),
        ({"strength": 0.8}, "'strength'; a reference image is edited as the prompt says"),
        ({"torch_dtype": "bf16"}, r"'torch_dtype'; it is an argument of kleinod\.load: dtype=…"),
        ({"device": "cpu"}, r"'device'; it is an argument of kleinod\.load: device=…"),
        ({"prompt_embeds": 1}, "'prompt_embeds'; prompts are given as text"),
        ({"sigmas": [1, 0]}, "'sigmas'; the schedule is the model's own"),
        ({"generator": 3}, "'generator'; did you mean 'seed'"),
        ({"steps": 0}, "^steps: 0 is under 1"),
        ({"num_inference_steps": 0}, "^num_inference_steps: 0 is under 1"),
        ({"guidance": 0.1}, "^guidance: 0.1 is under 1"),
        ({"guidance_scale": "x"}, "^guidance_scale: 'x' is not"),
        ({"x" * 5000: 1}, "unknown argument 'xxx.*…; known are"),
        ({"reference_images": "x" * 5000}, "^reference_images: cannot read xxx"),
        ({"format": "x" * 5000}, "^format: 'xxx.*… is unknown"),
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
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: pipe("a fox", 7), "generate: 7 is one argument too many; give it by name"),
        (lambda pipe: pipe.generate("a fox", 7, 8), "generate: 7 is one argument too many; give"),
        (lambda pipe: pipe.stream("a fox", "b"), r"stream: 'b' is .* \(reference_images=…, "),
        (lambda pipe: pipe(), r"^prompt: nothing is given; call .*\(prompt=…\)"),
        (lambda pipe: pipe.generate(seed=7), r"^prompt: nothing is given"),
        (lambda pipe: pipe.stream(), r"^prompt: nothing is given; call stream\(prompt=…\)"),
        (lambda pipe: pipe("a", prompt="b"), r"^prompt: 'b' is a second value"),
        (lambda pipe: pipe("a", on_step=3), r"^on_step: 3 is no function"),
        (lambda pipe: pipe("a", on_step=lambda: 0), r"^on_step: <function .*cannot be called with"),
        (lambda pipe: pipe("a", on_step=lambda a, b: 0), r"^on_step: .* '\(a, b\)'; give a"),
        (lambda pipe: pipe("a", progress="x"), r"^progress: 'x' is not a bool"),
        (lambda pipe: pipe.stream_request("a"), r"^request: 'a' is no ImageRequest"),
        (lambda pipe: kleinod.load(progress=3), r"^progress: 3 is not a bool"),
        (lambda pipe: kleinod.load(None), r"^model: None is not a path"),
        (lambda pipe: kleinod.load(3), r"^model: 3 is not a path"),
        (lambda pipe: kleinod.load(b"mini"), r"^model: b'mini' is not a path"),
        (lambda pipe: kleinod.load("mini", "cpu"), r"^load: 'cpu' is one argument too many"),
        (lambda pipe: kleinod.load(components="x"), r"^components: 'x' is no kleinod.Components"),
        (lambda pipe: kleinod.load(components={"vae": 1}), r"^components: \{'vae': 1\} is no "),
        (lambda pipe: kleinod.load(offload=3), r"^offload: 3 is unknown; give auto"),
        (lambda pipe: kleinod.load(offload=["none"]), r"^offload: \['none'\] is unknown"),
        (lambda pipe: kleinod.load(dtype=16), r"^dtype: 16 is unknown; give float32"),
        (lambda pipe: kleinod.load(device=[]), r"^device: \[\] is unknown"),
        (lambda pipe: kleinod.load(safety=3), r"^safety: 3 is unknown; give on or off"),
        (lambda pipe: kleinod.load(strength=3), r"'strength'; a reference image is"),
        (lambda pipe: kleinod.load(vae="x"), r"'vae'; give components=kleinod.Components"),
        (lambda pipe: kleinod.load(revision="main"), r"'revision'; models are loaded from this"),
        (lambda pipe: kleinod.load(num_steps=3), r"an argument of generate: .*inference_steps=…"),
        (lambda pipe: kleinod.load(seed=3), r"'seed'; it is an argument of generate"),
        (lambda pipe: kleinod.load(residency="all", offload="model"), "residency: all contradicts"),
        (lambda pipe: kleinod.Pipeline("mini"), r"call kleinod.load\('mini'\)"),
    ],
)
def test_wrong_call_is_one_line(
    pipe: kleinod.Pipeline, call: Callable[[kleinod.Pipeline], object], message: str
) -> None:
    with pytest.raises(kleinod.InputError, match=message) as caught:
        call(pipe)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("on_step", [print, [].append, lambda *steps: None, lambda a, b=1: None])
def test_what_can_take_a_step_is_called(
    pipe: kleinod.Pipeline, on_step: Callable[[kleinod.Step], object]
) -> None:
    assert len(pipe("a fox", steps=1, **SIZE, on_step=on_step)) == 1


@pytest.mark.parametrize("path", [3, None, b"a.png", ["a.png"]])
def test_picture_is_saved_at_a_path_only(pipe: kleinod.Pipeline, path: object) -> None:
    made = pipe("a fox", steps=1, **SIZE)[0]
    with pytest.raises(kleinod.InputError, match=r"^path: .* is not a path; give a string"):
        made.save(path)
    with pytest.raises(kleinod.InputError, match=r"^path: nothing is given"):
        made.save()


def test_generated_image_is_a_reference(pipe: kleinod.Pipeline) -> None:
    result = pipe("a fox", seed=7, **SIZE)
    bare = pipe.sampler.generate("a fox", seed=7, **SIZE)
    prints = []
    for source in (result, result[0], [result[0]], [result], result[0].data):
        edited = pipe("edit", reference_images=source, seed=1)[0]
        prints.append(edited.receipt["picture"]["painted_sha256"])
    assert len(set(prints)) == 1
    for source in (bare, bare.images[0], result):
        assert pipe.sampler.generate("edit", reference_images=source, seed=1).images
    two = pipe("a fox", num_images=2, **SIZE)
    with pytest.raises(kleinod.InputError, match=r"^reference_images: .*a result with 2 images"):
        pipe("edit", reference_images=two)
    assert len(pipe("edit", reference_images=two.images)) == 1


@pytest.mark.parametrize(("safety", "is_on"), [(True, True), (False, False), ("on", True)])
def test_safety_may_be_a_bool(tiny_model: Path, safety: bool | str, is_on: bool) -> None:
    assert (kleinod.load(tiny_model, safety=safety).session.guard is not None) == is_on


@pytest.mark.parametrize("dtype", ["bf16", "bfloat16", "torch.bfloat16", torch.bfloat16])
def test_number_formats_have_several_spellings(tiny_model: Path, dtype: str | torch.dtype) -> None:
    assert kleinod.load(tiny_model, dtype=dtype).sampler.dtype == torch.bfloat16
    assert kleinod.load(tiny_model, dtype="fp32").sampler.dtype == torch.float32


def test_whole_numbers_of_every_type_are_taken(tiny_model: Path) -> None:
    pipe = kleinod.load(tiny_model, safety_tolerance=np.int64(3))
    made = pipe("a fox", seed=7.0, steps=np.int32(1), quality=np.uint8(80), format="jpg", **SIZE)[0]
    assert made.seed == 7 and json.dumps(made.receipt)


@pytest.mark.parametrize(("word", "policy"), [("all", "none"), ("sequential", "model")])
def test_old_words_of_offload_are_understood_and_logged(
    tiny_model: Path, word: str, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("offload", "residency"):
        caplog.clear()
        pipe = kleinod.load(tiny_model, **{name: word})
        assert pipe.sampler.residents.policy == policy
        assert [record.getMessage() for record in caplog.records] == [
            f"offload: '{word}' is deprecated, and the next release does not accept it; "
            f"give '{policy}'"
        ]


def test_quality_of_a_png_is_warned_of(
    pipe: kleinod.Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    pipe("a fox", steps=1, quality=80, **SIZE)
    assert "quality: 80 has no effect on a PNG" in caplog.text
    caplog.clear()
    pipe("a fox", steps=1, quality=80, format="webp", **SIZE)
    assert "quality" not in caplog.text


def test_created_folder_is_logged(
    pipe: kleinod.Pipeline, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = pipe("a fox", steps=1, **SIZE)[0]
    with caplog.at_level("INFO"):
        made.save(tmp_path / "new" / "deeper" / "a.png")
    assert f"created folder {tmp_path / 'new' / 'deeper'}" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"torch_dtypes": "float32"}, "'torch_dtypes'; did you mean 'dtype'"),
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
    pipe: kleinod.Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(tmp_path / "audit.jsonl"))
    _block(monkeypatch, 0.1, 0.95, 0.1, 0.1)
    result = pipe.generate("a fox", seed=7, num_images=4, **SIZE)
    assert [one.seed for one in result.images] == [7, 9, 10] and len(result) == 3
    assert [one.index for one in result.blocked] == [1]
    assert result.blocked[0].error.moment == "result"
    where = "image 2 of 4 (seed 8, prompt 'a fox')"
    assert where in caplog.text and result.blocked[0].where == where
    assert (result.blocked[0].seed, result.blocked[0].prompt) == (8, "a fox")
    entries = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in entries] == [
        *("generated", "moderated", "generated", "generated")
    ]
    assert not audit_log_reader.verify(AuditLog(tmp_path / "audit.jsonl")).problems


def test_blocked_image_of_several_prompts_is_named(
    pipe: kleinod.Pipeline, monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    _block(monkeypatch, 0.1, 0.1, 0.95, 0.1)
    result = pipe(["a fox", "an owl"], seed=7, num_images=2, **SIZE)
    assert [str(one.error)[:45] for one in result.blocked] == [
        "image 3 of 4 (seed 9, prompt 'an owl'): the r"
    ]
    private = kleinod.load(tiny_model, provenance=kleinod.ProvenanceOptions(private=True))
    _block(monkeypatch, 0.1, 0.95)
    hidden = private(["a fox", "an owl"], seed=7, **SIZE).blocked[0]
    assert hidden.prompt is None and hidden.where == "image 2 of 2 (seed 8)"


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
    stream = pipe.stream("a fox", steps=2, **SIZE)
    steps = list(stream)
    several = pipe.generate(["a fox", "an owl"], num_images=2, steps=1, **SIZE)
    assert repr(stream) == "<StepStream 2 of 2 steps done, 1 image>"
    assert "GeneratedImage" not in repr(steps[-1]) and "object at 0x" not in repr(pipe.session)
    assert len(repr(several)) < 600
    objects = (
        *(stream, steps[-1]),
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
    for name in ("vae", "transformer", "scheduler", "device", "dtype", "unet", "cuda"):
        with pytest.raises(AttributeError, match=f"no attribute '{name}'; .{{20,}}"):
            getattr(pipe, name)
    for name in ("enable_xformers_memory_efficient_attention", "enable_vae_tiling", "disable_x"):
        with pytest.raises(AttributeError, match=r"nothing has to be switched on; .*offload"):
            getattr(pipe, name)
    for name in ("from_pretrained", "Flux2KleinPipeline", "DiffusionPipeline", "generate"):
        with pytest.raises(AttributeError, match=rf"no attribute '{name}'; call kleinod\.load\("):
            getattr(kleinod, name)
    with pytest.raises(AttributeError, match=r"no attribute 'from_pretrained'; kleinod\.load"):
        _ = kleinod.Pipeline.from_pretrained
    for name in ("show", "size", "resize"):
        with pytest.raises(AttributeError, match=rf"the PIL image has it: \.image\.{name}"):
            getattr(pipe("a fox", steps=1, **SIZE)[0], name)
    for one in (pipe, kleinod, kleinod.Pipeline):
        with pytest.raises(AttributeError, match=r"no attribute 'no_such_thing'$"):
            _ = one.no_such_thing
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


def test_documented_filter_blocks_as_documented(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "filters.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    exec(page.split("```python\n")[1].split("```")[0], names)
    point = SimpleNamespace(name="no-clowns", load=lambda: names["NoClowns"])
    monkeypatch.setattr("kleinod.safety.guard.entry_points", lambda group: [point])
    pipe = kleinod.load(tiny_model)
    assert pipe("a fox", steps=1, **SIZE).images
    with pytest.raises(kleinod.ModeratedError) as caught:
        pipe("a sad Clown", steps=1, **SIZE)
    line = page.split("moderated: ")[1].split(";")[0]
    assert str(caught.value).startswith(line)
