"""Jina embeddings v3."""

import transformers

from .bert import tie
from .kit import Row
from .nomic_bert import rotated

ROWS = {
    "jina_embeddings_v3": Row(
        transformers.JinaEmbeddingsV3Config,
        (
            transformers.JinaEmbeddingsV3Model,
            transformers.JinaEmbeddingsV3ForMaskedLM,
            transformers.JinaEmbeddingsV3ForSequenceClassification,
            transformers.JinaEmbeddingsV3ForTokenClassification,
            transformers.JinaEmbeddingsV3ForQuestionAnswering,
        ),
        rotated(),
        amend=tie,
    )
}
