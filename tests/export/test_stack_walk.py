"""The mirror's walk over a stack, layer by layer, against the specification's."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.mirror import OverTensors
from tfm.export.stack_walk import StackWalk
from tfm.export.torch_engine import tensors
from tfm.refimpl.config import Config, QuestionTokens
from tfm.refimpl.engine import stack_walk as specification
from tfm.refimpl.ops.latent_attention import LatentCache
from tfm.refimpl.params.tree import map_leaves

MODELS = {
    "positions added": tiny_models.added_positions(),
    "rotary, windows": tiny_models.mixed_windows(),
    "token types": tiny_models.encoder(),
    "reads an encoder": tiny_models.rotary_encoder_decoder(),
    "reads an encoder for a head": tiny_models.reading_decoder(),
    "keys and values shared, vectors for each layer": tiny_models.shared_kv(),
    "several streams of a token": tiny_models.altup(),
    "a global question": tiny_models.windowed(spread=QuestionTokens(9)),
    "summaries": tiny_models.summarized(),
    "segments": tiny_models.relative(),
    "an indexer is shared": tiny_models.indexed(),
    "outputs of heads and units are normalized": tiny_models.normed_outputs(),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_layer_gives_the_specifications_vectors(name: str) -> None:
    config: Config = MODELS[name]
    params = tiny_models.weights(config, dtype=np.float64)
    mirrored: Any = map_leaves(lambda _, leaf: tensors(leaf), params)
    tokens, lengths = np.array([[13, 9, 60, 2, 31, 7], [4, 4, 8, 1, 90, 0]]), np.array([6, 4])
    states, mirrored_states = None, None
    for stack in config.stacks:
        walk, theirs = specification.StackWalk(config, stack), OverTensors(StackWalk(config, stack))
        weights, mirrored_weights = params[stack], mirrored[stack]
        ids = walk.shifted(tokens)
        mirrored_ids = theirs.shifted(torch.from_numpy(tokens))
        assert (mirrored_ids.numpy() == ids).all()
        x = walk.enter(ids, params["embedding"], weights)
        y = theirs.enter(mirrored_ids, mirrored["embedding"], mirrored_weights)
        positions = walk.positions(6, weights, x.dtype)._replace(question=walk.question(ids))
        mirrored_question = theirs.question(mirrored_ids)
        mirrored_positions = theirs.positions(6, mirrored_weights, y.dtype)._replace(
            question=mirrored_question
        )
        shared = walk.shared(ids, x, params["embedding"])
        mirrored_shared = theirs.shared(mirrored_ids, y, mirrored["embedding"])
        for i in range(len(walk.stack.layers)):
            np.testing.assert_allclose(y.numpy(), x, rtol=1e-9, atol=1e-9)
            x, own = walk.layer(i, x, lengths, positions, weights["layers"][i], shared, states)
            y, cache = theirs.layer(
                i, y, torch.from_numpy(lengths), mirrored_positions, mirrored_weights["layers"][i],
                mirrored_shared, mirrored_states,
            )  # fmt: skip
            assert (cache is not None) == (own is not None) == (stack == "decoder")
            if walk.stack.layers[i].kv_layer is not None:
                assert (cache, own) == ((), ())
            elif isinstance(own, LatentCache):
                np.testing.assert_allclose(cache.latents.numpy(), own.latents, rtol=1e-9, atol=1e-9)
            elif cache is not None:
                assert cache.keys.shape[2] == 6
                np.testing.assert_allclose(cache.keys.numpy(), own.keys, rtol=1e-9, atol=1e-9)
        states = walk.leave(x, weights)
        mirrored_states = theirs.leave(y, mirrored_weights)
        np.testing.assert_allclose(mirrored_states.numpy(), states, rtol=1e-9, atol=1e-9)
