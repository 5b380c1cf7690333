"""`Spec`: the structure of a decoder as data. One decoder reads it; families.py writes it; there is no checkpoint list.

Covered: pre-norm RMSNorm transformers with rotary positions, grouped-query attention and a gated MLP, i.e. Llama 2/3,
SmolLM2, Mistral, Qwen2, Qwen3, Gemma 3. Not covered: LayerNorm models, ALiBi, mixtures of experts, encoder-decoders.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rope:
    """Rotary positions of one layer: theta_i = base^(-2i/dim), then scaled.

    kind: "default" | "linear" (positions / factor) | "llama3" (frequency bands) | "yarn"; chosen by the user, never by a
    file: "ntk" | "power" | "truncated" | "random". rope.py has their formulas.
    `freq_factors`, if given (dim/2 floats, GGUF `rope_freqs.weight`), divides each frequency; llama3 GGUFs carry it.
    Pairs are (i, i + dim/2) always ("neox" order): the loader permutes files that interleave.
    """

    base: float = 10000.0
    dim: int = 64
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_context: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    freq_factors: tuple[float, ...] | None = None
    power: float = 0.0
    keep: float = 1.0  # turns over the original context
    drop: float = 0.0
    middle: float = 0.0


@dataclass(frozen=True)
class Spec:
    """Structure of one decoder-only model. Sizes are counts; nothing here depends on a checkpoint's name."""

    family: str
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    d_ff: int
    vocab: int
    ropes: tuple[Rope, ...]  # one per layer
    windows: tuple[int | None, ...]  # one per layer; a key is visible iff 0 <= pos_q - pos_k < window
    norm_eps: float = 1e-5
    norm_offset: float = 0.0  # weight + offset multiplies (Gemma in Hugging Face files: 1.0; GGUF bakes it in: 0.0)
    act: str = "silu"  # "silu" | "gelu_tanh"
    qkv_bias: bool = False
    qk_norm: bool = False  # RMSNorm over head_dim on q and k before rope
    post_norms: bool = False  # Gemma: a further norm after attention and after the MLP, before the residual is added
    embed_scale: float = 1.0  # Gemma: sqrt(d_model)
    attn_scale: float | None = None  # None = head_dim ** -0.5
    attn_softcap: float | None = None
    log_scale: tuple[float, float] | None = None  # (s, least): scores also times max(least, s ln n), n = position + 1
    final_softcap: float | None = None
    tied: bool = True  # the output head is the embedding matrix
    max_context: int = 2048

    @property
    def row_weights(self) -> int:
        """Weights that one row meets on its way through: a model's size, however its numbers are stored."""
        attention = self.d_model * self.head_dim * 2 * (self.n_heads + self.n_kv_heads)
        return self.n_layers * (attention + 3 * self.d_model * self.d_ff) + self.vocab * self.d_model

    @property
    def scale(self) -> float:
        """Factor on q.k before softmax."""
        return self.attn_scale if self.attn_scale is not None else self.head_dim**-0.5
