"""Faster ways to run the same frozen blocks: packed oneDNN layers on CPUs, OpenVINO for bf16, autocast on GPUs.

torch's fp32 matrix product takes MKL's AVX2 path on AMD CPUs, 2.3 times slower than oneDNN's AVX-512 path in the same
wheel (benchmarks/forward.py); and on every CPU MKL's last digits may depend on a token's place in the batch, oneDNN's
do not (see `products`). Packing weights for oneDNN uses a private operator, so it is tried before it is trusted.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cpu import computes_bf16, keep_freed_memory
from ..errors import MissingExtra, UsageError
from .backbone import Backbone
from .products import bf16_packing_works, in_blocks, packed, packed_product, packed_sum, packing_works, settle_threads
from .readout import Readout
from .rotary import RotaryBlock
from .vit import VisionTransformer

ENGINES = ("eager", "packed", "openvino")
_CACHED_IMAGES = 8  # a CPU's second-level cache holds about as many images' tokens; 32 are a fifth slower per image
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> str:
    """`auto` is the first GPU if there is one. Raises UsageError for a device that this machine has not."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UsageError(f"--device {device!r} is not one of auto, cpu, cuda, cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: torch sees no GPU here", fix="Run `fewvit doctor`, or use --device cpu.")
    return device


def resolve_precision(precision: str, device: str) -> str:
    """`auto` is bf16 where the device computes in it, else fp32."""
    if precision != "auto":
        return precision
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if computes_bf16() else "fp32"


def choose_engine(precision: str, device: str, *, plain_vit: bool = True, one_size: bool = True) -> str:
    """What `auto` means: OpenVINO for bf16 on a CPU if installed and all images have one size, else packed layers where
    they run, else eager.
    """
    if device != "cpu" or not plain_vit:
        return "eager"
    if precision == "bf16" and one_size and importlib.util.find_spec("openvino"):
        return "openvino"
    return "packed" if _packs(precision) else "eager"


def _packs(precision: str) -> bool:
    """Whether this CPU's packed layers compute in a precision."""
    return packing_works() and (precision == "fp32" or (precision == "bf16" and bf16_packing_works()))


def accelerate(
    backbone: Backbone, size: tuple[int, int] | None, *, device: str, precision: str, engine: str = "auto"
) -> Backbone:
    """The backbone on its device, run by the engine asked for. The features stay within 1e-5 in fp32."""
    plain = isinstance(backbone.model, VisionTransformer)
    if engine == "auto":
        engine = choose_engine(precision, device, plain_vit=plain, one_size=size is not None)
    if engine not in ENGINES:
        raise UsageError(f"unknown engine {engine!r}; choose auto, {', '.join(ENGINES)}")
    if engine != "eager" and device != "cpu":
        raise UsageError(f"the {engine} engine runs on CPUs, not on {device}", fix="Use engine='eager' or 'auto'.")
    if engine == "packed" and not (plain and _packs(precision)):
        raise UsageError(
            f"the packed engine cannot run {backbone.spec.name} in {precision} here",
            fix="Use engine='eager' or 'auto'.",
        )
    backbone.to(device)
    if device == "cpu":
        keep_freed_memory()
        settle_threads()
    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if engine == "openvino":
        if size is None:
            raise UsageError("the openvino engine reads images of one size", fix="Use engine='packed' or 'auto'.")
        return OpenVinoBackbone(backbone, size, precision)
    if engine == "packed":
        backbone.model.blocks = nn.ModuleList(PackedBlock(block, _DTYPES[precision]) for block in backbone.model.blocks)
        return PackedBackbone(backbone.model, backbone.spec, backbone.readout)
    return backbone if precision == "fp32" else AutocastBackbone(backbone, device, _DTYPES[precision])


