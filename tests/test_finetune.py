"""`kleinod train`: a folder becomes a model; mistakes are one line before anything is loaded."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from kleinod.cli.app import app
from kleinod.cli.train import _record_listener
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import InputError, NumericalError
from kleinod.training import checkpoints, finetune, preflight
from kleinod.training.finetune import read_recipe
from kleinod.training.trainable import trainable, write

DOCS = Path(__file__).parent.parent / "docs" / "training.md"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of three shapes, one of them an edit of a reference."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, size in enumerate(((130, 140), (128, 128), (200, 100))):
        Image.new("RGB", size, (80 * index, 40, 200)).save(folder / f"p{index}.png")
        (folder / f"p{index}.txt").write_text(f"colour number {index}\n")
    Image.new("RGB", (64, 64), "red").save(folder / "p1.ref1.png")
    return folder


class Done(NamedTuple):
    """A command's status and its two outputs."""

    status: int
    out: str
    err: str


Train = Callable[..., Done]


@pytest.fixture
def train(pictures: Path, tiny_model: Path) -> Train:
    """Runs `kleinod train` on the tiny model with fields changed (None: left out)."""

    def run(*flags: str, **changes: object) -> Done:
        values = {"model": str(tiny_model), "data": "pictures", "output": "out"}
        values |= {"steps": 4, "batch": 2, "report_every": 2, "max_pixels": 4096, **changes}
        text = "".join(f"{n} = {json.dumps(v)}\n" for n, v in values.items() if v is not None)
        config = pictures.parent / "c.toml"
        config.write_text(text.replace("Infinity", "inf").replace("NaN", "nan"))
        done = CliRunner().invoke(app, ["train", str(config), *flags])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


def error_of(done: Done, status: int = 2) -> str:
    """The one line of a refusal."""
    assert done.status == status, done
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and done.err.splitlines()[-1] == lines[0], done.err
    return lines[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data = 'd'\noutput = 'o'\nstep = 5", "step is unknown; did you mean steps?"),
        ("data = 'd'\noutput = 'o'\nlearning-rate = 5", "did you mean learning_rate?"),
        ("data = 'd'\noutput = 'o'\n[train]\nsteps = 5", "train is unknown"),
        ("output = 'o'", "data is missing"),
        ("data = 'd'\noutput = 'o'\nsteps = 'many'", "steps: 'many' is not an integer"),
        ("data = 'd'\noutput = 'o'\nsteps = 5.0", "steps: 5.0 is not an integer"),
        ("data = 'd'\noutput = 'o'\nsteps = true", "steps: True is not an integer"),
        ("data = 'd'\noutput = 3", "output: 3 is not text in quotes"),
        ("data = 'd'\noutput = 'o'\ntrains = 'some'", "give transformer or all"),
        ("data = 'd'\noutput = 'o'\nbatch = -1", "batch: -1 is under 1"),
        ("data = 'd'\noutput = 'o'\nmodel = ''", "model is empty"),
        ("data = ", "cannot be read (not valid TOML"),
    ],
)
def test_mistake_in_the_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_recipe(tmp_path / "c.toml")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("steps", "batch", "warmup", "accumulation", "report_every")),
        *((name, -3) for name in ("steps", "seed", "learning_rate", "muon_rate", "max_pixels")),
        *((name, float("nan")) for name in ("learning_rate", "average", "dropout", "shift")),
        *((name, float("inf")) for name in ("learning_rate", "muon_rate", "spread")),
        *(("dropout", 1.5), ("decay_from", 2), ("average", 1.0), ("steps", 10**30)),
        *(("max_pixels", 100), ("max_pixels", 10**9), ("seed", 2**64), ("batch", 10**6)),
        ("learning_rate", 10**400),
    ],
)
def test_value_out_of_range_is_refused_first(train: Train, name: str, value: float) -> None:
    assert re.search(
        rf"c\.toml: {name}: .* is (not finite|under|over)", error_of(train(**{name: value}))
    )


