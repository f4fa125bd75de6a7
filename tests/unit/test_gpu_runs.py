"""GPU runs at toy size on a CPU: decoding through static buffers, every run, its record, and what is refused."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlmlab import cli, gpu
from vlmlab.errors import BadInput, UnknownName
from vlmlab.gpu import measuring
from vlmlab.gpu.__main__ import main
from vlmlab.gpu.decode import PAPER, PRESETS, bytes_per_token
from vlmlab.gpu.lengths import or_none
from vlmlab.gpu.recording import path
from vlmlab.language import Llama, LlamaConfig, Mamba, MambaConfig, generate
from vlmlab.language.graphs import Decoder
from vlmlab.vlm.model import VLM

CPU = torch.device("cpu")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """An empty data/gpu_runs; the shipped checkpoints stay where they are."""
    folder = tmp_path / "gpu_runs"
    monkeypatch.setattr("vlmlab.gpu.recording.path", lambda name: folder / f"{name}.json")
    return folder


# ------------------------------------------------------------------ decoding in static buffers
def sharpened(model):
    """Greedy tokens of an untrained model that differ from row to row."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "A_log" not in name:
                weight.mul_(4)
    return model.eval()


def models():
    g = torch.Generator().manual_seed(0)
    llama = LlamaConfig(60, 32, 2, 4, 2, 48, max_positions=40, tie_embeddings=False)
    return {"llama": sharpened(Llama(llama, g)), "mamba": sharpened(Mamba(MambaConfig(60, 32, 3, state=4), g))}


MODELS = models()
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]])


