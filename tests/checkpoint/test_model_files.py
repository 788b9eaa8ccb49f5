"""Models on disk: the same model comes back, by path or name, in the precision it had, on a device that exists."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from geomol.checkpoint import known_models, load_model, read_manifest, save_model, save_state, write_tensors
from geomol.checkpoint import names as names_module
from geomol.errors import CheckpointError, ConfigError, SecurityError
from geomol.potential import Potential


def save(path: Path, model: Potential, **more: object) -> Path:
    facts = {"provenance": {"data": "abc"}, "errors": {"force_mae_eV_per_A": 0.01}, "symmetry": {"rotation": 1e-6}}
    save_model(path, model, **{**facts, **more})
    return path


def weights(model: Potential) -> dict[str, tuple[torch.dtype, list[float]]]:
    return {name: (tensor.dtype, tensor.tolist()) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_model_comes_back_in_its_own_precision_and_ready_to_evaluate(tmp_path, potential, dtype):
    model = potential.to(dtype)
    back = load_model(save(tmp_path / "m.safetensors", model))
    assert weights(back) == weights(model)
    assert back.dtype == dtype
    assert back.config == model.config
    buffers = dict(back.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in model.named_buffers()), "unsaved buffers too"
    assert not back.training
    assert all(weight.requires_grad for weight in back.parameters())


def test_a_table_kept_in_another_precision_than_the_weights_comes_back_so(tmp_path, potential):
    potential.backbone.grid = potential.backbone.grid.double() / 3
    back = load_model(save(tmp_path / "m.safetensors", potential))
    assert (back.dtype, back.backbone.grid.dtype) == (torch.float32, torch.float64)
    assert weights(back) == weights(potential)


def test_different_weights_are_told_apart(tmp_path, potential):
    """The control: an untrained model of the same configuration is not what comes back."""
    path = save(tmp_path / "m.safetensors", potential)
    assert weights(load_model(path)) != weights(Potential.from_config(potential.config))


def test_weights_are_cast_only_if_asked(tmp_path, potential, caplog):
    path = save(tmp_path / "m.safetensors", potential.double())
    with caplog.at_level(logging.INFO):
        assert load_model(path, device="cpu").dtype == torch.float64
        assert "asked" not in caplog.text
        assert load_model(path, dtype=torch.float32).dtype == torch.float32
        assert "weights cast from float64 to float32, as asked" in caplog.text
    assert load_model(path, dtype="float32").dtype == torch.float32
    for wrong in (torch.int64, "double precision", "int64"):
        with pytest.raises(ConfigError, match="expected one of float64, float32"):
            load_model(path, dtype=wrong)


@pytest.mark.parametrize("device", ["cuda:99", "cuda", "tpu", "meta", "cpu:3", "cuda:x", torch.device("cuda", 57)])
def test_an_absent_device_is_refused_with_those_that_exist(tmp_path, potential, monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = save(tmp_path / "m.safetensors", potential)
    with pytest.raises(ConfigError, match=f'device is absent, expected one of cpu.*, got "{device}"'):
        load_model(path, device=device)
    assert next(load_model(path, device=torch.device("cpu")).parameters()).device.type == "cpu"


def test_the_devices_that_exist_are_listed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r'expected one of cpu, cuda:0, cuda:1.*, got "cuda:2"'):
        load_model("any", device="cuda:2")


@pytest.mark.gpu
def test_a_model_moves_to_the_device_and_back(tmp_path, potential):
    path = save(tmp_path / "m.safetensors", potential)
    there = load_model(path, device="cuda")
    assert {weight.device.type for weight in there.parameters()} == {"cuda"}
    assert save(tmp_path / "n.safetensors", there).read_bytes() == path.read_bytes()


def test_the_manifest_says_what_the_model_is(tmp_path, potential):
    manifest = read_manifest(save(tmp_path / "m.safetensors", potential))
    expected = {
        "format": "geomol.model",
        "format_version": 1,
        "class": "Potential",
        "config": potential.config,
        "elements": [1, 6, 8],
        "cutoff": 4.0,
        "dtype": "float32",
        "units": {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å^3"},
        "errors": {"force_mae_eV_per_A": 0.01},
    }
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["provenance"]["data"] == "abc"
    assert manifest["provenance"]["libraries"]["torch"] == torch.__version__
    assert manifest["symmetry"]["claimed"]["group"] == potential.symmetry.group
    assert manifest["symmetry"]["measured"] == {"rotation": 1e-6}
    assert manifest["created_by"].startswith("geomol ")


def test_saving_twice_gives_the_same_bytes_also_after_loading(tmp_path, potential):
    first = save(tmp_path / "a.safetensors", potential).read_bytes()
    assert save(tmp_path / "b.safetensors", load_model(tmp_path / "a.safetensors")).read_bytes() == first
    other = save(tmp_path / "c.safetensors", potential, errors={"force_mae_eV_per_A": 0.02}).read_bytes()
    assert other != first


def test_loading_leaves_the_generator_and_the_default_precision_alone(tmp_path, potential):
    path = save(tmp_path / "m.safetensors", potential.double())
    before, dtype = torch.random.get_rng_state(), torch.get_default_dtype()
    load_model(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_default_dtype() == dtype
    Potential.from_config(potential.config)
    assert not torch.equal(torch.random.get_rng_state(), before), "the control: building a model draws numbers"


def test_weights_with_nan_are_not_saved_as_a_model(tmp_path, potential):
    name, weight = next(iter(potential.named_parameters()))
    with torch.no_grad():
        weight.view(-1)[0] = float("nan")
    with pytest.raises(CheckpointError, match=f"NaN or infinity in 1 of .* tensors: {name}"):
        save(tmp_path / "m.safetensors", potential)


def test_weights_of_another_configuration_are_refused(tmp_path, potential):
    manifest = read_manifest(save(tmp_path / "m.safetensors", potential))
    wider = {**potential.config, "backbone": {**potential.config["backbone"], "channels": 16}}
    tensors = potential.state_dict()
    name = next(iter(tensors))
    cases = [
        (tensors, {**manifest, "config": wider}, "size mismatch"),
        ({key: value for key, value in tensors.items() if key != name}, manifest, "Missing key"),
        ({**tensors, "extra": torch.zeros(1)}, manifest, "Unexpected key"),
    ]
    for weights_given, manifest_given, message in cases:
        write_tensors(tmp_path / "bad.safetensors", weights_given, manifest_given)
        with pytest.raises(CheckpointError, match=rf"bad\.safetensors: .*do not fit the configuration .*{message}"):
            load_model(tmp_path / "bad.safetensors")


def test_a_training_state_is_not_a_model_and_the_error_says_so(tmp_path):
    save_state(tmp_path, {"step": 1})
    classes = "Potential or Forecaster or Denoiser or PropertyModel or LabelModel"
    expected = rf"not a model, expected geomol\.model {classes}, got geomol\.state"
    with pytest.raises(CheckpointError, match=expected):
        load_model(tmp_path / "state.safetensors")


def test_a_pickled_model_is_refused_with_the_way_out(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt")
    with pytest.raises(SecurityError, match=r"model\.pt: .*expected a \.safetensors file; convert the weights"):
        load_model(tmp_path / "model.pt")


def test_only_potentials_are_saved_as_models(tmp_path):
    with pytest.raises(CheckpointError, match="a Linear cannot be saved as a model, expected Potential"):
        save_model(tmp_path / "m.safetensors", torch.nn.Linear(1, 1), provenance={}, errors={}, symmetry={})


def test_a_failed_save_of_a_model_keeps_the_old_one(tmp_path, potential):
    path = save(tmp_path / "m.safetensors", potential)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"manifest\.provenance\.when is a object"):
        save(path, potential, provenance={"when": object()})
    assert path.read_bytes() == before


@pytest.fixture
def shelves(tmp_path, potential, monkeypatch):
    """A current folder and a checkout, each with named models."""
    here, checkout = tmp_path / "here", tmp_path / "checkout"
    save(here / "models" / "water" / "model.safetensors", potential, errors={"from": "here"})
    save(checkout / "models" / "water" / "model.safetensors", potential, errors={"from": "checkout"})
    save(checkout / "models" / "ethanol" / "model.safetensors", potential, errors={"from": "checkout"})
    save(checkout / "models" / "md17" / "benzene" / "model.safetensors", potential, errors={"from": "checkout"})
    (checkout / "pyproject.toml").write_text("")
    monkeypatch.chdir(here)
    monkeypatch.setattr(names_module, "__file__", str(checkout / "geomol" / "checkpoint" / "names.py"))
    return here, checkout


def test_models_are_found_by_name_here_first_then_in_the_checkout(shelves):
    assert known_models() == ["ethanol", "md17/benzene", "water"]
    assert read_manifest("water")["errors"]["from"] == "here"
    assert read_manifest("ethanol")["errors"]["from"] == "checkout"
    assert read_manifest("md17/benzene")["errors"]["from"] == "checkout"
    assert load_model("ethanol").elements == [1, 6, 8]


def test_models_are_found_by_file_and_by_folder(shelves):
    here, checkout = shelves
    for path in ("models/water", "models/water/model.safetensors", here / "models" / "water"):
        assert read_manifest(path)["errors"]["from"] == "here"
    assert read_manifest(str(checkout / "models" / "water"))["errors"]["from"] == "checkout"


def test_a_folder_of_the_same_name_without_a_model_does_not_hide_a_named_model(shelves):
    here, _ = shelves
    (here / "ethanol").mkdir()
    assert read_manifest("ethanol")["errors"]["from"] == "checkout"


def test_an_installed_package_has_no_checkout(shelves):
    _, checkout = shelves
    (checkout / "pyproject.toml").unlink()
    assert known_models() == ["water"]


def test_what_is_not_found_is_refused_with_the_nearest_name(shelves):
    here, _ = shelves
    with pytest.raises(
        ConfigError, match=r'no model named "ethanool"; did you mean "ethanol"\? known: ethanol, md17/benzene'
    ):
        load_model("ethanool")
    with pytest.raises(CheckpointError, match=r"runs/x/model\.safetensors: no such file"):
        load_model("runs/x/model.safetensors")
    (here / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: a folder without a model, expected model\.safetensors in it"):
        load_model("empty")
    for name in ("", "..", "../checkout/models/nothing"):
        with pytest.raises((ConfigError, CheckpointError), match=r"no model|no such file|without a model"):
            load_model(name)


def test_without_any_model_the_error_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names_module, "__file__", str(tmp_path / "a" / "b" / "names.py"))
    with pytest.raises(ConfigError, match=r'no model named "water"; give the path of a model\.safetensors'):
        load_model("water")
