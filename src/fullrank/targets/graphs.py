"""A module as a graph without Python code: a program of torch.export, or an ONNX model."""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from fullrank.encoders.reading import REFUSALS
from fullrank.errors import DataError, one_line

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch.export import ExportedProgram

CHECKED_BATCHES = (1, 5)


def to_program(model: nn.Module, example: Tensor) -> "ExportedProgram":
    """Convert a module with one input and one output to a program with a free first axis.

    Args:
        model: The module.
        example: A batch of 2 images.

    Raises:
        DataError: If torch.export cannot express the module.
    """
    try:
        with _silence():
            program = torch.export.export(
                model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)
            ).run_decompositions({})
    except REFUSALS as error:
        raise _inexpressible("torch.export", error) from None
    return _bare(program)


def program_bytes(program: "ExportedProgram", notes: Mapping[str, str]) -> bytes:
    """The content of a .pt2 file, in which each of `notes` is an extra file."""
    content = io.BytesIO()
    with _silence():
        torch.export.save(program, content, extra_files=dict(notes))
    return content.getvalue()


def run_program(content: bytes) -> Callable[[Tensor], Tensor]:
    """The function that a .pt2 file computes."""
    with _silence():
        return cast(Callable[[Tensor], Tensor], torch.export.load(io.BytesIO(content)).module())


def to_onnx(model: nn.Module, example: Tensor) -> "ModelProto":
    """Convert a module with one input and one output to an ONNX model with a free first axis.

    Args:
        model: The module.
        example: A batch of 2 images.

    Raises:
        DataError: If ONNX cannot express the module.
    """
    try:
        with _silence():
            program = torch.onnx.export(
                model,
                (example,),
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise _inexpressible("ONNX", error.__cause__ or error) from None
    proto = cast(torch.onnx.ONNXProgram, program).model_proto
    for node in proto.graph.node:
        node.ClearField("metadata_props")  # removes stack traces, which have paths of this machine
    return proto


def run_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    """The function that an ONNX model computes.

    Raises:
        DataError: If onnxruntime cannot run it; the function itself raises it too.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    # onnxruntime's errors have no common base class and are defined only here.
    names = ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")
    refusals = tuple(getattr(state, name) for name in names)

    @contextmanager
    def explained() -> Iterator[None]:
        try:
            yield
        except refusals as error:
            raise DataError(
                f"The ONNX model cannot run ({_short(error)}); write .safetensors instead."
            ) from None

    with explained():
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def features(images: Tensor) -> Tensor:
        with explained():
            return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])

    return features


@torch.no_grad()
def max_difference(model: nn.Module, other: Callable[[Tensor], Tensor], shape: tuple[int, int, int]) -> float:
    """The largest difference of `other` from `model`, over the largest feature, on batches of 1 and 5.

    Args:
        model: The module.
        other: A function of the same images.
        shape: Channels, height and width of an image.
    """
    generator = torch.Generator().manual_seed(0)
    differences = []
    for count in CHECKED_BATCHES:
        images = torch.rand(count, *shape, generator=generator)
        expected = model(images)
        tiny = torch.finfo(expected.dtype).tiny
        differences.append((other(images) - expected).abs().max() / expected.abs().max().clamp_min(tiny))
    return float(torch.stack(differences).max())


def _bare(program: "ExportedProgram") -> "ExportedProgram":
    """The program without operations and tensors that its output does not need, and without local paths."""
    graph, signature = program.graph, program.graph_signature
    graph.eliminate_dead_code()
    for node in graph.nodes:
        node.meta.pop("stack_trace", None)
    unused = {node.name: node for node in graph.find_nodes(op="placeholder") if not node.users}
    for spec in [spec for spec in signature.input_specs if spec.target and spec.arg.name in unused]:
        graph.erase_node(unused[spec.arg.name])
        signature.input_specs.remove(spec)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
    program.graph_module.recompile()
    return program


@contextmanager
def _silence() -> Iterator[None]:
    """Exporters print progress, warnings and whole graphs; their exceptions have what matters."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _inexpressible(library: str, error: BaseException) -> DataError:
    return DataError(f"{library} cannot express this model ({_short(error)}); write .safetensors instead.")


def _short(error: BaseException) -> str:
    return one_line(" ".join(str(error).split()).rstrip(".") or type(error).__name__, longest=200)
