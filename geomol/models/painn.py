"""PaiNN: scalar and vector features that mix, so that messages know of angles at the price of distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from geomol.errors import ConfigError
from geomol.graph import Graph, edge_vectors
from geomol.models.base import Features, Symmetry, config_of
from geomol.models.plain_inputs import mlp
from geomol.nn import BesselBasis, NodeInputs, polynomial_envelope, safe_norm
from geomol.ops import conv

ENVELOPES = ("polynomial", "cosine")


class PaiNN(nn.Module):
    """Equivariant message passing with vectors, without products of higher order.

        message (eqs. 7, 8):  s_i ← s_i + Σ_j φ_s(s_j) ∘ W_s(r_ij)
                              v_i ← v_i + Σ_j v_j ∘ φ_vv(s_j) ∘ W_vv(r_ij) + Σ_j r̂_ij φ_vs(s_j) ∘ W_vs(r_ij)
        update (eqs. 9, 10):  s_i ← s_i + a_ss + a_sv ∘ ⟨U v_i, V v_i⟩      v_i ← v_i + a_vv ∘ U v_i
                              with a = a(s_i, |V v_i|)

    s (N, C) are scalars, v (N, 3, C) vectors; φ and a are networks per node, W are linear in radial functions of the
    distance times an envelope, r̂_ij points from the receiver to the sender, and ∘ acts per channel.

    Source: Schütt, Unke, Gastegger, ICML 2021 (arXiv:2102.03150).

    Departs from it: (1) "polynomial": a twice differentiable envelope on the radial functions and on the filters;
    "cosine" is the published one, on the filters alone. (2) What the first message would take from vectors that are all
    zero is left out, with its weights. (3) Norms are √(|V v|² + `softness`²): in the authors' code this length is 10⁻⁴,
    which leaves a kink in the energy where symmetry makes a vector vanish, as at the carbon of CO₂. (4) Vectors may be
    given (`in_vectors`) and enter as the first v_i through a linear map. (5) Vectors come out of one gated block
    (fig. 3) instead of two.

    Symmetry: scalars invariant, vectors equivariant under O(3) and translations, exactly; permutation equivariant.

    The published settings are `channels=128, num_layers=3, num_radial=20, envelope="cosine", softness=1e-4`.

    Args:
        elements: atomic numbers that enter as one-hot vectors.
        in_scalars: columns of `graph.node_scalars`.
        in_vectors: vectors of `graph.node_vectors`.
        out_scalars: scalars per node.
        out_vectors: vectors per node.
        channels: width C.
        num_layers: rounds of messages.
        cutoff: radius of the graph, Å.
        num_radial: Bessel functions of the distance.
        envelope: "polynomial" or "cosine", see above.
        softness: the length in the smooth form of the norm, see above.
        message_scale: constant factor on every filter, such as 1/√(mean number of neighbours).

    Raises:
        ConfigError: settings that contradict each other, or a graph whose inputs do not fit them.
    """

    def __init__(
        self,
        *,
        elements: Sequence[int] = (),
        in_scalars: int = 0,
        in_vectors: int = 0,
        out_scalars: int = 1,
        out_vectors: int = 0,
        channels: int = 64,
        num_layers: int = 3,
        cutoff: float = 5.0,
        num_radial: int = 8,
        envelope: str = "polynomial",
        softness: float = 0.5,
        message_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        if envelope not in ENVELOPES:
            raise ConfigError("unknown envelope", expected=" or ".join(ENVELOPES), got=str(envelope))
        if not softness > 0:
            raise ConfigError("softness must be positive", got=str(softness))
        if min(in_vectors, out_vectors) < 0 or num_layers < 1:
            raise ConfigError("in_vectors and out_vectors are at least 0, num_layers at least 1")
        self.cutoff, self.envelope, self.message_scale = float(cutoff), envelope, message_scale
        self.in_vectors = in_vectors
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=True)
        self.inputs = NodeInputs(elements, in_scalars)
        if self.inputs.num_features == 0:
            raise ConfigError("a PaiNN needs node inputs", remedy="give elements or in_scalars")
        self.basis = BesselBasis(num_radial, self.cutoff, enveloped=envelope == "polynomial")
        self.embed = nn.Linear(self.inputs.num_features, channels)
        self.embed_vectors = nn.Linear(in_vectors, channels, bias=False) if in_vectors else None
        parts = [3 if number > 0 or in_vectors > 0 else 2 for number in range(num_layers)]
        self.widths: list[int] = [number * channels for number in parts]
        self.filters = nn.Linear(num_radial, sum(self.widths))  # W of all layers
        self.messages = nn.ModuleList(_Message(channels, num) for num in parts)
        self.updates = nn.ModuleList(_Update(channels, softness) for _ in range(num_layers))
        self.readout = mlp(channels, channels, out_scalars) if out_scalars else None
        self.vector_readout = _GatedVectors(channels, out_vectors, softness) if out_vectors else None
        for layer in self.modules():  # the first weights of the authors' code
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, graph: Graph) -> Features:
        """Scalars per node, and vectors where there are `out_vectors`."""
        dtype = self.embed.weight.dtype
        vec = edge_vectors(graph, dtype)
        length = safe_norm(vec)
        unit = vec / length.clamp(min=torch.finfo(dtype).tiny)[:, None]
        of_layers = self._filters(length)
        feats = self.embed(self.inputs(graph, dtype))
        vectors = self._given_vectors(graph, dtype)
        for message, update, weights in zip(self.messages, self.updates, of_layers, strict=True):
            feats, vectors = message(feats, vectors, weights, unit, graph)
            feats, vectors = update(feats, vectors)
        found = None if self.vector_readout is None else self.vector_readout(feats, vectors)
        return Features(feats[:, :0] if self.readout is None else self.readout(feats), found)

    def _filters(self, length: Tensor) -> list[Tensor]:
        """W of each layer (E, parts C). The window multiplies the radial functions and the 1 of the bias rather than
        their many images.
        """
        window = self._window(length)
        inputs = torch.cat([self.basis(length) * window, window], dim=1)
        weights = torch.cat([self.filters.weight, self.filters.bias[:, None]], dim=1)
        return [inputs @ rows.T for rows in torch.split(weights, self.widths)]

    def _window(self, length: Tensor) -> Float[Tensor, "E 1"]:
        """Factor on the filters that vanishes at the cutoff."""
        ratio = length / self.cutoff
        if self.envelope == "cosine":
            window = torch.where(ratio < 1, 0.5 * (torch.cos(math.pi * ratio) + 1), 0.0)
        else:
            window = polynomial_envelope(ratio)
        return window[:, None] * self.message_scale

    def _given_vectors(self, graph: Graph, dtype: torch.dtype) -> Float[Tensor, "N 3 C"] | None:
        got = 0 if graph.node_vectors is None else graph.node_vectors.shape[1]
        if got != self.in_vectors:
            raise ConfigError(
                "`node_vectors` does not fit the model", expected=f"{self.in_vectors} vectors", got=str(got)
            )
        if self.embed_vectors is None or graph.node_vectors is None:
            return None
        return cast(Tensor, self.embed_vectors(graph.node_vectors.to(dtype).mT))


class _Message(nn.Module):
    """Eqs. 7 and 8."""

    def __init__(self, channels: int, parts: int) -> None:
        super().__init__()
        self.parts, self.width = parts, parts * channels  # to the scalars, along r̂, and of the vectors if there are any
        self.context = nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, self.width))  # φ

    def forward(
        self,
        feats: Float[Tensor, "N C"],
        vectors: Float[Tensor, "N 3 C"] | None,
        filters: Float[Tensor, "E PC"],
        unit: Float[Tensor, "E 3"],
        graph: Graph,
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N 3 C"]]:
        context = self.context(feats).chunk(self.parts, dim=1)
        weights = filters.chunk(self.parts, dim=1)
        new = feats + conv(context[0], weights[0], graph)
        along = weights[1][:, None, :] * unit[:, :, None]  # (E, 3, C)
        moved = conv(context[1][:, None, :].expand(-1, 3, -1), along, graph)
        if vectors is None:
            return new, moved
        return new, vectors + moved + conv(vectors * context[2][:, None, :], weights[2][:, None, :], graph)


class _Update(nn.Module):
    """Eqs. 9 and 10."""

    def __init__(self, channels: int, softness: float) -> None:
        super().__init__()
        self.softness = softness
        self.mix = nn.Linear(channels, 2 * channels, bias=False)  # U, V
        self.context = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, 3 * channels))

    def forward(
        self, feats: Float[Tensor, "N C"], vectors: Float[Tensor, "N 3 C"]
    ) -> tuple[Float[Tensor, "N C"], Float[Tensor, "N 3 C"]]:
        u, v = self.mix(vectors).chunk(2, dim=2)
        norm = (v.square().sum(1) + self.softness**2).sqrt()
        a_ss, a_sv, a_vv = self.context(torch.cat([feats, norm], dim=1)).chunk(3, dim=1)
        return feats + a_ss + a_sv * (u * v).sum(1), vectors + a_vv[:, None, :] * u


class _GatedVectors(nn.Module):
    """Vectors as linear combinations of the vector features, each times a number that follows from the scalars."""

    def __init__(self, channels: int, out_vectors: int, softness: float) -> None:
        super().__init__()
        self.softness = softness
        self.mix = nn.Linear(channels, channels + out_vectors, bias=False)
        self.gate = nn.Sequential(nn.Linear(2 * channels, channels), nn.SiLU(), nn.Linear(channels, out_vectors))
        self.channels = channels

    def forward(self, feats: Float[Tensor, "N C"], vectors: Float[Tensor, "N 3 C"]) -> Float[Tensor, "N V 3"]:
        mixed = self.mix(vectors)
        seen, out = mixed[:, :, : self.channels], mixed[:, :, self.channels :]
        norm = (seen.square().sum(1) + self.softness**2).sqrt()
        gated: Tensor = (out * self.gate(torch.cat([feats, norm], dim=1))[:, None, :]).mT
        return gated
