"""Models as graphs for ONNX Runtime and OpenVINO: merged LoRA, mean pooling, unit vectors.

Run in a process of its own, so that no torch is loaded where those runtimes are timed.
"""

import subprocess
import sys
from pathlib import Path

from benchmarks.models import FOLDERS
from benchmarks.peers import Spec
from benchmarks.peers.merging import made_once, merged_folder

INPUTS = ("input_ids", "attention_mask")


def exported(spec: Spec, task: str, kind: str) -> Path:
    """The graph of a task, "onnx" or "openvino"; made once."""
    folder = spec.cache / kind / FOLDERS[task]
    if not folder.exists():
        merged = merged_folder_aside(spec, task)
        _run("export", kind, str(merged), str(folder))
    return folder / ("model.onnx" if kind == "onnx" else "model.xml")


def merged_folder_aside(spec: Spec, task: str) -> Path:
    """`merged_folder`, made in another process if it is missing."""
    folder = spec.cache / "merged" / FOLDERS[task]
    if not folder.exists():
        _run("merge", str(spec.folder), str(spec.cache), task)
    return folder


def _run(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise RuntimeError(f"the export failed: {done.stderr.strip().splitlines()[-1]}")


def merge(folder: str, cache: str, task: str) -> None:
    """Merge a LoRA."""
    merged_folder(Spec(Path(folder), "float32", "cpu", 1, Path(cache)), task)


def export(kind: str, merged: str, target: str) -> None:
    """Trace the merged model and save its graph."""
    with made_once(Path(target)) as scratch:
        if scratch:
            {"onnx": _onnx, "openvino": _openvino}[kind](merged, scratch)


def _onnx(merged: str, target: Path) -> None:
    import torch  # noqa: PLC0415

    model, example = _traceable(merged)
    axes = {0: "rows", 1: "tokens"}
    torch.onnx.export(
        model,
        example,
        str(target / "model.onnx"),
        input_names=list(INPUTS),
        output_names=["vectors"],
        dynamic_axes={**dict.fromkeys(INPUTS, axes), "vectors": {0: "rows"}},
        opset_version=17,
        dynamo=False,
    )


def _openvino(merged: str, target: Path) -> None:
    import openvino as ov  # noqa: PLC0415

    model, example = _traceable(merged)
    graph = ov.convert_model(model, example_input=example)
    for given, name in zip(graph.inputs, INPUTS, strict=True):
        given.get_tensor().set_names({name})
    ov.save_model(graph, target / "model.xml", compress_to_fp16=False)


def _traceable(merged: str):  # type: ignore[no-untyped-def]
    import torch  # noqa: PLC0415
    from transformers import JinaEmbeddingsV3Model  # noqa: PLC0415

    class Pooled(torch.nn.Module):
        """Ids and mask in, unit vectors out."""

        def __init__(self) -> None:
            super().__init__()
            self.model = JinaEmbeddingsV3Model.from_pretrained(
                merged, add_pooling_layer=False, dtype=torch.float32
            )

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            """(B, T) each. Returns (B, D)."""
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return torch.nn.functional.normalize((hidden * mask[..., None]).sum(1))

    # A padded row, or the mask would be traced away.
    ids, mask = torch.full((2, 9), 7), torch.ones(2, 9, dtype=torch.long)
    mask[1, 6:] = 0
    return Pooled().eval(), (ids, mask)


if __name__ == "__main__":
    {"merge": merge, "export": export}[sys.argv[1]](*sys.argv[2:])
