"""Define weight maps for GGUF files that several families share."""

from __future__ import annotations

from ..weights.weight_map import weight_map

# Queries, keys and values as one tensor. The converter has undone the interleaving of heads.
FUSED_QKV = weight_map("""
    decoder.layers.{i}.attn.wq, wk, wv <- blk.{i}.attn_qkv.weight : transpose
    decoder.layers.{i}.attn.bq, bk, bv <- blk.{i}.attn_qkv.bias
""")
# Decoders that always have them so: GPT-2, GPT-NeoX, BLOOM, MPT.
FUSED_QKV_WEIGHTS = FUSED_QKV + weight_map("""
    {embedding,head}.table <- {token_embd,output}.weight
    decoder.positions <- position_embd.weight
    decoder.first_norm.{weight,bias} <- token_embd_norm.{weight,bias}
    decoder.layers.{i}.attn_pre.{weight,bias} <- blk.{i}.attn_norm.{weight,bias}
    decoder.layers.{i}.attn.wo <- blk.{i}.attn_output.weight : transpose
    decoder.layers.{i}.attn.bo <- blk.{i}.attn_output.bias
    decoder.layers.{i}.mlp_pre.{weight,bias} <- blk.{i}.ffn_norm.{weight,bias}
    decoder.layers.{i}.mlp.{up,down} <- blk.{i}.ffn_{up,down}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- blk.{i}.ffn_{up,down}.bias
    decoder.norm.{weight,bias} <- output_norm.{weight,bias}
""")

# Decoders of Llama's form, without their queries and keys.
_WITHOUT_QK = weight_map("""
    {embedding,head}.table <- {token_embd,output}.weight
    decoder.layers.{i}.{attn,mlp}_pre.weight <- blk.{i}.{attn,ffn}_norm.weight
    decoder.layers.{i}.attn.{wv,wo} <- blk.{i}.attn_{v,output}.weight : transpose
    decoder.layers.{i}.attn.{bv,bo} <- blk.{i}.attn_{v,output}.bias
    decoder.layers.{i}.mlp.{gate,up,down} <- blk.{i}.ffn_{gate,up,down}.weight : transpose
    decoder.layers.{i}.mlp.{bgate,bup,bdown} <- blk.{i}.ffn_{gate,up,down}.bias
    decoder.norm.weight <- output_norm.weight
""")
# Queries and keys as stored by Qwen; the converter permutes those of Llama, SmolLM3 and Granite.
UNPERMUTED_QK_WEIGHTS = _WITHOUT_QK + weight_map("""
    decoder.layers.{i}.attn.{wq,wk} <- blk.{i}.attn_{q,k}.weight : transpose
    decoder.layers.{i}.attn.{bq,bk} <- blk.{i}.attn_{q,k}.bias
    decoder.layers.{i}.attn.{q,k}_norm <- blk.{i}.attn_{q,k}_norm.weight
""")
PERMUTED_QK_WEIGHTS = _WITHOUT_QK + weight_map("""
    decoder.layers.{i}.attn.{wq,wk} <- blk.{i}.attn_{q,k}.weight : unpermute transpose
    decoder.layers.{i}.attn.{bq,bk} <- blk.{i}.attn_{q,k}.bias : unpermute
    rope_freqs == rope_freqs.weight
""")
# All experts of a layer are one tensor.
EXPERTS = weight_map("""
    decoder.layers.{i}.mlp.router <- blk.{i}.ffn_gate_inp.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.{gate,up} <- blk.{i}.ffn_{gate,up}_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- blk.{i}.ffn_gate_up_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- blk.{i}.ffn_down_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.shared.{gate,up,down} <- blk.{i}.ffn_{gate,up,down}_shexp.weight : transpose
    decoder.layers.{i}.mlp.shared_gate <- blk.{i}.ffn_gate_inp_shexp.weight : column
    decoder.layers.{i}.mlp.bias <- blk.{i}.exp_probs_b.bias
""")
