"""The activations that SmoothQuant can divide. For each activation, this module finds the parameters that
produce it and the parameters that read it (`calibrate.smooth`).
"""

from __future__ import annotations

from ..config import Config, Layer, Mlp, MoE, Norm, SmoothingSite, TokenMixer

__all__ = ["SmoothingSite", "post_norm_sites", "smoothing_sites"]


def smoothing_sites(config: Config) -> list[SmoothingSite]:
    """Return every activation of the model that can be smoothed exactly.

    - The input of a sublayer after a norm with a weight (`pre`), if only that sublayer reads the norm's
      output. A parallel mlp without its own norm reads this output too, and so do the router and all experts
      of a mixture.
    - The input of wo. Attention is linear in the values unless they are clipped. So wv, or wv_b, produces
      this input; a gate of the output multiplies each channel. If the heads' outputs are normalized, their
      norm produces this input.
    - A latent from which queries are made, and the output of Mamba 2's heads. Both have a norm with a weight.
    - The input of down. act(gate) ⊙ up is linear in up, and ReLU commutes with positive factors. The other
      activations of a plain mlp don't commute with factors, nor does a clamped SwiGLU. An expert's input of
      down is like an mlp's. If hidden units are normalized, their norm produces this input.

    These activations can't be smoothed exactly:

    - inputs with matrices that read distances or summaries too, and inputs that a learned residual or a
      mixture's identities add unchanged;
    - activations that a tied table or, with post-norms, the residual stream reads too (`post_norm_sites`);
    - the encoder's output, which the decoder's layers share;
    - the inputs and outputs of an LSTM, because its weights stay in float;
    - the input of wo of a convolution, of a gated delta network and of Mamba's layer, because no parameter
      of the layer produces it alone;
    - the input of wo in attention with values that other layers read, because wv produces the input of wo of
      all these layers;
    - the input of wo in attention that is merged with cross-attention, because wv produces only a part of it.
    """
    sites = []
    for name, stack in config.stacks.items():
        for i, layer in enumerate(stack.layers):
            sites += _layer(f"{name}.layers.{i}.", layer, read_later=i in stack.shared_kv)
    return sites


def post_norm_sites(config: Config) -> list[SmoothingSite]:
    """Return every sublayer input that is the norm of a residual sum (post-norm), in layers without a
    mixture of experts.

    The next residual sum reads such an input too. So the input can't be divided where it is produced, but
    only in the matrix products that read it. Residual sums without a norm aren't included, because their
    large channels grow from layer to layer.
    """
    sites = []
    for name, stack in config.stacks.items():
        for i, layer in enumerate(stack.layers):
            a, m, prefix = layer.attention, layer.mlp, f"{name}.layers.{i}."
            normed = (a.pre, m.pre) == (None, None) and None not in (a.after, m.after)
            if normed and not layer.parallel and not isinstance(m, MoE):
                if readers := _readers(f"{prefix}attn", a):
                    sites.append(SmoothingSite((), readers))
                sites.append(SmoothingSite((), _readers(f"{prefix}mlp", m)))
    return sites


def _layer(prefix: str, layer: Layer, *, read_later: bool) -> list[SmoothingSite]:
    mixer, readers = layer.attention, _readers(f"{prefix}attn", layer.attention)
    mlp_matrices = _readers(f"{prefix}mlp", layer.mlp)
    parallel = mlp_matrices if layer.parallel and layer.mlp.pre is None else ()
    beside = () if layer.beside is None else _readers(f"{prefix}beside", layer.beside.mixer)
    sites = []
    if layer.residual == "input":
        if readers and not mixer.reads_more and layer.laurel is None:
            sites += _normed(f"{prefix}attn_pre", mixer.pre, (*readers, *beside, *parallel))
        if not (isinstance(layer.mlp, MoE) and layer.mlp.identities):
            sites += _normed(f"{prefix}mlp_pre", layer.mlp.pre, mlp_matrices)
        if layer.cross is not None and not layer.merged:
            sites += _normed(f"{prefix}cross_pre", layer.cross.pre, (f"{prefix}cross.wq",))
    # A merged cross-attention's values have a map of their own, in front of the same wo.
    sites += _named(f"{prefix}attn", mixer.smoothing(read_later=read_later or layer.merged))
    if layer.beside is not None:
        sites += _named(f"{prefix}beside", layer.beside.mixer.smoothing(read_later=False))
    if layer.cross is not None and not layer.merged:
        sites += _named(f"{prefix}cross", layer.cross.smoothing(read_later=False))
    return sites + _named(f"{prefix}mlp", layer.mlp.smoothing())


def _readers(prefix: str, part: TokenMixer | Mlp) -> tuple[str, ...]:
    return tuple(f"{prefix}.{leaf}" for leaf in part.readers())


def _named(prefix: str, sites: list[SmoothingSite]) -> list[SmoothingSite]:
    def named(leaves: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{prefix}.{leaf}" for leaf in leaves)

    return [one._replace(producers=named(one.producers), consumers=named(one.consumers)) for one in sites]


def _normed(prefix: str, norm: Norm | None, consumers: tuple[str, ...]) -> list[SmoothingSite]:
    leaves = () if norm is None else norm.leaves()
    if "weight" not in leaves:
        return []
    return [SmoothingSite(tuple(f"{prefix}.{leaf}" for leaf in leaves), consumers)]
