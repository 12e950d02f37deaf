"""A training folder as people's systems leave it: what is a picture, a caption, a reference."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kleinod.errors import InputError
from kleinod.training.folder import (
    fitting_size,
    folder_pools,
    measure,
    read_folder,
    scan_folder,
)


def save(folder: Path, name: str, size: tuple[int, int] = (64, 64), colour: object = "red") -> None:
    """A picture of one colour."""
    folder.mkdir(exist_ok=True)
    Image.new("RGB", size, colour).save(folder / name)  # type: ignore[arg-type]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of three shapes, one of them an edit of a reference."""
    folder = tmp_path / "pictures"
    for index, size in enumerate(((130, 140), (128, 128), (200, 100))):
        save(folder, f"p{index}.png", size, (80 * index, 40, 200))
        (folder / f"p{index}.txt").write_text(f"colour number {index}\n")
    save(folder, "p1.ref1.png")
    return folder


def test_folder_is_read_with_captions_and_references(pictures: Path) -> None:
    items = read_folder(pictures)
    assert [item.words for item in items] == [f"colour number {i}" for i in range(3)]
    assert [len(item.references) for item in items] == [0, 1, 0]


def test_pictures_of_one_size_and_task_make_a_pool(pictures: Path) -> None:
    pools, shares = folder_pools(read_folder(pictures), np.random.default_rng(1), 128 * 128)
    found = {(pool.size, pool.pictures) for pool in pools}
    assert found == {((112, 128), 1), ((128, 128), 2), ((176, 80), 1)}
    assert shares == pytest.approx((1 / 3,) * 3)
    drawn, words = next(pool for pool in pools if pool.pictures == 2).make()
    assert words == "colour number 1"
    assert tuple(drawn[0][5, 5]) == (80, 40, 200) and tuple(drawn[1][5, 5]) == (255, 0, 0)


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((1024, 1024), 128 * 128, (128, 128)),
        ((100, 100), 10**6, (96, 96)),
        ((2000, 500), 256 * 256, (512, 128)),
    ],
)
def test_size_keeps_shape_and_limit(
    size: tuple[int, int], most: int, expected: tuple[int, int]
) -> None:
    assert fitting_size(*size, most) == expected


def test_picture_without_a_caption_is_named(pictures: Path) -> None:
    (pictures / "p2.txt").unlink()
    with pytest.raises(InputError, match=r"1 of 3 pictures .* p2\.png for one"):
        read_folder(pictures)


@pytest.mark.parametrize(
    "name",
    ["house.refined", "a.reference", "old.ref", "x.refs1", "p1.ref1b", "p1.ref-1", "q.ref1"],
)
def test_picture_whose_name_only_looks_like_a_reference_is_a_picture(
    pictures: Path, name: str
) -> None:
    save(pictures, f"{name}.png")
    (pictures / f"{name}.txt").write_text("another")
    items = {item.picture.stem: item for item in read_folder(pictures)}
    assert items.keys() == {"p0", "p1", "p2", name}
    assert items[name].references == () and len(items["p1"].references) == 1


def test_reference_of_no_picture_needs_a_caption(pictures: Path) -> None:
    save(pictures, "pl.ref1.png")
    with pytest.raises(InputError, match=r"pl\.ref1\.png for one.*a picture that is there: pl is"):
        read_folder(pictures)


def test_references_are_in_the_order_of_their_numbers(pictures: Path) -> None:
    for number in ("10", "02", "9", "100"):
        save(pictures, f"p0.ref{number}.jpg")
    names = [path.name for path in read_folder(pictures)[0].references]
    assert names == [f"p0.ref{number}.jpg" for number in ("02", "9", "10", "100")]
    save(pictures, "p0.ref2.png")
    with pytest.raises(InputError, match=r"p0\.ref02\.jpg and p0\.ref2\.png are both reference 2"):
        read_folder(pictures)


