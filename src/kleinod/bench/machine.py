"""The machine in words, for the report. No torch in here."""

import os
import platform
from pathlib import Path

# instruction sets that decide how fast products are, as Linux names them
_NOTED = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "AVX512-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX",
    "asimd": "NEON",
    "bf16": "BF16",
}


def machine() -> dict[str, object]:
    """Processor, cores, instruction sets and system."""
    name, flags = _processor()
    return {
        "processor": name or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "instructions": [word for flag, word in _NOTED.items() if flag in flags],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def _processor() -> tuple[str, set[str]]:
    file = Path("/proc/cpuinfo")
    if not file.is_file():
        return "", set()
    fields = [line.partition(":") for line in file.read_text(errors="replace").splitlines()]
    values = {name.strip(): value.strip() for name, _, value in fields}
    return values.get("model name", ""), set(
        (values.get("flags") or values.get("Features") or "").split()
    )
