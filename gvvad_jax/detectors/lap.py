"""LAP: TEVAD with a bank of anomaly prompts (the base model of GV-VAD).

Snippets whose text resembles an anomaly prompt are suspected; two more losses use that.
"""

import chex
import jax
import jax.numpy as jnp

from gvvad_jax import losses
from gvvad_jax.config import TrainConfig
from gvvad_jax.detectors import rtfm, tevad
from gvvad_jax.detectors.layers import Outputs

Detector = tevad.Detector


def suspected_snippets(
    text_BxTxE: jax.Array, bank_KxE: jax.Array, generated_B: jax.Array | None = None
) -> jax.Array:
    """Marks the snippets of abnormal videos whose text resembles an anomaly prompt.

    A snippet's similarity is its largest cosine to a row of the bank; it is suspected when that
    exceeds mean + one standard deviation (unbiased) over all B*T snippets of the batch, or of its
    own domain in the batch.

    Args:
      text_BxTxE: text of the abnormal videos, as stored.
      bank_KxE: embedded anomaly prompts, from the same text encoder.
      generated_B: which of the videos are generated, where the domains have thresholds of their
        own; None for one threshold.

    Returns:
      0 or 1 for each snippet [B, T].
    """
    chex.assert_rank([text_BxTxE, bank_KxE], [3, 2])

    def unit(x: jax.Array) -> jax.Array:
        return x / jnp.maximum(losses.norm(x)[..., None], 1e-8)

    similarity_BxT = jnp.max(unit(text_BxTxE) @ unit(bank_KxE).T, axis=-1)
    if generated_B is None:
        threshold = jnp.mean(similarity_BxT) + jnp.std(similarity_BxT, ddof=1)
        return (similarity_BxT > threshold).astype(text_BxTxE.dtype)
    suspected_BxT = jnp.zeros_like(similarity_BxT)
    for member_B in (~generated_B, generated_B):
        member_BxT = jnp.broadcast_to(member_B[:, None], similarity_BxT.shape)
        count = jnp.maximum(jnp.sum(member_BxT), 2)
        mean = jnp.sum(jnp.where(member_BxT, similarity_BxT, 0.0)) / count
        squares_BxT = jnp.where(member_BxT, jnp.square(similarity_BxT - mean), 0.0)
        threshold = mean + jnp.sqrt(jnp.sum(squares_BxT) / (count - 1))
        suspected_BxT += member_BxT & (similarity_BxT > threshold)
    return suspected_BxT.astype(text_BxTxE.dtype)