def prompt(seed, rows=3):
    return torch.randint(0, 60, (rows, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MODELS)
def test_a_decoder_gives_the_tokens_of_ordinary_generation(name):
    model = MODELS[name]
    decoder = Decoder(model, 40, batch=3)
    for seed, mask, eos in ((0, None, ()), (1, PADDED, ()), (2, PADDED, (3, 5, 9, 20)), (0, None, ())):
        how = {"input_ids": prompt(seed), "attention_mask": mask, "max_new_tokens": 20, "eos_ids": eos}
        wanted = generate(model, **how)
        assert torch.equal(generate(model, **how, decoder=decoder), wanted)
        assert len(set(wanted.flatten().tolist())) > 8  # not one token over and over


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_decoder_works_in_the_models_dtype(dtype):
    for model in models().values():
        model.to(dtype)
        wanted = generate(model, input_ids=prompt(3), max_new_tokens=6)
        assert torch.equal(
            generate(model, input_ids=prompt(3), max_new_tokens=6, decoder=Decoder(model, 16, 3)), wanted
        )


def test_a_decoder_that_does_not_fit_says_so():
    llama, mamba = MODELS["llama"], MODELS["mamba"]
    with pytest.raises(BadInput, match=r"room=41; the model takes 1 to 40"):
        Decoder(llama, 41)
    with pytest.raises(BadInput, match="6 tokens and 9 new ones, but the decoder has room for 14"):
        generate(llama, input_ids=prompt(0, 1), max_new_tokens=10, decoder=Decoder(llama, 14))
    assert generate(llama, input_ids=prompt(0, 1), max_new_tokens=9, decoder=Decoder(llama, 14)).shape == (1, 9)
    with pytest.raises(BadInput, match="holds 2 rows, the decoder was made for 1"):
        generate(mamba, input_ids=prompt(0, 2), max_new_tokens=2, decoder=Decoder(mamba))
    with pytest.raises(BadInput, match=r"temperature=0\.5 goes without one"):
        generate(mamba, input_ids=prompt(0, 1), max_new_tokens=2, temperature=0.5, decoder=Decoder(mamba))
    with pytest.raises(BadInput, match="a Llama or a Mamba, not a Linear"):
        Decoder(torch.nn.Linear(2, 2))


# ------------------------------------------------------------------ what a token must move
def test_bytes_per_token_by_hand():
    llama, mamba = MODELS["llama"], MODELS["mamba"]
    caches = {}
    for name, model in MODELS.items():
        caches[name] = model.new_cache()
        with torch.inference_mode():
            model.hidden(prompt(0, 1), cache=caches[name])
    read = sum(p.numel() for name, p in llama.named_parameters() if name != "embed_tokens.weight") + 32
    # 2 layers of keys and values, 2 heads of 8 channels; 6 tokens and, on average, half of the 8 new ones
    assert bytes_per_token(llama, caches["llama"], 8) == 4 * (read + 2 * 2 * 16 * (6 + 4))
    state = 3 * 64 * (4 + 4)  # 4 inputs of the convolution and 4 numbers of state a channel, in 3 layers
    assert bytes_per_token(mamba, caches["mamba"], 8) == 4 * (sum(p.numel() for p in mamba.parameters()) + 2 * state)


def test_full_size_models_read_what_the_facts_say():
    assert {*PAPER} < {*PRESETS}
    mamba = VLM.from_preset("cobra-3b", "meta").language
    assert bytes_per_token(mamba.to(torch.bfloat16), mamba.new_cache(), 256) == 2 * 2_768_345_600


@pytest.mark.parametrize(("preset", "longest"), [("llava-1.5-7b", 848), ("cobra-3b", 0)])
def test_a_full_size_step_has_shapes_that_fit(preset, longest):
    language = VLM.from_preset(preset, "meta").to(torch.bfloat16).eval().requires_grad_(False).language
    language.layers = language.layers[:2]  # they are all alike
    if longest:
        assert Decoder(language, longest)(torch.zeros(1, dtype=torch.long, device="meta")).shape == (1,)
    else:
        language.config = type(language.config)(50280, 2560, 2)
        assert Decoder(language)(torch.zeros(1, dtype=torch.long, device="meta")).shape == (1,)


def test_random_models_are_made_in_their_dtype_and_leave_the_default_alone():
    vlm = measuring.vlm("cobra-mambavision-tiny", CPU, "bfloat16")
    kinds = {name: p.dtype for name, p in vlm.named_parameters()}
    assert {kind for name, kind in kinds.items() if name.endswith(("A_log", ".D"))} == {torch.float32}
    assert {kind for name, kind in kinds.items() if not name.endswith(("A_log", ".D"))} == {torch.bfloat16}
    assert not any(p.requires_grad for p in vlm.parameters())
    assert torch.get_default_dtype() == torch.float32
    again = measuring.vlm("cobra-mambavision-tiny", CPU, "bfloat16")
    assert all(torch.equal(a, b) for a, b in zip(vlm.parameters(), again.parameters(), strict=True))
    with pytest.raises(UnknownName, match="unknown dtype 'float15'"):
        measuring.vlm("llava-tiny", CPU, "float15")


def test_the_copy_is_timed_and_memory_that_runs_out_is_no_result():
    assert measuring.copy_bandwidth(CPU, 2**16, copies=2) > 1e6

    def greedy():
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert or_none(greedy) is None
    with measuring.peak(CPU) as most:
        pass
    assert most == []


# ------------------------------------------------------------------ the runs
def at_toy_size(name, out, **settings):
    record = gpu.run(name, out / "record.json", device="cpu", **settings)
    assert json.loads((out / "record.json").read_text()) == json.loads(json.dumps(record))
    return record["results"]


def test_decode(tmp_path):
    found = at_toy_size("decode", tmp_path, presets=["llava-tiny"], tokens=3, rounds=1, dtype="float32", copied=2**16)
    model = found["models"]["llava-tiny"]
    assert model["prompt_tokens"] == 64 + 16
    assert model["parameters"] == VLM.from_preset("llava-tiny", "meta").count_parameters()["total"]
    assert model["tokens_per_second"] == pytest.approx(3000 / model["answer_ms"], rel=2e-3)
    assert model["limit_ms"] == pytest.approx(1e3 * model["bytes_per_token"] / found["bandwidth"], rel=2e-3)
    assert model["share_of_limit"] == pytest.approx(model["limit_ms"] / model["token_ms"], rel=2e-3)
    assert model["answer_ms"] > 0.5 * (model["encode_ms"] + model["prefill_ms"])
    assert model["paper_tokens_per_second"] is model["peak_bytes"] is None


def test_lengths(tmp_path):
    presets = ["llava-tiny", "cobra-tiny"]
    found = at_toy_size("lengths", tmp_path, presets=presets, lengths=[8, 24], tokens=1, rounds=1)
    assert found["lengths"] == [8, 24]
    llama = 2 * 6 * 3 * 32 * 2  # keys and values, layers, heads, channels, bytes
    assert found["kept_bytes"]["llava-tiny"] == [8 * llama, 24 * llama]
    assert found["kept_bytes"]["cobra-tiny"][0] == found["kept_bytes"]["cobra-tiny"][1]
    assert all(min(found[what][name]) > 0 for what in ("prefill_ms", "token_ms") for name in presets)
    assert measuring.language_model("llava-tiny", 1100, CPU, "float32").max_positions == 1100  # 1024 as it ships


def test_scan(tmp_path):
    found = at_toy_size("scan", tmp_path, shapes={"small": (1, 6, 20, 3)}, rounds=1, copied=2**16)
    names = set(found["forward_ms"]["small"])
    assert {"chunked", "cpu"} <= names
    assert not {"reference", "mamba_ssm"} & names
    assert found["limit_ms"]["small"] == pytest.approx(4e3 * 20 * (18 + 6) / found["bandwidth"], rel=2e-3)
    assert max(found["relative_difference"]["small"].values()) < 1e-5


def test_throughput(tmp_path):
    model = at_toy_size("throughput", tmp_path, variants=["tiny"], batch=2, rounds=1)["models"]["tiny"]
    assert model["size"] == 96
    assert model["images_per_second"] > 0
    assert model["paper_images_per_second"] is None


@pytest.mark.skipif(importlib.util.find_spec("embreex") is None, reason="embreex, which renders, is not installed")
def test_train(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path / "work"))
    dials = {"steps": 2, "scenes": 12, "checks": 8, "batch": 2, "evaluate_every": 2, "precision": "fp32"}
    found = at_toy_size("train", tmp_path, recipe="llava-tiny-stage1", dials=dials)
    assert found["from_shipped"] == ["tokenizer", "clip-tiny", "language-tiny"]
    assert found["trained_before"] == []
    assert found["steps"] == len(found["losses"]) == 2
    assert found["evaluation"]
    with pytest.raises(BadInput):  # the run's folder is taken
        gpu.run("train", tmp_path / "again.json", device="cpu", recipe="llava-tiny-stage1", dials=dials)
    with pytest.raises(UnknownName, match="unknown recipe"):
        gpu.run("train", tmp_path / "again.json", device="cpu", recipe="llava")
    assert not (tmp_path / "again.json").exists()