@pytest.mark.parametrize(
    "error", [None, InputError("data: gone"), NumericalError("loss"), KeyboardInterrupt()]
)
def test_process_group_is_left_however_training_ends(
    train: Train, monkeypatch: pytest.MonkeyPatch, error: BaseException | None
) -> None:
    def finish(*_: object, **__: object) -> Path:
        if error is not None:
            raise error
        return Path("out")

    calls: list[str] = []
    monkeypatch.setattr(finetune, "finetune", finish)
    monkeypatch.setattr("kleinod.training.distributed.stop", lambda: calls.append("stop"))
    train()
    assert calls == ["stop"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_configuration_is_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    text = "data = 'Füchse'\r\noutput = 'o'\r\n"
    (tmp_path / "c.toml").write_bytes(text.encode(encoding))
    assert read_recipe(tmp_path / "c.toml").data == str(tmp_path / "Füchse")
    (tmp_path / "c.toml").write_bytes(text.encode("cp1252"))
    with pytest.raises(InputError, match=r"c\.toml .*save it as UTF-8"):
        read_recipe(tmp_path / "c.toml")


def test_every_path_is_relative_to_the_file_or_to_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "sub" / "own").mkdir(parents=True)
    config = tmp_path / "sub" / "c.toml"
    config.write_text("model = 'own'\ndata = '~/d'\noutput = '../o'\nrun = '~/r'\n")
    recipe = read_recipe(config)
    assert (recipe.model, recipe.data) == (str(config.parent / "own"), str(tmp_path / "home/d"))
    assert (recipe.output, recipe.run) == (str(config.parent / "../o"), str(tmp_path / "home/r"))
    config.write_text("model = '~/m'\ndata = 'd'\noutput = '~/o'\n")
    recipe = read_recipe(config)
    assert (recipe.model, recipe.run) == (str(tmp_path / "home/m"), str(tmp_path / "home/o-run"))
    config.write_text("model = 'mini'\ndata = 'd'\noutput = 'o'\n")
    assert read_recipe(config).model == "mini"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output": "pictures"}, "output: .*pictures is also data"),
        ({"output": "pictures/../pictures/"}, "is also data"),
        ({"output": "."}, "output: .* contains data"),
        ({"run": "pictures"}, "run: .*pictures is also data"),
        ({"run": "out"}, "run: .*out is also output"),
        ({"output": "/proc/nothing"}, r"output: cannot write /proc/nothing \("),
        ({"run": "/proc/nothing"}, r"run: cannot write /proc/nothing \("),
        ({"output": "c.toml"}, r"output: cannot write .*c\.toml \(Not a directory"),
        ({"output": "c.toml/out"}, "output: cannot write"),
        ({"output": "x" * 300}, "output: cannot write .*File name too long"),
        ({"data": "x" * 300}, "data: "),
        ({"data": "nowhere"}, "data: .*nowhere is not a folder"),
        ({"model": "nowhere"}, "model: nowhere"),
        ({"device": "gpu"}, "device: 'gpu' cannot be used"),
        ({"sharded": True}, "sharded: needs several processes; start it by torchrun"),
    ],
)
def test_folders_that_do_not_fit_are_refused_first(
    train: Train, pictures: Path, changes: dict[str, Any], message: str
) -> None:
    before = sorted(os.listdir(pictures.parent))
    assert re.search(message, error_of(train(**changes)))
    assert sorted({*before, "c.toml"}) == sorted(os.listdir(pictures.parent))


def test_folder_of_other_things_is_not_written_into(train: Train, pictures: Path) -> None:
    mine = pictures.parent / "mine" / "vae"
    mine.mkdir(parents=True)
    (mine / "mine.safetensors").write_bytes(b"precious")
    assert "output: " in error_of(train(output="mine"))
    assert (mine / "mine.safetensors").read_bytes() == b"precious"


def test_model_that_would_be_overwritten_is_kept(train: Train, tiny_model: Path) -> None:
    assert "output: " in error_of(train(output=str(tiny_model)))
    assert "run: " in error_of(train(run=str(tiny_model)))


def _no_pictures(folder: Path) -> None:
    (folder / "p2.txt").unlink()


def _broken_picture(folder: Path) -> None:
    (folder / "p0.png").write_bytes((folder / "p0.png").read_bytes()[:60])


def _broken_reference(folder: Path) -> None:
    (folder / "p1.ref1.png").write_text("no picture")


def _caption_in_cp1252(folder: Path) -> None:
    (folder / "p0.txt").write_bytes(b"Caf\xe9")


