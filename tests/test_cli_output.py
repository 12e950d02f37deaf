"""Pictures get the right names, nothing unnamed is overwritten, no half file is left."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kleinod.cli import output
from kleinod.errors import InputError


def _names(chosen: output.Destination, count: int, *, seed: int = 7) -> list[str]:
    """The names of so many pictures, written one after the other."""
    paths = []
    for index in range(count):
        path = chosen.write(b"picture", seed=seed + index, index=index, count=count)
        paths.append(path.name)
    return paths


def test_default_name_holds_the_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _names(output.destination(None), 2) == ["kleinod-7.png", "kleinod-8.png"]


def test_default_name_never_overwrites(tmp_path: Path) -> None:
    chosen = output.destination(tmp_path)
    names = [_names(chosen, 1)[0] for _ in range(3)]
    assert names == ["kleinod-7.png", "kleinod-7-2.png", "kleinod-7-3.png"]


def test_file_that_was_named_is_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "cat.png"
    target.write_bytes(b"old")
    assert _names(output.destination(target), 1) == ["cat.png"]
    assert target.read_bytes() == b"picture"


def test_several_pictures_are_numbered_and_overwrite_none(tmp_path: Path) -> None:
    chosen = output.destination(tmp_path / "cat.png")
    assert _names(chosen, 2) == ["cat-1.png", "cat-2.png"]
    assert _names(chosen, 2) == ["cat-3.png", "cat-4.png"]


def test_name_without_suffix_is_a_folder_made_when_writing(tmp_path: Path) -> None:
    chosen = output.destination(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    _names(chosen, 1)
    assert (tmp_path / "new" / "folder" / "kleinod-7.png").is_file()


def test_folder_with_a_dot_in_its_name_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "v1.2").mkdir()
    assert output.destination(tmp_path / "v1.2").folder == tmp_path / "v1.2"


def test_destination_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (
        tmp_path / "file" / "cat.png",  # below a file
        tmp_path / "file",  # neither folder nor picture
        tmp_path / "cat.xyz",
        tmp_path / ("n" * 300 + ".png"),
        Path("/proc/cat.png"),
    ):
        with pytest.raises(InputError, match=r"^output: "):
            output.destination(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    for name in ("replace", "link"):
        monkeypatch.setattr(output.os, name, interrupted)
    for path in (tmp_path / "cat.png", tmp_path):
        with pytest.raises(KeyboardInterrupt):
            _names(output.destination(path), 1)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    chosen = output.destination(tmp_path / "cat.png")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        _names(chosen, 1)


@pytest.mark.parametrize("has_hard_links", [True, False])
def test_writers_at_once_overwrite_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_hard_links: bool
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not has_hard_links:
        monkeypatch.setattr(output.os, "link", refuse)
    with ThreadPoolExecutor(16) as pool:
        numbers = [str(number).encode() for number in range(48)]
        paths = list(
            pool.map(
                lambda data: output.destination(tmp_path).write(data, seed=5, index=0, count=1),
                numbers,
            )
        )
    assert len(set(paths)) == 48
    assert sorted(path.read_bytes() for path in paths) == sorted(numbers)
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "new.png")
    for name in ("link.png", "dangling.png"):
        _names(output.destination(tmp_path / name), 1)
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "real.png").read_bytes() == (tmp_path / "new.png").read_bytes() == b"picture"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert output.destination(Path("~/cat.png")).folder == tmp_path
    assert output.receipt_destination(Path("~/cat.json")).folder == tmp_path


def test_standard_output_takes_one_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    monkeypatch.setattr(output.sys, "stdout", io.TextIOWrapper(buffer))
    assert _names(output.destination(Path("-")), 1) == ["-"]
    assert buffer.getvalue() == b"picture"
    with pytest.raises(InputError, match="output: 2 images do not fit into standard output"):
        output.destination(Path("-"), count=2)


def test_receipts_are_numbered_like_pictures(tmp_path: Path) -> None:
    chosen = output.receipt_destination(tmp_path / "cat.json")
    assert _names(chosen, 2) == ["cat-1.json", "cat-2.json"]
    with pytest.raises(InputError, match=r"^receipt: .* must be a \.json file"):
        output.receipt_destination(tmp_path / "cat.txt")
