"""Networks in ONNX files, on the CPU. Knows nothing of what they judge.

onnxruntime is imported here and nowhere else, because its telemetry has to be off before that.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


class Network:
    """A network ready to run, on at most two threads."""

    def __init__(self, file: Path) -> None:
        onnxruntime = _onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(2, os.cpu_count() or 1)
        # waiting threads must not burn what the picture needs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors; they are raised as well
        self._session = onnxruntime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return [one.name for one in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, Array]) -> NDArray[np.float32]:
        """The first output."""
        result: NDArray[np.float32] = self._session.run(None, dict(inputs))[0]
        return result


def _onnxruntime() -> Any:  # noqa: ANN401 - a module without types
    """The library with its telemetry off; whoever sets the variable to 0 has it on.

    Since 1.29 its wheels report to Microsoft: as it is loaded it writes an id of the installation
    and a queue of events under ~/.cache/Microsoft, and sends them later. Its own switch,
    disable_telemetry_events(), comes too late. Where CI is set, it is silent by itself.
    """
    if not os.environ.get("ORT_DISABLE_TELEMETRY"):  # an empty value means on
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # late: it takes a tenth of a second

    return onnxruntime