def _dangling_link(folder: Path) -> None:
    (folder / "p0.png").unlink()
    (folder / "p0.png").symlink_to(folder / "gone.png")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_pictures, r"p2\.png for one"),
        (_broken_picture, r"p0\.png"),
        (_broken_reference, r"p1\.ref1\.png"),
        (_caption_in_cp1252, r"p0\.txt .*save it as UTF-8"),
        (_dangling_link, r"p0\.png"),
    ],
)
def test_broken_data_is_found_before_the_model_is_loaded(
    train: Train,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    message: str,
) -> None:
    monkeypatch.setattr(
        finetune, "load_sampler", lambda *a, **k: pytest.fail("the model was loaded")
    )
    damage(pictures)
    assert re.search(f"error: data: .*{message}", error_of(train()))


def test_too_little_room_is_found_before_the_model_is_loaded(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        finetune, "load_sampler", lambda *a, **k: pytest.fail("the model was loaded")
    )
    with monkeypatch.context() as patch:
        patch.setattr(preflight.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        assert re.search("disk: .* GB free, checkpoints and the model need", error_of(train()))
    monkeypatch.setattr(preflight, "available_bytes", lambda: 1000)
    assert "memory: 0.0 GB are free" in error_of(train(), status=1)


def test_quantised_model_is_refused_before_it_is_loaded(
    train: Train, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "fp8.safetensors"
    arguments = ["convert", str(tiny_model / "transformer"), str(file), "--to", "bfl-fp8"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    monkeypatch.setattr(
        finetune, "load_sampler", lambda *a, **k: pytest.fail("the model was loaded")
    )
    parts = {"text_encoder": "text_encoder", "autoencoder": "vae", "tokenizer": "tokenizer"}
    fields = {name: str(tiny_model / folder) for name, folder in parts.items()}
    message = error_of(train(model=str(file), **fields))
    assert "fp8.safetensors is quantised" in message
    assert 'set text_encoder = "PATH"' in error_of(train(model=str(file)))


def test_bfloat16_model_trains_on_every_processor(train: Train, pictures: Path) -> None:
    """q, k and v apart in mapped files, or weights multiplied in float32: neither is quantised."""
    assert train(steps=1).status == 0
    out = pictures.parent / "out"
    states = [
        trainable(load_sampler(out, device="cpu", dtype=dtype, offload="none")).state_dict()
        for dtype in ("bfloat16", "float32")
    ]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert train(steps=1, model="out", output="again").status == 0
    facts = json.loads((pictures.parent / "again" / "kleinod.json").read_text())
    assert facts["name"] == "tiny, fine-tuned"


def test_counts_are_told_before_the_first_step(train: Train, pictures: Path) -> None:
    (pictures / "notes.md").write_text("mine")
    (pictures / "p0.txt").write_text("")
    (pictures / "p2.txt").write_text("word " * 99)
    done = train(steps=1)
    lines = done.err.splitlines()
    assert any("data: 3 pictures, 2 captions, 1 reference in" in line for line in lines)
    assert any("1 of 64x64 with 1 reference" in line for line in lines)
    assert "left out: notes.md (neither a picture nor a caption)" in lines
    assert "empty captions: p0.png" in lines
    assert "captions cut after the 32 tokens that tiny reads: p1.png, p2.png" in lines
    assert [sorted(json.loads(line)) for line in done.out.splitlines()[:-1]] == [
        ["loss", "samples_per_second", "step"]
    ]
    assert done.out.splitlines()[-1] == str(pictures.parent / "out")


def test_json_lines_are_events(train: Train, pictures: Path) -> None:
    (pictures / "._p0.png").write_bytes(b"\0\5\x16\7")
    events = [json.loads(line) for line in train("--json").out.splitlines()]
    assert [event["event"] for event in events] == ["data", "step", "step", "output"]
    data = events[0]
    assert (data["pictures"], data["captions"], data["references"]) == (3, 3, 1)
    assert data["left_out"] == [{"file": "._p0.png", "reason": "hidden or system file"}]
    assert sum(size["pictures"] for size in data["sizes"]) == 3
    assert events[-1]["folder"] == str(pictures.parent / "out")


HOPELESS = {"learning_rate": 1e30, "muon_rate": 1e30, "warmup": 1}


@pytest.mark.parametrize("report_every", [1, 2, 50])
def test_loss_that_is_not_finite_stops_without_a_model(
    train: Train, pictures: Path, report_every: int
) -> None:
    done = train(**HOPELESS, report_every=report_every)
    assert re.search(r"not finite .*step 1; .*smaller learning rate", error_of(done, status=1))
    assert "NaN" not in done.out and not (pictures.parent / "out").exists()
    assert train(report_every=report_every).status == 0


@pytest.mark.parametrize("changes", [{"report_every": 1}, {"report_every": 100}])
def test_last_good_checkpoint_is_kept_and_resumed(
    train: Train, pictures: Path, changes: dict[str, Any]
) -> None:
    assert train(steps=2).status == 0
    run = pictures.parent / "out-run"
    kept = {name: (run / name).read_bytes() for name in ("flow.safetensors", "flow-0.safetensors")}
    done = train(steps=6, **HOPELESS, **changes)
    assert "the checkpoint of step 2 is kept" in error_of(done, status=1)
    assert kept == {name: (run / name).read_bytes() for name in kept}
    done = train(steps=6, **changes)
    assert done.status == 0 and "steps 3 to 6" in done.err
    trained = load_file(pictures.parent / "out/transformer/diffusion_pytorch_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in trained.values())
    lines = (run / "flow.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines][-1] == 6


def test_model_with_broken_weights_is_found_before_the_first_step(
    train: Train, tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", tiny_model, broken], check=True)
    file = broken / "transformer" / "model.safetensors"
    tensors = load_file(file)
    tensors["final_layer.linear.weight"][0, 0] = float("nan")
    save_file(tensors, file)
    done = train(model=str(broken))
    # where weights are converted when they are loaded it is found there, and names the tensor
    message = error_of(done, status=done.status)
    if done.status == 2:
        assert "tensor final_layer.linear.weight holds NaN" in message
    else:
        assert "not finite with the weights of step 0, before any update; check the" in message


def test_weights_that_are_not_finite_are_never_written(tiny_model: Path, tmp_path: Path) -> None:
    pipeline = load_sampler(tiny_model, device="cpu", offload="none")
    values = trainable(pipeline).state_dict()
    name = "transformer.img_in.weight"
    for bad in (float("nan"), float("inf"), 3.4e38):  # the last is infinite in bfloat16
        values[name] = torch.full_like(values[name], bad)
        with pytest.raises(NumericalError, match=r"img_in.*not finite"):
            write(pipeline, values, model=str(tiny_model), folder=tmp_path / "out", name="x")
        assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.json"))


def test_changed_pictures_are_trained_on_after_resuming(
    train: Train, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert train(steps=2).status == 0
    for name in ("p3.png", "p4.png"):
        Image.new("RGB", (64, 96), "blue").save(pictures / name)
        (pictures / name).with_suffix(".txt").write_text("blue")
    assert train(steps=4).status == 0
    assert "goes on at step 2 with other examples" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trains": "all"}, "another trains"),
        ({"weights": "bfloat16"}, "another weights"),
        ({"model": "mini"}, "another model"),
        ({"steps": 1}, "steps: 1 is under the 2 steps"),
    ],
)
def test_checkpoint_of_another_training_is_refused(
    train: Train, changes: dict[str, Any], message: str
) -> None:
    assert train(steps=2).status == 0
    assert message in error_of(train(**changes))


@pytest.mark.parametrize("name", ["flow.safetensors", "flow-0.safetensors"])
def test_damaged_checkpoint_is_one_line(train: Train, pictures: Path, name: str) -> None:
    assert train(steps=2).status == 0
    file = pictures.parent / "out-run" / name
    file.write_bytes(file.read_bytes()[:-100])
    assert re.search(rf"run: .*{name} is not a whole checkpoint", error_of(train()))
    file.write_bytes(b"")
    assert re.search(rf"run: .*{name} is not a whole checkpoint", error_of(train()))


def test_checkpoint_that_is_not_finite_is_not_resumed(train: Train, pictures: Path) -> None:
    assert train(steps=2).status == 0
    file = pictures.parent / "out-run" / "flow.safetensors"
    state = checkpoints.load(file)
    assert state is not None
    state["average"]["transformer.img_in.weight"][0] = torch.nan
    checkpoints.save(file, state)
    assert re.search(r"run: average/transformer\.img_in\.weight in .* delete it", error_of(train()))


def test_second_training_in_the_same_folder_is_refused(train: Train, pictures: Path) -> None:
    from filelock import FileLock

    (pictures.parent / "out-run").mkdir()
    with FileLock(pictures.parent / "out-run" / ".lock"):
        assert "run: another training uses" in error_of(train())


def test_every_picture_of_a_large_folder_is_encoded(
    train: Train, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune.FinetuneRecipe, "first_examples", 1)
    for number in range(70):
        Image.new("RGB", (64, 64), "blue").save(pictures / f"more{number}.png")
        (pictures / f"more{number}.txt").write_text("blue")
    assert train(steps=1).status == 0
    state = checkpoints.load(pictures.parent / "out-run" / "flow-0.safetensors")
    assert state is not None
    assert sum(pool["count"] for pool in state["objective"]["pools"]) == 73


def test_disk_that_fills_up_keeps_the_last_checkpoint(
    train: Train, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(steps=2).status == 0
    file = pictures.parent / "out-run" / "flow.safetensors"
    kept = file.read_bytes()

    def full(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    message = error_of(train(steps=4), status=1)
    assert "No space left on device" in message and "run it again to resume" in message
    assert file.read_bytes() == kept and not list(file.parent.glob(".kleinod-*"))


def _start(config: Path, *, report_every: int = 1000) -> subprocess.Popen[str]:
    text = config.read_text().replace("report_every = 2", f"report_every = {report_every}")
    config.write_text(text.replace("steps = 1", "steps = 100000"))
    command = [sys.executable, "-m", "kleinod", "train", str(config)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_leaves_a_checkpoint_and_says_how_to_resume(
    train: Train, pictures: Path, number: signal.Signals, status: int
) -> None:
    assert train(steps=1).status == 0
    process = _start(pictures.parent / "c.toml")
    assert process.stderr is not None
    line = ""
    while "steps 2 to" not in line:
        line = process.stderr.readline()
        assert line or process.poll() is None
    time.sleep(5)  # it is stepping now, or still loading on a slow machine
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    facts = checkpoints.read_facts(pictures.parent / "out-run" / "flow.safetensors")
    assert facts is not None and f"resumes from step {facts['step']} in" in err
    assert "Traceback" not in err
    done = train(steps=facts["step"] + 1)
    assert done.status == 0 and f"steps {facts['step'] + 1} to {facts['step'] + 1}" in done.err


def test_reports_are_sentences_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"step": 5, "loss": 0.25, "samples_per_second": 3.0}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _record_listener(False, 10)(record)
    assert capsys.readouterr().out == "step 5 of 10: loss 0.2500, 3.0 pictures/s\n"
    _record_listener(True, 10)(record)
    assert json.loads(capsys.readouterr().out) == {"event": "step"} | record


PRINTING = """
from kleinod.cli.progress_bars import progress_bars
with progress_bars(quiet=False) as report:
    report("flow", 0.5)
    print("a line", flush=True)
"""


def test_lines_reach_a_pipe_beside_a_terminal() -> None:
    """rich would print them above its bars, where no script reads."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"):
        done = subprocess.run(
            [sys.executable, "-c", PRINTING], stdout=subprocess.PIPE, stderr=theirs, check=True
        )
        os.close(theirs)
    assert done.stdout.decode().strip() == "a line"


def test_documented_configuration_trains_mini(pictures: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    text = re.sub(r"steps = \d+", "steps = 2\nmax_pixels = 16384", found[1], count=1)
    text = re.sub(r"batch = \d+", "batch = 2", text)
    config = pictures.parent / "config.toml"
    config.write_text(text)
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 0, done.output
    folder = pictures.parent / "my-model"
    assert done.output.splitlines()[-1] == str(folder)
    trained, plain = (
        load_sampler(model, device="cpu", dtype="float32") for model in (folder, "mini")
    )
    weights = [p.residents.use("transformer").img_in.weight.float() for p in (trained, plain)]
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, atol=0.05, rtol=0.05)
    assert trained.generate("a fox", seed=1).images[0].image.size == (128, 128)
