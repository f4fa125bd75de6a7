"""LoRA: nothing changes at the start, only A and B train, merging is the same model, files fit one model only."""

import pytest
import torch
from torch import nn

from vlmlab.errors import BadCheckpoint, BadInput, UnknownName
from vlmlab.files import read_tensors, write_tensors
from vlmlab.language import Llama, LlamaConfig, Mamba, MambaConfig
from vlmlab.vlm import lora
from vlmlab.vlm.model import VLM

LLAMA = LlamaConfig(vocab_size=64, dim=48, layers=2, heads=4, kv_heads=2, hidden=96)
MAMBA = MambaConfig(vocab_size=64, dim=48, layers=2)
IDS = torch.randint(0, 64, (2, 9), generator=torch.Generator().manual_seed(1))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def llama():
    return Llama(LLAMA, seeded())


def mamba():
    return Mamba(MAMBA, seeded())


def moved(module, seed=2):
    """Its LoRAs away from the start."""
    with torch.no_grad():
        for layer in lora.layers(module).values():
            layer.B.normal_(0, 0.05, generator=seeded(seed))
    return module


@pytest.fixture(params=[llama, mamba])
def model(request):
    return request.param()


def test_nothing_changes_at_the_start(model):
    before = model(IDS)
    lora.attach(model, 4, generator=seeded())
    assert torch.equal(model(IDS), before)


def test_equation_3_by_hand():
    base = nn.Linear(5, 7)
    layer = lora.LoRA(base, 2, 6.0, seeded())
    with torch.no_grad():
        layer.B.normal_(generator=seeded(1))
    x = torch.randn(3, 5, generator=seeded(2))
    expected = x @ base.weight.T + base.bias + 3.0 * (x @ layer.A.T @ layer.B.T)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(nn.functional.linear(x, layer.weight, layer.bias), expected, rtol=0, atol=1e-6)


