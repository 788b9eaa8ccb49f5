"""The denoiser: its three predictions on data whose best estimate is known, its inputs, conditions, and files."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geomol.checkpoint import load_denoiser, load_model, load_potential, model_hash, save_model
from geomol.diffusion import Cloud, Denoiser, Estimate, Karras, Variational, fit_backbone, gaussian_cloud
from geomol.errors import ConfigError
from geomol.geometry import random_rotations
from geomol.graph import Graph
from geomol.models import Features, Symmetry
from geomol.symmetry import build_backbone

PTR = torch.tensor([0, 3, 4, 9])
SPREAD = 0.7  # of the Gaussian data
ELEMENTS = [1, 6, 8]


class Fake(nn.Module):
    """Says what it is told to say, and remembers what it saw."""

    def __init__(self, say: Callable[[Graph], Features]) -> None:
        super().__init__()
        self.say, self.cutoff, self.config = say, math.inf, {"name": "fake"}
        self.symmetry = Symmetry(group="E(3)", exact=True, smooth=True)
        self.anchor = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, graph: Graph) -> Features:
        self.seen = graph
        return self.say(graph)


def silent(graph: Graph) -> Features:
    return Features(torch.zeros(graph.num_nodes, 3), torch.zeros(graph.num_nodes, 1, 3))


def clean_cloud(seed: int = 0) -> Cloud:
    noise = gaussian_cloud(PTR, 3, [torch.Generator().manual_seed(seed + k) for k in range(3)], dtype=torch.float64)
    return noise.scaled(SPREAD)


def fake_denoiser(say: Callable[[Graph], Features] = silent, **settings: object) -> Denoiser:
    return Denoiser(Fake(say), elements=ELEMENTS, levels=Karras(), **settings)


def tiny(*, bond_channels: int = 0, **settings: object) -> Denoiser:
    conditions = settings.get("conditions") or {}
    config = fit_backbone(
        {"name": "conditioned_egnn", "channels": 12, "pair_channels": 6, "num_vectors": 3, "num_layers": 2},
        num_types=3,
        num_conditions=len(conditions),
        self_conditioning=bool(settings.get("self_conditioning", True)),
        bond_channels=bond_channels,
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        made = Denoiser(
            build_backbone(config), elements=ELEMENTS, levels=Karras(), bond_channels=bond_channels, **settings
        ).double()
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return made.eval()


# the algebra


def ideal(prediction: str, y: Tensor, x: Tensor, s: Tensor) -> Tensor:
    """The network output F for which x̂ = x, from the definitions: z = y/√(1+s²) = (x + s ε)/√(1+s²)."""
    noise = (y - x) / s
    if prediction == "noise":
        return noise
    alpha, sigma = (1 + s**2).rsqrt(), s * (1 + s**2).rsqrt()
    if prediction == "clean":
        return x - alpha * y
    return alpha * (x - (alpha * y) * alpha) / sigma / alpha


@pytest.mark.parametrize("prediction", ["velocity", "noise", "clean"])
@pytest.mark.parametrize("level", [0.01, 0.5, 20.0])
def test_the_ideal_output_gives_back_the_clean_structure(prediction: str, level: float) -> None:
    x = clean_cloud()
    noise = gaussian_cloud(PTR, 3, [torch.Generator().manual_seed(9 + k) for k in range(3)], dtype=torch.float64)
    s = torch.tensor([level, 2 * level, 0.5 * level], dtype=torch.float64)
    y = x.plus(noise.scaled(s))
    of_node = s[y.batch][:, None]
    said = Features(ideal(prediction, y.feats, x.feats, of_node), ideal(prediction, y.pos, x.pos, of_node)[:, None])
    estimate = fake_denoiser(lambda _: said, prediction=prediction, types="gaussian")(y, s)
    assert (estimate.clean.pos - x.pos).abs().max() < 1e-12 * (1 + level**2)
    assert (estimate.clean.feats - x.feats).abs().max() < 1e-12 * (1 + level**2)
    other = {"velocity": "noise", "noise": "clean", "clean": "velocity"}[prediction]
    wrong = fake_denoiser(lambda _: said, prediction=other, types="gaussian")(y, s)
    assert (wrong.clean.pos - x.pos).abs().max() > 1e-3


def test_velocity_is_the_v_of_salimans_and_ho() -> None:
    """v = α ε − σ x, with z = α x + σ ε, α² + σ² = 1; F = −v."""
    x, s = clean_cloud(), torch.full((3,), 0.8, dtype=torch.float64)
    noise = gaussian_cloud(PTR, 3, [torch.Generator().manual_seed(9 + k) for k in range(3)], dtype=torch.float64)
    alpha = float((1 + s[0] ** 2).rsqrt())
    v = alpha * noise.pos - alpha * 0.8 * x.pos
    said = Features(torch.zeros(9, 3), -v[:, None])
    estimate = fake_denoiser(lambda _: said)(x.plus(noise.scaled(s)), s)
    assert (estimate.clean.pos - x.pos).abs().max() < 1e-12


@pytest.mark.parametrize("prediction", ["velocity", "noise", "clean"])
def test_gaussian_data_have_the_denoiser_of_the_textbook(prediction: str) -> None:
    """x ~ N(0, a²): E[x | y] = y a²/(a² + s²). For a = 1 the best velocity is no output at all."""
    y, s = clean_cloud(3), torch.full((3,), 1.3, dtype=torch.float64)
    wiener = SPREAD**2 / (SPREAD**2 + 1.69)
    of_node = s[y.batch][:, None]
    said = Features(torch.zeros(9, 3), ideal(prediction, y.pos, wiener * y.pos, of_node)[:, None])
    assert torch.allclose(fake_denoiser(lambda _: said, prediction=prediction)(y, s).clean.pos, wiener * y.pos)
    if prediction == "velocity":
        assert torch.allclose(fake_denoiser()(y, s).clean.pos, y.pos / (1 + 1.69))


def test_outputs_are_centred_and_types_are_probabilities() -> None:
    y, s = clean_cloud(), torch.ones(3, dtype=torch.float64)
    logits = torch.randn(9, 3, dtype=torch.float64)
    said = Features(logits, torch.randn(9, 1, 3, dtype=torch.float64) + 5)
    estimate = fake_denoiser(lambda _: said, type_scale=0.25)(y, s)
    centroids = torch.stack([part.mean(0) for part in estimate.clean.pos.split([3, 1, 5])])
    assert centroids.abs().max() < 1e-14
    assert torch.allclose(estimate.clean.feats, 0.25 * logits.softmax(1))
    assert torch.equal(estimate.logits, logits)
    assert estimate.hidden is None


# what the backbone sees


def test_the_backbone_sees_unit_variance_at_every_level() -> None:
    copies = 2000
    ptr = 5 * torch.arange(copies + 1)
    x, noise = (gaussian_cloud(ptr, 3, dtype=torch.float64) for _ in range(2))
    for level in (0.05, 1.0, 20.0):
        made = fake_denoiser()
        s = torch.full((copies,), level, dtype=torch.float64)
        made(x.plus(noise.scaled(s)), s)
        assert float(made.backbone.seen.pos.square().mean()) == pytest.approx(0.8, rel=0.05)  # 1 − 1/n


def test_inputs_are_elements_earlier_estimate_and_conditions_in_this_order() -> None:
    made = fake_denoiser(conditions={"gap": (6.0, 2.0)})
    y, s = clean_cloud(), torch.tensor([0.1, 1.0, 5.0], dtype=torch.float64)
    context = torch.tensor([[7.0], [torch.nan], [2.0]], dtype=torch.float64)
    earlier = Estimate(Cloud(y.pos * 0.5, torch.full((9, 3), 0.25 / 3, dtype=torch.float64), PTR))
    made(y, s, earlier=earlier, context=context)
    seen = made.backbone.seen
    scalars, of_node = seen.node_scalars, s[y.batch]
    assert scalars.shape == (9, 3 + 3 + 1 + 5)
    assert torch.allclose(scalars[:, :3], y.feats / (of_node**2 + 0.125**2).sqrt()[:, None])
    assert torch.allclose(scalars[:, 3:6], torch.full((9, 3), 1 / 3, dtype=torch.float64))
    assert scalars[:, 6].tolist() == [1.0] * 9
    assert torch.allclose(scalars[:, 7], of_node.log() / 4)
    assert torch.allclose(scalars[:, 8] * 6 + 18, PTR.diff().double()[y.batch])
    assert torch.allclose(scalars[:, 9], torch.tensor([0.5, 0.0, -2.0], dtype=torch.float64)[y.batch])
    assert torch.allclose(scalars[:, 10], torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)[y.batch])
    assert torch.allclose(scalars[:, 11], of_node / (1 + of_node**2).sqrt())
    assert torch.allclose(seen.node_vectors[:, 0] + seen.pos, earlier.clean.pos)
    made(y, s, context=context)
    assert not made.backbone.seen.node_scalars[:, 3:7].any()
    assert not made.backbone.seen.node_vectors.any()


def test_a_fitted_backbone_has_the_columns_that_the_denoiser_gives() -> None:
    for num_conditions in (0, 2):
        conditions = {f"c{k}": (0.0, 1.0) for k in range(num_conditions)}
        for self_conditioning in (False, True):
            made = tiny(conditions=conditions, self_conditioning=self_conditioning)
            graph = made.inputs(clean_cloud(), torch.ones(3, dtype=torch.float64), None, None)
            assert graph.node_scalars.shape[1] == made.backbone.config["in_scalars"]
            assert made.backbone.config["num_conditions"] == 3 + 2 * num_conditions


def test_fitting_reaches_inside_symmetrisers_and_leaves_what_is_given() -> None:
    config = {"name": "frame_averaging", "backbone": {"name": "mpnn", "channels": 8, "envelope": True}}
    inner = fit_backbone(config, num_types=3, bond_channels=4)["backbone"]
    assert inner["out_scalars"] == 7
    assert inner["out_vectors"] == 1
    assert inner["envelope"] is True
    assert "num_conditions" not in inner, "not an argument of that backbone"


def test_conditions_are_told_and_nan_is_the_same_as_nothing() -> None:
    made = tiny(conditions={"gap": (6.0, 2.0), "size": (0.0, 1.0)})
    y, s = clean_cloud(), torch.ones(3, dtype=torch.float64)
    nothing = made(y, s).clean.pos
    nans = made(y, s, context=torch.full((3, 2), torch.nan, dtype=torch.float64)).clean.pos
    mean = made(y, s, context=torch.tensor([[6.0, 0.0]] * 3, dtype=torch.float64)).clean.pos
    one = torch.full((3, 2), torch.nan, dtype=torch.float64)
    one[2, 0] = 8.0
    partly = made(y, s, context=one).clean.pos
    assert torch.equal(nans, nothing)
    assert (mean - nothing)[4:].abs().max() > 1e-5, "the mean is not the same as not knowing"
    assert torch.equal(partly[:4], nothing[:4])
    assert (partly - nothing)[4:].abs().max() > 1e-5


# symmetry


def test_estimates_turn_with_the_noisy_structure() -> None:
    made, y = tiny(bond_channels=4), clean_cloud()
    s = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64)
    turn = -random_rotations(1, generator=torch.Generator().manual_seed(2))[0]
    other = y.replace(y.pos @ turn.mT, y.feats)
    first, second = made(y, s), made(other, s)
    first, second = made(y, s, earlier=first), made(other, s, earlier=second)
    assert (second.clean.pos - first.clean.pos @ turn.mT).abs().max() < 1e-12
    for name in ("logits", "hidden"):
        assert (getattr(second, name) - getattr(first, name)).abs().max() < 1e-12
    assert (made(y, s).clean.pos - first.clean.pos).abs().max() > 1e-4, "the earlier estimate is read"


# molecules in and out


def test_encoding_and_decoding_return_the_molecule_about_its_centroid() -> None:
    made = tiny(length_unit=1.5)
    numbers = torch.tensor([6, 1, 1, 8, 1, 6, 8, 1, 1])
    pos = torch.randn(9, 3, dtype=torch.float64) + 20
    cloud = made.encode(pos, numbers, PTR)
    back, elements = made.decode(Estimate(cloud))
    assert torch.equal(elements, numbers)
    expected = torch.cat([part - part.mean(0) for part in pos.split([3, 1, 5])])
    assert torch.allclose(back, expected, atol=1e-12)
    assert torch.allclose(cloud.pos * 1.5, expected)
    assert torch.equal(cloud.feats.sum(1), torch.full((9,), 0.25, dtype=torch.float64))
    # logits, where there are any, say the element
    logits = torch.eye(3)[torch.tensor([0, 1, 2] * 3)]
    assert made.decode(Estimate(cloud, logits))[1].tolist() == ELEMENTS * 3


def test_elements_that_it_does_not_make_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not make, expected \(1, 6, 8\), got \[7, 9\]"):
        tiny().encode(torch.randn(3, 3), torch.tensor([7, 6, 9]), torch.tensor([0, 3]))


def test_clouds_of_points_without_elements() -> None:
    config = fit_backbone({"name": "conditioned_egnn", "channels": 8, "num_layers": 1}, num_types=0)
    made = Denoiser(build_backbone(config), elements=[], levels=Karras()).double()
    y = made.encode(torch.randn(9, 3, dtype=torch.float64), torch.zeros(9, dtype=torch.long), PTR)
    estimate = made(y, torch.ones(3, dtype=torch.float64))
    assert made.decode(estimate)[1].tolist() == [0] * 9


# files


@pytest.mark.parametrize("process", [Karras(mean=-1.0), Variational(num_steps=30)])
def test_a_saved_denoiser_is_loaded_with_the_same_estimates(process: nn.Module, tmp_path: Path) -> None:
    made = tiny(bond_channels=4, conditions={"gap": (6.0, 2.0)}, sizes={18: 5, 9: 2}, length_unit=1.6)
    made.levels = process
    path = tmp_path / "model.safetensors"
    save_model(path, made, provenance={}, errors={}, symmetry={})
    loaded = load_denoiser(path)
    y, s = clean_cloud(), torch.ones(3, dtype=torch.float64)
    assert torch.equal(loaded(y, s).clean.pos, made(y, s).clean.pos)
    assert loaded.config == made.config
    assert loaded.sizes == {18: 5, 9: 2}
    assert loaded.conditions == {"gap": (6.0, 2.0)}
    assert not loaded.training
    assert type(load_model(path)) is Denoiser
    assert len(model_hash(path)) == 64
    with pytest.raises(ConfigError, match="predicts no energies, expected Potential, got Denoiser"):
        load_potential(path)


def test_a_learned_schedule_is_saved_with_its_weights(tmp_path: Path) -> None:
    made = tiny(self_conditioning=False, types="gaussian")
    made.levels = Variational(schedule="learned", num_steps=20, objective="vlb").double()
    save_model(tmp_path / "model.safetensors", made, provenance={}, errors={}, symmetry={})
    loaded = load_denoiser(tmp_path / "model.safetensors")
    assert torch.equal(loaded.levels.grid(10), made.levels.grid(10))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prediction": "score"}, r'unknown setting "score", expected velocity or noise or clean'),
        ({"types": "onehot"}, r'unknown setting "onehot"'),
        ({"type_scale": 0.0}, "must be positive"),
        ({"length_unit": -1.0}, "must be positive"),
        ({"conditions": {"gap": (1.0, 0.0)}}, 'condition "gap" do not vary'),
        ({"conditions": {"gap": (float("nan"), 1.0)}}, 'condition "gap" do not vary'),
    ],
)
def test_bad_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fake_denoiser(**settings)


def test_a_backbone_without_vectors_is_refused() -> None:
    with pytest.raises(ConfigError, match="a vector per node"):
        fake_denoiser(lambda graph: Features(torch.zeros(graph.num_nodes, 3)))(clean_cloud(), torch.ones(3))


def test_bonds_cannot_be_had_without_a_head() -> None:
    with pytest.raises(ConfigError, match="no bond head"):
        fake_denoiser().bond_logits(Estimate(clean_cloud()), torch.zeros(2, 0, dtype=torch.long))