BLOCKED = """if True:
    import sys
    sys.modules.update(dict.fromkeys({blocked}))
    from vlmlab import gpu
    settings = {{"device": "cpu", "presets": ["cobra-tiny-ldp"], "tokens": 2, "rounds": 1, "copied": 65536}}
    print(gpu.run("decode", {out!r}, **settings)["results"]["models"]["cobra-tiny-ldp"]["prompt_tokens"])
"""


def test_torch_numpy_and_transformers_are_enough(tmp_path):
    blocked = {"numba", "scipy", "matplotlib", "trimesh", "embreex", "PIL", "rich", "typer", "ijson", "psutil",
               "accelerate", "captum", "sklearn", "umap", "triton", "IPython"}  # fmt: skip
    code = BLOCKED.format(blocked=blocked, out=str(tmp_path / "decode.json"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["32"]  # 16 image tokens and 16 of text


# ------------------------------------------------------------------ records, and what is refused
def test_what_was_not_run_says_so_and_what_was_is_read(data):
    assert gpu.results() == dict.fromkeys(gpu.RUNS, "not run yet")
    with pytest.raises(BadInput, match=r"decode was not run yet; .* python -m vlmlab\.gpu decode"):
        gpu.result("decode")
    data.mkdir()
    (data / "decode.json").write_text('{"results": 3}')
    assert gpu.result("decode") == gpu.results()["decode"] == {"results": 3}
    (data / "decode.json").write_text('{"results"')
    with pytest.raises(BadInput, match=r"decode\.json is not valid JSON"):
        gpu.results()
    with pytest.raises(UnknownName, match="did you mean 'decode'"):
        gpu.result("decod")


def test_a_record_says_where_when_and_how(monkeypatch, tmp_path):
    monkeypatch.setitem(gpu.RUNS, "scan", lambda device="cuda", rounds=1: {"rounds": rounds})
    record = gpu.run("scan", tmp_path / "x.json", device="cpu", rounds=4)
    assert record["command"] == "vlmlab gpu scan --set device='cpu' --set rounds=4"
    assert record["results"] == {"rounds": 4}
    assert record["device"]["type"] == "cpu"
    assert record["versions"]["torch"] == torch.__version__
    assert record["date"].endswith("+00:00")
    assert {"name", "commit", "settings"} < set(record)


def test_a_record_of_no_gpu_needs_a_file_and_a_failed_run_leaves_none(monkeypatch, tmp_path, data):
    with pytest.raises(BadInput, match="keeps runs on a GPU only"):
        gpu.run("scan", device="cpu")
    with pytest.raises(UnknownName, match="unknown setting 'round'; did you mean 'rounds'"):
        gpu.run("scan", tmp_path / "x.json", device="cpu", round=2)
    with pytest.raises(UnknownName, match="unknown run 'scans'"):
        gpu.run("scans")
    with pytest.raises(BadInput, match=r"expected \(B, D, L, N\)"):
        gpu.run("scan", tmp_path / "x.json", device="cpu", shapes={"bad": (1, 2, 3)})
    for name, settings in (("decode", {"tokens": 1}), ("lengths", {"lengths": [0]}), ("throughput", {"batch": 0})):
        with pytest.raises(BadInput, match=r"at least|two tokens"):
            gpu.run(name, tmp_path / "x.json", device="cpu", **settings)
    assert not (tmp_path / "x.json").exists()
    assert not data.exists()


@no_gpu
@pytest.mark.parametrize("name", gpu.RUNS)
def test_without_a_gpu_every_run_ends_in_one_line(name, capsys, data):
    assert main([name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "PyTorch sees no CUDA GPU" in err
    assert not data.exists()


def test_the_command_line_writes_where_it_says(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("vlmlab.gpu.__main__.run", lambda name, out: Path(out).write_text(name))
    assert main(["scan", "--out", str(tmp_path / "s.json")]) == 0
    assert (tmp_path / "s.json").read_text() == "scan"
    assert "s.json" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_vlmlab_gpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(gpu.RUNS, "scan", lambda device="cuda", rounds=1: {"rounds": rounds})
    assert cli.main(["gpu", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == dict.fromkeys(gpu.RUNS, "not run yet")
    file = str(tmp_path / "s.json")
    assert cli.main(["gpu", "scan", "--set", "device=cpu", "--set", "rounds=3", "--out", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == {"rounds": 3}
    assert cli.main(["gpu", "scan", "--set", "device=cpu"]) == 2
    assert "another file" in capsys.readouterr().err
    assert cli.main(["gpu"]) == 2
    assert "name a run: decode, lengths" in capsys.readouterr().err


def test_records_lie_in_the_data_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    assert path("scan") == tmp_path / "gpu_runs" / "scan.json"
