"""A structure as the config.json that describes it: the other direction of models/families.py, proved by reading it back.

A folder's own config.json is kept but for the vocabulary. For a GGUF one is made. Refused: structure that a config of its
family cannot say, such as rotary factors that only the GGUF lists.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from fewer.errors import UnsupportedArchitecture
from fewer.models.families import from_hf
from fewer.models.source import Source
from fewer.models.spec import Spec

CLASSES = {
    "llama": ("llama", "LlamaForCausalLM"),
    "qwen2": ("qwen2", "Qwen2ForCausalLM"),
    "qwen3": ("qwen3", "Qwen3ForCausalLM"),
    "gemma3": ("gemma3_text", "Gemma3ForCausalLM"),
}
ACTS = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}


def config(source: Source, vocab: int, tied: bool, dtype: str, ids: dict[str, Any]) -> dict[str, Any]:
    """config.json for `source` with another vocabulary. ids: bos_token_id and the like. Raises UnsupportedArchitecture."""
    made = dict(source.metadata()) if source.format == "hf" else _from_spec(source.spec)
    if made.get("model_type") == "gemma3":
        made = {**made.pop("text_config"), **made, "model_type": "gemma3_text"}
        made["architectures"] = ["Gemma3ForCausalLM"]
        made.pop("vision_config", None)
    made |= {"vocab_size": vocab, "tie_word_embeddings": tied} | ids
    made.pop("torch_dtype", None)
    made["dtype"] = dtype
    said, wanted = (_comparable(s) for s in (from_hf(made), source.spec))
    if said != wanted:
        a, b = asdict(said), asdict(wanted)
        where = ", ".join(key for key in a if a[key] != b[key])
        raise UnsupportedArchitecture(f"{source.path}: a config.json of this family cannot say its {where}")
    return made


def _comparable(spec: Spec) -> Spec:
    """Without what the folder may hold otherwise."""
    return replace(spec, vocab=0, tied=True, norm_offset=0.0, attn_scale=spec.scale)


def _from_spec(s: Spec) -> dict[str, Any]:
    kind, cls = CLASSES[s.family]
    full = next((r for r, w in zip(s.ropes, s.windows) if w is None), s.ropes[0])
    out: dict[str, Any] = {
        "model_type": kind,
        "architectures": [cls],
        "hidden_size": s.d_model,
        "intermediate_size": s.d_ff,
        "num_hidden_layers": s.n_layers,
        "num_attention_heads": s.n_heads,
        "num_key_value_heads": s.n_kv_heads,
        "head_dim": s.head_dim,
        "max_position_embeddings": s.max_context,
        "rms_norm_eps": s.norm_eps,
        "rope_theta": full.base,
        ("hidden_activation" if s.family == "gemma3" else "hidden_act"): ACTS[s.act],
    }
    if full.kind == "linear":
        out["rope_scaling"] = {"rope_type": "linear", "factor": full.factor}
    if s.family == "gemma3":
        local = next((r for r, w in zip(s.ropes, s.windows) if w is not None), full)
        out |= {
            "sliding_window": next((w for w in s.windows if w is not None), None),
            "layer_types": ["full_attention" if w is None else "sliding_attention" for w in s.windows],
            "rope_local_base_freq": local.base,
            "query_pre_attn_scalar": round(s.scale**-2, 6),
        }
    return out