def test_only_the_loras_train_and_every_one_of_them(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    lora.attach(model, 4, generator=seeded())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(lora.state(model))
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # in the first step A has no gradient, since B is zero
        nn.functional.cross_entropy(model(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()).backward()
        optimiser.step()
    for name, value in lora.state(model).items():
        assert value.grad.abs().max() > 0, name
    for name, layer in lora.layers(model).items():
        assert torch.equal(layer.base.weight, before[f"{name}.weight"])
        assert layer.base.weight.grad is None


def test_a_layer_whose_weight_is_read_learns_too():
    """Mamba reads dt_proj.weight; it never calls that layer."""
    model = mamba()
    lora.attach(model, 1, names=["layers.0.mixer.dt_proj"], generator=seeded())
    before = model(IDS)
    moved(model)
    assert (model(IDS) - before).abs().max() > 1e-4
    model(IDS).square().mean().backward()
    assert model.layers[0].mixer.dt_proj.B.grad.abs().max() > 0


def test_the_count_of_parameters():
    model = llama()
    names = lora.attach(model, 8)
    widths = [(48, 48), (48, 24), (48, 24), (48, 48), (48, 96), (48, 96), (96, 48)]
    assert len(names) == 2 * len(widths)
    assert sum(p.numel() for p in lora.state(model).values()) == 2 * sum(8 * (i + o) for i, o in widths)
    model = mamba()  # x_proj (96 to 35) is larger than a LoRA of rank 8, dt_proj (3 to 96) is not
    assert {name.rpartition(".")[2] for name in lora.attach(model, 8)} == {"in_proj", "x_proj", "out_proj"}


def test_merged_is_unmerged_and_back_is_exact(model):
    weights = {name: p.clone() for name, p in model.double().named_parameters()}
    lora.attach(model, 4, generator=seeded())
    apart = moved(model)(IDS)
    taken = lora.merge(model)
    assert not lora.layers(model)
    assert {name for name, _ in model.named_parameters()} == set(weights)
    assert not any(p.requires_grad for p in model.parameters())
    assert (model(IDS) - apart).abs().max() <= 1e-12 * apart.abs().max()  # in float64; in float32 1e-6
    lora.unmerge(model, taken)
    assert torch.equal(model(IDS), apart)
    for name, layer in lora.layers(model).items():
        assert torch.equal(layer.base.weight, weights[f"{name}.weight"])


def test_a_file_restores_the_change_in_the_model_it_was_made_for(model, tmp_path):
    path = tmp_path / "adapters.safetensors"
    fresh = type(model)(model.config, seeded())
    lora.attach(model, 4, 12.0, generator=seeded())
    lora.save(moved(model), path, "toy", torch.float32, {"frames": 8})
    about = lora.load(fresh, path)
    assert (about.base, about.alpha, about.note) == ("toy", 12.0, {"frames": 8})
    assert torch.equal(fresh(IDS), model(IDS))
    tensors, _ = read_tensors(path)
    assert set(tensors) == set(lora.state(model))  # and nothing of the model itself
    lora.save(model, path, "toy")
    assert {value.dtype for value in read_tensors(path)[0].values()} == {torch.float16}
    half = type(model)(model.config, seeded())
    lora.load(half, path)
    torch.testing.assert_close(half(IDS), model(IDS), rtol=0, atol=2e-3 * float(model(IDS).detach().abs().max()))


def test_the_fingerprint_survives_fp16_and_loras_and_tells_models_apart(model):
    first = lora.fingerprint(model)
    rounded = type(model)(model.config, seeded())
    rounded.load_state_dict({name: value.half().float() for name, value in rounded.state_dict().items()})
    assert lora.fingerprint(rounded) == first
    lora.attach(model, 4)
    assert lora.fingerprint(moved(model)) == first
    lora.merge(model)
    assert lora.fingerprint(model) != first


def test_a_whole_vlm_takes_loras_where_it_is_told(tmp_path):
    vlm = VLM.from_preset("llava-tiny", "cpu").eval()
    names = lora.attach(vlm, names=("projector", "language"), generator=seeded())
    assert {name.split(".")[0] for name in names} == {"projector", "language"}
    assert len(names) == 2 + 6 * 7
    lora.save(moved(vlm), tmp_path / "x.safetensors", "llava-tiny")
    assert (tmp_path / "x.safetensors").stat().st_size < 1e6
    said = vlm.generate(None, "Is there a cat?", max_new_tokens=4)
    lora.merge(vlm)
    assert vlm.generate(None, "Is there a cat?", max_new_tokens=4) == said


def test_what_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "adapters.safetensors"
    model = llama()
    with pytest.raises(BadInput, match="no LoRA to save"):
        lora.save(model, path, "toy")
    with pytest.raises(UnknownName, match=r"did you mean 'layers\.0\.self_attn\.q_proj'"):
        lora.attach(model, names=["layers.0.self_attn.q_prj"])
    with pytest.raises(UnknownName, match="linear layer"):
        lora.attach(model, names=["norm"])
    with pytest.raises(BadInput, match="at least 1"):
        lora.attach(model, 0)
    assert all(p.requires_grad for p in model.parameters())  # a refusal changes nothing
    lora.attach(model, 4)
    with pytest.raises(BadInput, match="already"):
        lora.attach(model, 4)
    lora.save(model, path, "toy")
    with pytest.raises(BadCheckpoint, match="load toy first"):
        lora.load(Llama(LLAMA, seeded(5)), path)
    tensors, metadata = read_tensors(path)
    some = next(iter(tensors))
    for damaged in (
        tensors | {"layers.9.self_attn.q_proj.A": tensors[some].clone()},
        {name: value for name, value in tensors.items() if name != some},
        tensors | {some: tensors[some][:1]},
        {},
    ):
        write_tensors(path, damaged, metadata)
        with pytest.raises(BadCheckpoint):
            lora.load(llama(), path)
    write_tensors(path, tensors, metadata | {"about": "{}"})
    with pytest.raises(BadCheckpoint, match="metadata"):
        lora.load(llama(), path)
    write_tensors(path, tensors, {})
    with pytest.raises(BadCheckpoint, match="holds no LoRAs"):
        lora.load(llama(), path)
