"""A transplanted model as a folder that fewer and transformers open: config.json, model.safetensors, tokenizer files.

All is written into a hidden folder beside the target and renamed when it is whole, so an interrupted run leaves no half
model. An existing target is replaced only if asked, and moved away only once the new one is there.
Weights of a quantised GGUF are written dequantised. Not done: shards (one file), float8.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as Backend

from fewer.errors import BadRequest
from fewer.models.names import hf_naming
from fewer.models.source import Source
from fewer.tokens.transfer.config import config
from fewer.tokens.transfer.ends import End

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
MARK = "transplant.json"


def check_folder(path: Path, force: bool) -> None:
    """Raises BadRequest unless `path` can be made: its parent is there, and itself is not, or is to be replaced and
    looks like a folder that fewer wrote."""
    if not path.absolute().parent.is_dir():
        raise BadRequest(f"{path.absolute().parent} is not there; make it first")
    if not path.exists() and not path.is_symlink():
        return
    if not force:
        raise BadRequest(f"{path} is already there; take another name, or --force to replace it")
    if path.is_symlink() or not (path / MARK).is_file():
        raise BadRequest(
            f"{path} was not written by `fewer tokens transplant`, so it is not replaced; remove it yourself"
        )


def write(
    path: Path,
    old: End,
    backend: Backend,
    rows: Mapping[str, torch.Tensor],
    template: str | None,
    made: Mapping[str, Any],
    dtype: str = "float16",
    force: bool = False,
) -> Path:
    """rows: "embed" and, untied, "head". backend: the grafted tokenizer. made: how it came about, kept as transplant.json.

    Raises BadRequest (cannot write), UnsupportedArchitecture (no config.json can say the structure)."""
    check_folder(path, force)
    target, source = path.absolute(), old.weights()
    try:
        work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise BadRequest(f"cannot write into {target.parent}: {error.strerror or error}") from None
    try:
        _fill(work, source, old, backend, rows, template, made, dtype)
        work.chmod(0o755)
        if target.exists():
            aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.")) / "old"
            target.rename(aside)
            work.rename(target)
            shutil.rmtree(aside.parent)
        else:
            work.rename(target)
    except OSError as error:
        raise BadRequest(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _fill(
    work: Path,
    source: Source,
    old: End,
    backend: Backend,
    rows: Mapping[str, torch.Tensor],
    template: str | None,
    made: Mapping[str, Any],
    dtype: str,
) -> None:
    model = old.tokenizer
    kept = model.eos if model.bos is None else model.eos | {model.bos}
    named = {i: backend.token_to_id(model.name(i)) for i in kept}
    stops = [named[i] for i in sorted(model.eos, key=lambda i: i != model.main_eos)]
    ids = {"bos_token_id": None if model.bos is None else named[model.bos], "eos_token_id": stops or None}
    ids["eos_token_id"] = stops[0] if len(stops) == 1 else ids["eos_token_id"]
    tied = "head" not in rows
    made_config = config(source, len(rows["embed"]), tied, dtype, {**ids, "pad_token_id": None})
    _json(work / "config.json", made_config)
    naming = hf_naming({}, source.spec.post_norms)
    offset = 1.0 if made_config["model_type"] == "gemma3_text" and source.spec.norm_offset == 0.0 else 0.0
    tensors = {}
    for name in source.names():
        if name in ("embed", "head"):
            continue
        w = source.raw(name).dense(torch.float32)
        tensors[naming.in_file(name)] = (w - offset if name.endswith("norm") else w).to(DTYPES[dtype])
    for name, w in rows.items():
        tensors[naming.in_file(name)] = w.to(DTYPES[dtype])
    broken = [name for name, w in tensors.items() if not bool(torch.isfinite(w).all())]
    if broken:
        raise BadRequest(f"{broken[0]} has values beyond {dtype}; take --dtype float32")
    save_file({n: w.contiguous() for n, w in tensors.items()}, work / "model.safetensors", {"format": "pt"})
    (work / "tokenizer.json").write_text(backend.to_str(pretty=False), encoding="utf-8")
    said: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": model.add_bos}
    said |= {"bos_token": None if model.bos is None else model.name(model.bos)}
    said |= {"eos_token": None if model.main_eos is None else model.name(model.main_eos)}
    said |= {"model_max_length": source.spec.max_context, "clean_up_tokenization_spaces": False}
    if template is not None:
        said["chat_template"] = template
    _json(work / "tokenizer_config.json", said)
    _json(work / "generation_config.json", {k: v for k, v in ids.items() if v is not None})
    _json(work / MARK, made)


def _json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
