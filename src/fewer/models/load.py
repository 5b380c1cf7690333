"""A model file -> `Decoder`: packed blocks where the CPU kernels serve, dense blocks otherwise.

dtype "auto" keeps a quantised GGUF's own integers (packed weights, float16 KV) on a CPU with the native kernels and is
float32 elsewhere; "float32" and "bfloat16" dequantise. weights "int8" / "int4" pack dense weights on load.
activations "int16" rounds what meets packed weights to about 15 bits instead of 8: texts as of float32 weights, at the
price of a second row in every product.
Tensors are read one at a time, so the peak stays near the packed size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from fewer.errors import BadRequest
from fewer.kernels.arena import Arena
from fewer.kernels.block import MATRICES, PackedBlock, PackedHead
from fewer.kernels.native import native
from fewer.kernels.pack import Packed, pack_dense, pack_gguf
from fewer.kernels.stack import PackedStack
from fewer.models.decoder import Decoder
from fewer.models.layers import Block, DenseBlock, DenseHead, Head
from fewer.models.source import Source
from fewer.models.tensor import PLAIN

DTYPES = ("auto", "float32", "bfloat16")
WEIGHTS = ("auto", "int8", "int4")
PLANES = {"int8": 1, "int16": 2}  # of packed activations


def load(
    source: Source,
    dtype: str = "auto",
    weights: str = "auto",
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
    activations: str = "int8",
) -> Decoder:
    """Build the decoder. progress(layers done, layers). Raises BadRequest for an unknown dtype, weights or activations."""
    if dtype not in DTYPES:
        raise BadRequest(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if weights not in WEIGHTS:
        raise BadRequest(f"weights {weights!r} is not one of {', '.join(WEIGHTS)}")
    if activations not in PLANES:
        raise BadRequest(f"activations {activations!r} is not one of {', '.join(PLANES)}")
    if weights != "auto" and dtype != "auto":
        raise BadRequest(f"--weights {weights} packs the weights, --dtype {dtype} keeps them dense: choose one.")
    if dtype == "auto" and device == "cpu" and native is not None:
        bits = None if weights == "auto" else {"int8": 8, "int4": 4}[weights]
        return _packed(source, bits, progress, PLANES[activations])
    if weights != "auto":
        raise BadRequest(f"weights {weights!r} need the native CPU kernels; `fewer doctor` says why they are missing.")
    return _dense(source, torch.bfloat16 if dtype == "bfloat16" else torch.float32, device, progress)


def _packed(source: Source, bits: int | None, progress: Callable[[int, int], None] | None, planes: int) -> Decoder:
    """Packed where every matrix of a layer is quantised (or `bits` says so), float32 where not; float16 KV."""
    spec, arena = source.spec, Arena()

    def pack(name: str) -> Packed:
        raw = source.raw(name)
        if raw.kind in PLAIN:
            assert bits is not None
            return pack_dense(raw.dense(torch.float32), bits, arena=arena)
        return pack_gguf(raw.kind, raw.data, raw.shape[1], arena=arena)

    def packable(*names: str) -> bool:
        return bits is not None or all(source.raw(n).kind not in PLAIN for n in names)

    blocks: list[Block] = []
    for i in range(spec.n_layers):
        prefix = f"layers.{i}."
        names = [n.removeprefix(prefix) for n in source.names() if n.startswith(prefix)]
        vectors = {n: source.raw(prefix + n).dense(torch.float32) for n in names if n not in MATRICES}
        if packable(*(prefix + n for n in MATRICES)):
            blocks.append(PackedBlock(spec, {n: pack(prefix + n) for n in MATRICES}, vectors, planes))
        else:
            dense = {n: source.raw(prefix + n).dense(torch.float32) for n in MATRICES}
            blocks.append(DenseBlock(spec, vectors | dense))
        if progress:
            progress(i + 1, spec.n_layers)
    ends = ["embed"] if spec.tied else ["embed", "head"]
    norm = source.raw("norm").dense(torch.float32)
    head: Head
    if packable(*ends):
        head = PackedHead(spec, pack("embed"), norm, None if spec.tied else pack("head"), planes)
    else:
        dense_ends = [source.raw(n).dense(torch.float32) for n in ends]
        head = DenseHead(spec, dense_ends[0], norm, None if spec.tied else dense_ends[1])
    every = [b for b in blocks if isinstance(b, PackedBlock)]
    stack = PackedStack(spec, every) if len(every) == spec.n_layers else None
    return Decoder(spec, blocks, head, torch.float32, "cpu", torch.float16, stack)


def _dense(source: Source, dtype: torch.dtype, device: str, progress: Callable[[int, int], None] | None) -> Decoder:
    spec = source.spec

    def tensor(name: str) -> torch.Tensor:
        return source.raw(name).dense(dtype).to(device)

    blocks: list[Block] = []
    for i in range(spec.n_layers):
        prefix = f"layers.{i}."
        names = [n for n in source.names() if n.startswith(prefix)]
        blocks.append(DenseBlock(spec, {n.removeprefix(prefix): tensor(n) for n in names}))
        if progress:
            progress(i + 1, spec.n_layers)
    head = None if spec.tied else tensor("head")
    return Decoder(spec, blocks, DenseHead(spec, tensor("embed"), tensor("norm"), head), dtype, device)