class AutocastBackbone(Backbone):
    """Matrix products in half precision, norms and sums in fp32."""

    def __init__(self, backbone: Backbone, device: str, dtype: torch.dtype):
        super().__init__(backbone.model, backbone.spec, backbone.readout)
        self._context: Callable[[], Any] = lambda: torch.autocast(device.split(":")[0], dtype=dtype)

    def encode(self, images: Tensor) -> Tensor:
        """Features (B, D) float32 of normalised images (B, 3, H, W)."""
        with self._context():
            return super().encode(images)

    forward = encode


class PackedBackbone(Backbone):
    """A few images at a time, whatever the batch: their tokens then stay in the CPU's caches from layer to layer."""

    def encode(self, images: Tensor) -> Tensor:
        """Features (B, D) of images (B, 3, H, W).

        Each part has as many images as the others, so that an image's place does not count.
        """
        return in_blocks(super().encode, images, min(_CACHED_IMAGES, max(1, len(images))))

    forward = encode


class PackedLinear(nn.Module):
    """y = act(x W^T + b) [+ residual] with the weight laid out once for oneDNN's widest kernels."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, activation: str = "none", scale: Tensor | None = None):
        super().__init__()
        weight = linear.weight.detach()
        bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.detach()
        if scale is not None:  # layer scale is linear, so it is folded into the layer before it
            weight, bias = weight * scale.detach()[:, None], bias * scale.detach()
        self.dtype, self.activation = dtype, activation
        self.weight = packed(weight.to(dtype))
        self.bias = bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """act(x W^T + b) (..., out) of x (..., in), computed and returned in the precision of the packed weight."""
        return packed_product(x.to(self.dtype), self.weight, self.bias, self.activation)

    def add_to(self, x: Tensor, residual: Tensor) -> Tensor:
        """residual + x W^T + b in one pass over memory; in fp32, since the sum of all blocks runs through it."""
        if self.dtype != torch.float32:
            return residual + self(x)
        return packed_sum(x, residual, self.weight, self.bias)


class PackedBlock(nn.Module):
    """One pre-norm transformer block of timm or with rotary positions, the same arithmetic on packed layers."""

    def __init__(self, block: Any, dtype: torch.dtype):
        super().__init__()
        self.norm1, self.norm2, self.heads = block.norm1, block.norm2, block.attn.num_heads
        self.swiglu = block.mlp.fc1.out_features == 2 * block.mlp.fc2.in_features
        gammas = [getattr(scale, "gamma", None) for scale in (block.ls1, block.ls2)]
        qkv = _interleaved(block.attn.qkv, self.heads) if isinstance(block, RotaryBlock) else block.attn.qkv
        # under the name that attention maps look for
        self.attn = SimpleNamespace(qkv=PackedLinear(qkv, dtype))
        self.proj = PackedLinear(block.attn.proj, dtype, scale=gammas[0])
        self.fc1 = PackedLinear(block.mlp.fc1, dtype, activation="none" if self.swiglu else "gelu")
        self.fc2 = PackedLinear(block.mlp.fc2, dtype, scale=gammas[1])

    def queries_keys_values(self, x: Tensor, *turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Each (B, heads, T, d) of normed tokens (B, T, D), turned; halves of heads that turn are interleaved."""
        b, t, d = x.shape
        qkv = self.attn.qkv(x).view(b, t, 3, self.heads, d // self.heads)
        q, k = (_turned_together(qkv[:, :, :2], *turn) if turn else qkv[:, :, :2]).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), qkv[:, :, 2].transpose(1, 2)

    def forward(self, x: Tensor, *turn: Tensor) -> Tensor:
        """The tokens (B, T, D) after the block; `turn` are cosines and sines of rotary positions, or nothing."""
        b, t, d = x.shape
        q, k, v = self.queries_keys_values(self.norm1(x), *turn)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, d)
        x = self.proj.add_to(attended, x)
        hidden = self.fc1(self.norm2(x))
        if self.swiglu:
            gate, value = hidden.chunk(2, dim=-1)
            hidden = F.silu(gate) * value
        return self.fc2.add_to(hidden, x)


