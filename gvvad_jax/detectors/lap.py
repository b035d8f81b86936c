"""LAP: TEVAD with a bank of anomaly prompts (the base model of GV-VAD).

The bank marks suspected snippets by their text; two more losses use the marks.
"""

import chex
import jax
import jax.numpy as jnp

from gvvad_jax import losses
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors import rtfm, tevad
from gvvad_jax.detectors.layers import Outputs

Detector = tevad.Detector


def suspected_snippets(text_BxTxE: jax.Array, bank_KxE: jax.Array) -> jax.Array:
    """Which snippets of the abnormal videos read like an anomaly.

    A snippet's similarity is its largest cosine to a row of the bank; it is suspected when that
    exceeds mean + one standard deviation (unbiased) over all B*T snippets of the batch.

    Args:
      text_BxTxE: text of the abnormal half.
      bank_KxE: embedded anomaly prompts, from the same text encoder.

    Returns:
      0/1 [B, T].
    """
    chex.assert_rank([text_BxTxE, bank_KxE], [3, 2])

    def unit(x):
        return x / jnp.maximum(losses.norm(x)[..., None], 1e-8)

    similarity_BxT = jnp.max(unit(text_BxTxE) @ unit(bank_KxE).T, axis=-1)
    threshold = jnp.mean(similarity_BxT) + jnp.std(similarity_BxT, ddof=1)
    return (similarity_BxT > threshold).astype(text_BxTxE.dtype)


def mine_triplets(
    normal_BxT: jax.Array, abnormal_BxT: jax.Array, suspected_BxT: jax.Array, num_triplets: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Flat indices into B*T of K anchors, positives and negatives, paired rank by rank.

    Anchors are the K lowest-scoring normal snippets, positives the K lowest-scoring abnormal ones
    (both ascending), negatives the K highest of score x suspected (descending); of equal ones the
    lowest index. K is at most B*T.
    """

    def highest(values_BxT):
        flat = jax.lax.stop_gradient(values_BxT).reshape(-1)
        return jax.lax.top_k(flat, min(num_triplets, flat.size))[1]

    return highest(-normal_BxT), highest(-abnormal_BxT), highest(abnormal_BxT * suspected_BxT)


def loss_terms(
    outputs: Outputs,
    text_VxTxE: jax.Array | None,
    bank_KxE: jax.Array | None,
    config: TrainConfig,
) -> dict[str, losses.Term]:
    """RTFM's terms, and with text `pseudo` and `triplet`. See rtfm.loss_terms."""
    terms = rtfm.loss_terms(outputs, text_VxTxE, bank_KxE, config)
    if not config.uses_text:
        return terms
    suspected_BxT = suspected_snippets(text_VxTxE[1::2], bank_KxE)
    terms["pseudo"] = _pseudo(outputs.scores_VxT[1::2], suspected_BxT, config)
    terms["triplet"] = _triplet(outputs, suspected_BxT, len(bank_KxE), config)
    return terms


def _pseudo(scores_BxT: jax.Array, suspected_BxT: jax.Array, config: TrainConfig) -> losses.Term:
    if config.fidelity == "reference":
        scores_BxT = 1.0 - scores_BxT  # As coded: suspected snippets are pushed down.
    return losses.Term(
        values_M=jax.vmap(losses.pseudo_anomaly_loss)(scores_BxT, suspected_BxT),
        videos_MxJ=2 * jnp.arange(len(scores_BxT))[:, None] + 1,
        weight=config.pseudo_weight,
    )


def _triplet(
    outputs: Outputs, suspected_BxT: jax.Array, num_triplets: int, config: TrainConfig
) -> losses.Term:
    scores_Bx2xT = outputs.scores_VxT.reshape(-1, 2, outputs.scores_VxT.shape[1])
    indices = mine_triplets(scores_Bx2xT[:, 0], scores_Bx2xT[:, 1], suspected_BxT, num_triplets)
    snippets, videos = [], []
    for half, index_K in zip((0, 1, 1), indices, strict=True):
        video_K = 2 * (index_K // suspected_BxT.shape[1]) + half
        snippet_KxNxD = outputs.features_VxNxTxD[video_K, :, index_K % suspected_BxT.shape[1]]
        snippets.append(snippet_KxNxD.reshape(len(index_K), -1))
        videos.append(video_K)
    # As coded, gamma is applied twice.
    gammas = 2 if config.fidelity == "reference" else 1
    return losses.Term(
        values_M=jax.vmap(losses.triplet_loss)(*snippets),
        videos_MxJ=jnp.stack(videos, axis=1),
        weight=config.triplet_weight**gammas,
    )