def test_files_of_the_operating_system_are_left_aside(pictures: Path) -> None:
    for name in ("._p0.png", "._p0.txt", ".DS_Store", "Thumbs.db", "desktop.ini", "._p1.ref1.png"):
        (pictures / name).write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X\xb0")
    (pictures / "__MACOSX").mkdir()
    contents = scan_folder(pictures)
    assert [item.picture.name for item in contents.items] == ["p0.png", "p1.png", "p2.png"]
    assert {reason for _, reason in contents.left_out} == {"hidden or system file"}
    assert len(contents.left_out) == 7


def test_what_is_left_out_has_a_reason(pictures: Path) -> None:
    (pictures / "more").mkdir()
    for name in ("fox.heic", "notes.md", "lost.txt", "p1.ref1.txt"):
        (pictures / name).write_text("a fox")
    assert dict(scan_folder(pictures).left_out) == {
        "fox.heic": "unreadable format, convert it to PNG or JPEG",
        "lost.txt": "caption without a picture",
        "more": "subfolder",
        "notes.md": "neither a picture nor a caption",
        "p1.ref1.txt": "caption without a picture",
    }


@pytest.mark.parametrize("suffix", ["bmp", "tif", "gif", "avif", "PNG"])
def test_every_readable_format_is_a_picture(pictures: Path, suffix: str) -> None:
    save(pictures, f"more.{suffix}")
    (pictures / "more.txt").write_text("another")
    items = read_folder(pictures)
    assert len(items) == 4 and len(measure(items)) == 5


@pytest.mark.parametrize(
    ("picture", "caption"),
    [
        ("Fox.png", "fox.txt"),
        ("fox.png", "FOX.TXT"),
        (unicodedata.normalize("NFD", "Füchse.png"), unicodedata.normalize("NFC", "Füchse.txt")),
    ],
)
def test_caption_is_found_however_its_name_is_written(
    tmp_path: Path, picture: str, caption: str
) -> None:
    save(tmp_path, picture)
    (tmp_path / caption).write_text("a fox")
    (item,) = read_folder(tmp_path)
    assert item.words == "a fox"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_caption_is_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    save(tmp_path, "fox.png")
    (tmp_path / "fox.txt").write_bytes("ein Füchslein\r\n".encode(encoding))
    assert read_folder(tmp_path)[0].words == "ein Füchslein"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "cp437"])
def test_caption_in_another_encoding_is_named(tmp_path: Path, encoding: str) -> None:
    save(tmp_path, "fox.png")
    (tmp_path / "fox.txt").write_bytes("ein Füchslein".encode(encoding))
    with pytest.raises(InputError, match=r"^data: .*fox\.txt .*save it as UTF-8$"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["p0.png", "p1.ref1.png"])
@pytest.mark.parametrize("data", [b"no picture", b"", "cut"])
def test_broken_picture_is_named_before_training(
    pictures: Path, name: str, data: bytes | str
) -> None:
    path = pictures / name
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-4000] if isinstance(data, str) else data)
    with pytest.raises(InputError, match=rf"^data: .*{name}"):
        measure(read_folder(pictures))


def test_every_broken_picture_is_counted(pictures: Path) -> None:
    for name in ("p0.png", "p2.png"):
        (pictures / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"p0\.png.*\(2 files in all\)"):
        measure(read_folder(pictures))


def test_picture_that_is_too_long_is_refused(pictures: Path) -> None:
    save(pictures, "p0.png", (640, 64))
    with pytest.raises(InputError, match=r"p0\.png is 640x64, longer than 8:1"):
        measure(read_folder(pictures))


def test_folder_without_pictures_says_where_it_looked(tmp_path: Path) -> None:
    save(tmp_path / "10_fox", "fox.png")
    with pytest.raises(InputError, match=r"holds no picture .* subfolders are not read"):
        read_folder(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read_folder(tmp_path / "10_fox" / "fox.png")
