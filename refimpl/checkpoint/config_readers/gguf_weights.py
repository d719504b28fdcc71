"""Weight maps of GGUF files that several families share."""

from __future__ import annotations

from ..weights.weight_map import weight_map

# Queries, keys and values as one tensor. The converter has undone the interleaving of heads.
FUSED_QKV = weight_map("""
    decoder.layers.{i}.attn.wq, wk, wv <- blk.{i}.attn_qkv.weight : transpose
    decoder.layers.{i}.attn.bq, bk, bv <- blk.{i}.attn_qkv.bias
""")
# Decoders that always have them so: GPT-2, GPT-NeoX, BLOOM, MPT.
FUSED_QKV_WEIGHTS = FUSED_QKV + weight_map("""
    embedding.table <- token_embd.weight
    decoder.positions <- position_embd.weight
    decoder.first_norm.weight <- token_embd_norm.weight
    decoder.first_norm.bias <- token_embd_norm.bias
    decoder.layers.{i}.attn_pre.weight <- blk.{i}.attn_norm.weight
    decoder.layers.{i}.attn_pre.bias <- blk.{i}.attn_norm.bias
    decoder.layers.{i}.attn.wo <- blk.{i}.attn_output.weight : transpose
    decoder.layers.{i}.attn.bo <- blk.{i}.attn_output.bias
    decoder.layers.{i}.mlp_pre.weight <- blk.{i}.ffn_norm.weight
    decoder.layers.{i}.mlp_pre.bias <- blk.{i}.ffn_norm.bias
    decoder.layers.{i}.mlp.up <- blk.{i}.ffn_up.weight : transpose
    decoder.layers.{i}.mlp.bup <- blk.{i}.ffn_up.bias
    decoder.layers.{i}.mlp.down <- blk.{i}.ffn_down.weight : transpose
    decoder.layers.{i}.mlp.bdown <- blk.{i}.ffn_down.bias
    decoder.norm.weight <- output_norm.weight
    decoder.norm.bias <- output_norm.bias
    head.table <- output.weight
""")

# Decoders of Llama's form, without their queries and keys.
_WITHOUT_QK = weight_map("""
    embedding.table <- token_embd.weight
    decoder.layers.{i}.attn_pre.weight <- blk.{i}.attn_norm.weight
    decoder.layers.{i}.attn.wv <- blk.{i}.attn_v.weight : transpose
    decoder.layers.{i}.attn.wo <- blk.{i}.attn_output.weight : transpose
    decoder.layers.{i}.attn.bv <- blk.{i}.attn_v.bias
    decoder.layers.{i}.attn.bo <- blk.{i}.attn_output.bias
    decoder.layers.{i}.mlp_pre.weight <- blk.{i}.ffn_norm.weight
    decoder.layers.{i}.mlp.gate <- blk.{i}.ffn_gate.weight : transpose
    decoder.layers.{i}.mlp.up <- blk.{i}.ffn_up.weight : transpose
    decoder.layers.{i}.mlp.down <- blk.{i}.ffn_down.weight : transpose
    decoder.layers.{i}.mlp.bgate <- blk.{i}.ffn_gate.bias
    decoder.layers.{i}.mlp.bup <- blk.{i}.ffn_up.bias
    decoder.layers.{i}.mlp.bdown <- blk.{i}.ffn_down.bias
    decoder.norm.weight <- output_norm.weight
    head.table <- output.weight
""")
# Queries and keys as stored by Qwen; the converter permutes those of Llama, SmolLM3 and Granite.
UNPERMUTED_QK_WEIGHTS = _WITHOUT_QK + weight_map("""
    decoder.layers.{i}.attn.wq <- blk.{i}.attn_q.weight : transpose
    decoder.layers.{i}.attn.wk <- blk.{i}.attn_k.weight : transpose
    decoder.layers.{i}.attn.bq <- blk.{i}.attn_q.bias
    decoder.layers.{i}.attn.bk <- blk.{i}.attn_k.bias
    decoder.layers.{i}.attn.q_norm <- blk.{i}.attn_q_norm.weight
    decoder.layers.{i}.attn.k_norm <- blk.{i}.attn_k_norm.weight
""")
PERMUTED_QK_WEIGHTS = _WITHOUT_QK + weight_map("""
    decoder.layers.{i}.attn.wq <- blk.{i}.attn_q.weight : unpermute transpose
    decoder.layers.{i}.attn.wk <- blk.{i}.attn_k.weight : unpermute transpose
    decoder.layers.{i}.attn.bq <- blk.{i}.attn_q.bias : unpermute
    decoder.layers.{i}.attn.bk <- blk.{i}.attn_k.bias : unpermute
    rope_freqs == rope_freqs.weight
""")
# All experts of a layer are one tensor.
EXPERTS = weight_map("""
    decoder.layers.{i}.mlp.router <- blk.{i}.ffn_gate_inp.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate <- blk.{i}.ffn_gate_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.up <- blk.{i}.ffn_up_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- blk.{i}.ffn_gate_up_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- blk.{i}.ffn_down_exps.weight[{e}] : transpose
    decoder.layers.{i}.mlp.shared.gate <- blk.{i}.ffn_gate_shexp.weight : transpose
    decoder.layers.{i}.mlp.shared.up <- blk.{i}.ffn_up_shexp.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- blk.{i}.ffn_down_shexp.weight : transpose
    decoder.layers.{i}.mlp.shared_gate <- blk.{i}.ffn_gate_inp_shexp.weight : column
    decoder.layers.{i}.mlp.bias <- blk.{i}.exp_probs_b.bias
""")