def _interleaved(qkv: nn.Linear, heads: int) -> nn.Linear:
    """The same layer, the two halves of each head of queries and of keys interleaved.

    What is turned together lies together then, and what queries and keys are to each other stays.
    """
    size = qkv.out_features // 3
    head = size // heads
    order = torch.arange(head).view(2, -1).t().flatten()
    rows = (torch.arange(0, 2 * size, head)[:, None] + order).flatten()
    rows = torch.cat([rows, torch.arange(2 * size, 3 * size)])
    made = nn.Linear(qkv.in_features, qkv.out_features, bias=qkv.bias is not None)
    with torch.no_grad():
        made.weight.copy_(qkv.weight[rows])
        if qkv.bias is not None:
            made.bias.copy_(qkv.bias[rows])
    return made


def _turned_together(pairs: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Queries and keys (B, T, 2, heads, d), interleaved: float32 in place, as one product of complex numbers."""
    half = pairs.shape[-1] // 2
    turn = torch.complex(cosines[:, :half], sines[:, :half])[:, None, None]  # (T, 1, 1, d / 2)
    numbers = pairs if pairs.dtype == torch.float32 else pairs.float()
    torch.view_as_complex(numbers.unflatten(-1, (half, 2))).mul_(turn)
    return numbers.to(pairs.dtype)


class OpenVinoBackbone(Backbone):
    """The whole forward compiled by OpenVINO for one image size; one compilation per batch size."""

    def __init__(self, backbone: Backbone, size: tuple[int, int], precision: str):
        super().__init__(backbone.model, backbone.spec, backbone.readout)
        try:
            import openvino
        except ImportError as error:
            raise MissingExtra("the openvino engine is not installed", fix="pip install 'fewvit[openvino]'") from error
        self._core, self._size = openvino.Core(), size
        self._compiled: dict[int, Any] = {}  # batch size -> the compiled model
        hint = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}[precision]
        self._config = {
            "INFERENCE_PRECISION_HINT": hint,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
        }

    def encode(self, images: Tensor) -> Tensor:
        """Features (B, D) float32 of images (B, 3, H, W)."""
        if tuple(images.shape[-2:]) != self._size:
            raise UsageError(
                f"this backbone was compiled for {self._size[0]}x{self._size[1]} pixels, not "
                f"{images.shape[-2]}x{images.shape[-1]}"
            )
        return in_blocks(self._encode, images, min(_CACHED_IMAGES, max(1, len(images))))

    forward = encode

    def _encode(self, images: Tensor) -> Tensor:
        compiled = self._compiled.get(len(images)) or self._compile(len(images))
        return torch.from_numpy(compiled(images.contiguous().numpy())[0].copy())

    def _compile(self, batch: int) -> Any:
        import openvino

        with warnings.catch_warnings():
            # the tracer warns of every size it turns into a constant; that is the intent
            warnings.simplefilter("ignore")
            with settled_positions(self.model, self._size):
                graph = openvino.convert_model(
                    _Reading(self.model, self.readout),
                    example_input=torch.zeros(batch, 3, *self._size),
                    input=[batch, 3, *self._size],
                )
        self._compiled[batch] = self._core.compile_model(graph, "CPU", self._config)
        return self._compiled[batch]


@contextlib.contextmanager
def settled_positions(model: nn.Module, size: tuple[int, int]) -> Iterator[None]:
    """Within the block the position table is a constant: OpenVINO's bicubic gives features that are wrong by 1e-2 where
    the table is resized.
    """
    if not isinstance(model, VisionTransformer):
        yield
        return
    with torch.no_grad():
        if not model.architecture.is_rotary:
            model.settled_positions = model.positions(*size).clone()
    try:
        yield
    finally:
        model.settled_positions = None


class _Reading(nn.Module):
    """images -> features, as the one function that is compiled."""

    def __init__(self, model: nn.Module, readout: Readout):
        super().__init__()
        self.model, self.readout = model, readout

    def forward(self, images: Tensor) -> Tensor:
        return self.model.read(images, self.readout)  # type: ignore[operator]