def mine_triplets(
    normal_BxT: jax.Array,
    abnormal_BxT: jax.Array,
    suspected_BxT: jax.Array,
    num_triplets: int,
    members_2xB: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mines K triplets of snippets from a batch, paired rank by rank.

    Anchors are the K lowest-scoring normal snippets, positives the K lowest-scoring abnormal ones
    (both ascending), negatives the K highest of score x suspected (descending). Ties go to the
    lowest index.

    Args:
      normal_BxT: scores of the normal videos.
      abnormal_BxT: scores of the abnormal videos.
      suspected_BxT: 0 or 1, see suspected_snippets.
      num_triplets: K; at most B*T triplets are mined.
      members_2xB: the normal and the abnormal videos to mine from, whose snippets come first;
        None for all.

    Returns:
      (anchors_K, positives_K, negatives_K), flat indices into B*T.
    """
    normal_B, abnormal_B = (None, None) if members_2xB is None else members_2xB

    def highest(values_BxT: jax.Array, member_B: jax.Array | None) -> jax.Array:
        if member_B is not None:
            values_BxT = jnp.where(member_B[:, None], values_BxT, -jnp.inf)
        flat = jax.lax.stop_gradient(values_BxT).reshape(-1)
        return jax.lax.top_k(flat, min(num_triplets, flat.size))[1]

    return (
        highest(-normal_BxT, normal_B),
        highest(-abnormal_BxT, abnormal_B),
        highest(abnormal_BxT * suspected_BxT, abnormal_B),
    )


def loss_terms(
    outputs: Outputs,
    text_VxTxE: jax.Array | None,
    bank_KxE: jax.Array | None,
    config: TrainConfig,
) -> dict[str, losses.Term]:
    """LAP's loss: RTFM's terms, and with text `pseudo` and `triplet`. See rtfm.loss_terms."""
    terms = rtfm.loss_terms(outputs, text_VxTxE, bank_KxE, config)
    if not config.uses_text:
        return terms
    assert text_VxTxE is not None and bank_KxE is not None
    generated_V = outputs.extra.get("generated")
    generated_B = None if generated_V is None else generated_V[1::2]
    suspected_BxT = suspected_snippets(text_VxTxE[1::2], bank_KxE, generated_B)
    terms["pseudo"] = _pseudo(outputs.scores_VxT[1::2], suspected_BxT, config)
    if generated_V is None:
        terms["triplet"] = _triplet(outputs, suspected_BxT, len(bank_KxE), config)
    else:
        terms["triplet"] = _triplets_by_domain(
            outputs, suspected_BxT, len(bank_KxE), generated_V, config
        )
    return terms


def _pseudo(scores_BxT: jax.Array, suspected_BxT: jax.Array, config: TrainConfig) -> losses.Term:
    if config.fidelity == "reference":
        scores_BxT = 1.0 - scores_BxT  # The published code pushes suspected snippets down.
    return losses.Term(
        values_M=jax.vmap(losses.pseudo_anomaly_loss)(scores_BxT, suspected_BxT),
        videos_MxJ=2 * jnp.arange(len(scores_BxT))[:, None] + 1,
        weight=config.pseudo_weight,
    )


def _triplet(
    outputs: Outputs,
    suspected_BxT: jax.Array,
    num_triplets: int,
    config: TrainConfig,
    members_2xB: jax.Array | None = None,
) -> losses.Term:
    scores_Bx2xT = outputs.scores_VxT.reshape(-1, 2, outputs.scores_VxT.shape[1])
    indices = mine_triplets(
        scores_Bx2xT[:, 0], scores_Bx2xT[:, 1], suspected_BxT, num_triplets, members_2xB
    )
    snippets: list[jax.Array] = []
    videos: list[jax.Array] = []
    for half, index_K in zip((0, 1, 1), indices, strict=True):
        video_K = 2 * (index_K // suspected_BxT.shape[1]) + half
        snippet_KxNxD = outputs.features_VxNxTxD[video_K, :, index_K % suspected_BxT.shape[1]]
        snippets.append(snippet_KxNxD.reshape(len(index_K), -1))
        videos.append(video_K)
    anchors_KxD, positives_KxD, negatives_KxD = snippets
    # The published code applies gamma twice.
    gammas = 2 if config.fidelity == "reference" else 1
    return losses.Term(
        values_M=jax.vmap(losses.triplet_loss)(anchors_KxD, positives_KxD, negatives_KxD),
        videos_MxJ=jnp.stack(videos, axis=1),
        weight=config.triplet_weight**gammas,
    )


def _triplets_by_domain(
    outputs: Outputs,
    suspected_BxT: jax.Array,
    num_triplets: int,
    generated_V: jax.Array,
    config: TrainConfig,
) -> losses.Term:
    """Builds the term triplet of each domain's own triplets, so that none compares the domains.

    The term is the mean of both domains' means, each weighted by its share of the batch's abnormal
    videos: that of a batch of one domain is the usual one. A domain has at most as many triplets
    as snippets in the smaller of its halves.
    """
    generated_Bx2 = generated_V.reshape(-1, 2)
    num_pairs, length = suspected_BxT.shape
    parts = []
    for member_Bx2 in (~generated_Bx2, generated_Bx2):
        term = _triplet(outputs, suspected_BxT, num_triplets, config, member_Bx2.T)
        num_mined = len(term.values_M)
        found = jnp.minimum(num_mined, length * jnp.min(jnp.sum(member_Bx2, axis=0)))
        share = jnp.sum(member_Bx2[:, 1]) / num_pairs
        # Twice, because the mean is taken over the triplets of two domains.
        weight = 2.0 * share * num_mined / jnp.maximum(found, 1)
        values_K = jnp.where(jnp.arange(num_mined) < found, weight * term.values_M, 0.0)
        parts.append((values_K, term.videos_MxJ))
    values, videos = zip(*parts, strict=True)
    return term.replace(values_M=jnp.concatenate(values), videos_MxJ=jnp.concatenate(videos))
