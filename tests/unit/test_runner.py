"""The runner with planted models: what is right scores 1, what was killed goes on, what is mixed is refused."""

import json
import shutil
import threading
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from benchmark_files import NAMES, Planted, make, oracle

from vlmlab.benchmarks import collecting, judging, llava_bench, runner
from vlmlab.benchmarks.asking import Ask, Said
from vlmlab.benchmarks.collecting import Processes, collect
from vlmlab.benchmarks.export.shipped import SETS, Files, files
from vlmlab.benchmarks.statistics import wilson
from vlmlab.errors import BadImage, BadInput, UnknownName


def measured(model, name, files, folder, **options):
    result = runner.evaluate(model, name, files, folder, **options)
    assert result is not None
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    return result


@pytest.mark.parametrize("name", NAMES)
def test_an_oracle_scores_everything_and_its_predictions_score_the_same_again(name, tmp_path):
    files, truth = make(name, tmp_path / name)
    result = measured(Planted(oracle(truth)), name, files, tmp_path / "run", batch_size=4)
    module = runner.official(name)
    assert result["accuracy"] == result["score"]["accuracy"] == 1.0
    assert result["low"] < 1.0 == result["high"]
    assert result["blind"] < 1.0
    assert 0 < result["chance"] < 1
    assert (result["n"], result["model"], result["benchmark"]) == (result["score"]["n"], "planted", name)
    examples = module.read(files.annotations, files.questions)
    assert module.score(examples, Path(result["predictions"])) == result["score"]
    assert module.score(examples, tmp_path / "run" / f"blind-{module.FORM.file}")["accuracy"] == result["blind"]
    assert not list((tmp_path / "run").glob("*.parts"))


CLOSED = [("pope", "generate"), ("pope", "likelihood"), ("vsr", "generate"), ("vsr", "likelihood"),
          ("scienceqa", "generate"), ("scienceqa", "likelihood")]  # fmt: skip


@pytest.mark.parametrize(("name", "method"), CLOSED)
def test_both_methods_read_an_oracle_alike_and_take_the_likeliest_option(name, method, tmp_path):
    files, truth = make(name, tmp_path / name)
    result = measured(Planted(oracle(truth)), name, files, tmp_path / "run", method=method)
    assert (result["accuracy"], result["method"]) == (1.0, method)
    said = collecting.decode(tmp_path / "run" / "answers.jsonl")
    asks = list(runner.official(name).asks(runner.official(name).read(files.annotations, files.questions)))
    for ask in asks if method == "likelihood" else ():
        assert said[ask.key].text == ask.options[said[ask.key].scores.index(-1 / 3)]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "whatsup"])
def test_a_constant_model_gets_the_constant_baseline_with_and_without_pictures(name, tmp_path):
    files, truth = make(name, tmp_path / name)
    answer = measured(Planted(oracle(truth)), name, files, tmp_path / "oracle")["constant_answer"]
    result = measured(Planted(lambda image, prompt: answer), name, files, tmp_path / "constant")
    assert result["accuracy"] == result["constant"] == result["blind"]
    assert result["low"] < result["accuracy"] < result["high"]


def test_whatsup_by_hand(tmp_path):
    files, _ = make("whatsup", tmp_path / "whatsup")
    result = measured(Planted(lambda image, prompt: "A mug on a plate"), "whatsup", files, tmp_path / "run")
    assert (result["accuracy"], result["constant"], result["chance"]) == (0.25, 0.25, 0.25)
    assert result["score"]["pair_accuracy"] == 0.0
    assert (result["low"], result["high"]) == wilson(1, 4)


def test_partial_points_are_resampled_by_picture(tmp_path):
    files, truth = make("vqav2", tmp_path / "vqav2")
    said = Planted(lambda image, prompt: truth(image, prompt) if image and "000.jpg" in image else "maybe")
    result = measured(said, "vqav2", files, tmp_path / "run")
    assert result["accuracy"] == pytest.approx((2 + 4 * 0.3) / 6)  # one of ten said maybe
    assert result["low"] == pytest.approx(0.3)  # draws of the other two pictures alone
    assert result["high"] == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["vqav2", "vsr", "scienceqa"])
@pytest.mark.parametrize("dies_after", [0, 1, 2, 3])
def test_a_killed_run_goes_on_bit_for_bit_and_asks_nothing_twice(name, dies_after, tmp_path):
    files, truth = make(name, tmp_path / name)
    options = {"batch_size": 2, "method": "generate"}
    whole = Planted(oracle(truth))
    expected = measured(whole, name, files, tmp_path / "whole", **options)
    killed = Planted(oracle(truth), dies_after)
    with pytest.raises(KeyboardInterrupt):
        runner.evaluate(killed, name, files, tmp_path / "killed", **options)
    resumed = Planted(oracle(truth))
    result = measured(resumed, name, files, tmp_path / "killed", **options)
    assert killed.asked + resumed.asked == whole.asked  # the same batches, none again
    for path in (tmp_path / "whole").glob("*.*"):
        same = (tmp_path / "killed" / path.name).read_bytes()
        assert same == path.read_bytes() or path.name == "result.json"  # which names its folder
    assert {**result, "predictions": ""} == {**expected, "predictions": ""}
    again = Planted(oracle(truth))
    assert measured(again, name, files, tmp_path / "killed", **options) == result
    assert again.asked == []


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_batch_that_a_kill_cut_off_is_asked_again(cut, tmp_path):
    files, truth = make("pope", tmp_path / "pope")
    measured(Planted(oracle(truth)), "pope", files, tmp_path / "whole", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        runner.evaluate(Planted(oracle(truth), 2), "pope", files, tmp_path / "run", batch_size=2)
    share = tmp_path / "run" / "answers.parts" / "0.jsonl"
    assert share.read_text().count("\n") == 4
    share.write_bytes(share.read_bytes()[:-cut])
    resumed = Planted(oracle(truth))
    measured(resumed, "pope", files, tmp_path / "run", batch_size=2)
    assert [len(batch) for batch in resumed.asked] == [2, 2, 2, 2, 2]  # the cut one, the third, three blind ones
    for name in ("answers.jsonl", "blind.jsonl", "predictions.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_pictures_come_as_paths_batch_by_batch_and_blind_has_none(tmp_path):
    files, truth = make("scienceqa", tmp_path / "scienceqa")
    model, told = Planted(oracle(truth)), []
    measured(model, "scienceqa", files, tmp_path / "run", batch_size=3, progress=lambda *done: told.append(done))
    seen, blind = model.asked[:2], model.asked[2:]
    assert [len(batch) for batch in model.asked] == [3, 1, 3, 1]
    (images, prompts), (none, same) = (zip(*chain(*each), strict=True) for each in (seen, blind))
    assert [image and Path(image).parent.name for image in images] == ["2", "0", "1", None]
    assert none == (None,) * 4
    assert prompts == same
    assert told == [(0, 8), (3, 8), (4, 8), (4, 8), (7, 8), (8, 8)]


def test_a_limit_takes_the_first_questions(tmp_path):
    files, truth = make("gqa", tmp_path / "gqa")
    result = measured(Planted(oracle(truth)), "gqa", files, tmp_path / "run", limit=5)
    assert result["n"] == 4  # one of the five is not balanced
    assert len(json.loads((tmp_path / "run" / "predictions.json").read_text())) == 5


def other_name(files, folder):
    model = Planted(lambda image, prompt: "no")
    model.config = SimpleNamespace(name="another")
    return model, files, {}


def other_labels(files, folder):
    shutil.copytree(files.annotations.parent, folder)
    text = files.annotations.read_text().replace('"no"', '"yes"', 1)
    (folder / files.annotations.name).write_text(text)
    return Planted(lambda image, prompt: "no"), files._replace(annotations=folder / files.annotations.name), {}


def other_pictures(files, folder):
    shutil.copytree(files.images, folder)
    (folder / "COCO_1.jpg").write_bytes(b"another")
    return Planted(lambda image, prompt: "no"), files._replace(images=folder), {}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (other_name, "model was 'planted' and is 'another' now"),
        (other_labels, "annotations was '"),
        (other_pictures, "pictures was '"),
        ({"limit": 3}, "limit was None and is 3 now"),
        ({"method": "likelihood"}, "method was 'generate' and is 'likelihood' now"),
        ({"batch_size": 5}, "batch_size was 32 and is 5 now"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(change, part, tmp_path):
    files, _ = make("pope", tmp_path / "pope")
    model = Planted(lambda image, prompt: "no")
    measured(model, "pope", files, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    other, files, options = (model, files, change) if isinstance(change, dict) else change(files, tmp_path / "other")
    with pytest.raises(BadInput, match=r"run holds another run: ") as caught:
        runner.evaluate(other, "pope", files, tmp_path / "run", **options)
    assert part in str(caught.value)
    assert str(caught.value).endswith("use another folder (--out), or delete this one")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_another_profile_scores_the_same_answers(tmp_path):
    files, _ = make("pope", tmp_path / "pope")
    model = Planted(lambda image, prompt: "Nope")
    assert measured(model, "pope", files, tmp_path / "run")["accuracy"] == 4 / 6  # a yes, officially
    asked = len(model.asked)
    assert measured(model, "pope", files, tmp_path / "run", profile="robust")["accuracy"] == 2 / 6
    assert len(model.asked) == asked


def test_answers_without_their_settings_are_refused(tmp_path):
    files, _ = make("pope", tmp_path / "pope")
    measured(Planted(lambda image, prompt: "no"), "pope", files, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(BadInput, match=r"is there without the run\.json that says what it answers"):
        runner.evaluate(Planted(lambda image, prompt: "no"), "pope", files, tmp_path / "run")


def test_damaged_answers_are_refused(tmp_path):
    files, _ = make("pope", tmp_path / "pope")
    measured(Planted(lambda image, prompt: "no"), "pope", files, tmp_path / "run")
    (tmp_path / "run" / "answers.jsonl").write_text('{"key": 1, "text": "no"}\nno\n')
    with pytest.raises(BadInput, match=r"answers\.jsonl, line 2 is damaged"):
        runner.evaluate(Planted(lambda image, prompt: "no"), "pope", files, tmp_path / "run")


MISSING = {
    "vqav2": ("COCO_val2014_000000000001.jpg", r"annotations\.json, question_id 12: the field 'image_id' names"),
    "gqa": ("n1.jpg", r"val_balanced_questions\.json, questionId '02': the field 'imageId' names"),
    "vsr": ("3.jpg", r"test\.jsonl, index 3: the field 'image' names"),
    "whatsup": ("mug_on_plate.jpeg", r"image_path 'mug_on_plate.jpeg': the field 'image_path' names"),
    "scienceqa": ("1/image.png", r"problems\.json, id '1': the field 'image' names"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_picture_is_told_before_anything_is_asked(name, tmp_path):
    files, _ = make(name, tmp_path / name)
    picture, match = MISSING[name]
    (files.images / picture).unlink()
    with pytest.raises(BadInput, match=match) as caught:
        runner.evaluate(Planted(lambda image, prompt: ""), name, files, tmp_path / "run")
    assert str(files.images / picture) in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_damaged_picture_is_told_by_its_path(tmp_path):
    import vlmlab

    files, _ = make("pope", tmp_path / "pope")
    (files.images / "COCO_1.jpg").write_bytes(b"\xff\xd8 no picture")
    with pytest.raises(BadImage, match=r"COCO_1\.jpg"):
        runner.evaluate(vlmlab.load("llava-tiny", "cpu"), "pope", files, tmp_path / "run")


def test_names_that_do_not_exist(tmp_path):
    files, _ = make("vqav2", tmp_path / "vqav2")
    model = Planted(lambda image, prompt: "no")
    for name, options, match in (
        ("vqav3", {}, "benchmark 'vqav3'; did you mean 'vqav2'"),
        ("vqav2", {"method": "likelihood"}, "method for vqav2 'likelihood'"),
        ("vqav2", {"profile": "official-2020"}, "profile 'official-2020'"),
    ):
        with pytest.raises(UnknownName, match=match):
            runner.evaluate(model, name, files, tmp_path / "run", **options)
    assert not model.asked


def test_weights_tell_models_apart():
    a, b, c = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    for model in (a, b, c):
        model.config = SimpleNamespace(name="linear")
    assert runner.weights(a) == runner.weights(b) != runner.weights(c)
    b.config = SimpleNamespace(name="other")
    assert runner.weights(a) != runner.weights(b)
    assert runner.weights(a) != runner.weights(a.half())


def test_a_folder_of_its_own_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("VLMLAB_WORK", str(tmp_path / "work"))
    files, _ = make("pope", tmp_path / "pope")
    model = Planted(lambda image, prompt: "no")
    for options in ({}, {"limit": 2}, {"method": "likelihood"}):
        runner.evaluate(model, "pope-random", files, **options)
    runs = [path.name.rpartition("-") for path in (tmp_path / "work" / "evaluations" / "planted").iterdir()]
    ways = ["pope-random-generate-all", "pope-random-generate-first-2", "pope-random-likelihood-all"]
    assert sorted(name for name, _, _ in runs) == ways
    assert len({mark for _, _, mark in runs}) == 3
    asked = len(model.asked)
    runner.evaluate(model, "pope-random", files)  # goes on, and everything is there
    assert len(model.asked) == asked
    other, _, _ = other_labels(files, tmp_path / "other")
    runner.evaluate(other, "pope-random", files._replace(annotations=tmp_path / "other" / files.annotations.name))
    assert len(list((tmp_path / "work" / "evaluations" / "planted").iterdir())) == 4


# ---------------------------------------------------------------- several processes
ASKS = [Ask(number, None, f"{number}?") for number in range(23)]


def say(batch):
    """An answer that depends on the whole batch, as a model's last bits may."""
    return [Said(f"{ask.key} of {[each.key for each in batch]}") for ask in batch]


@pytest.mark.parametrize("count", [2, 3, 9])
@pytest.mark.parametrize("done", [0, 2])
def test_processes_share_the_batches_and_end_with_the_same_bytes(count, done, tmp_path):
    alone = collect(tmp_path / "alone.jsonl", ASKS, say, 4)
    path, barrier, found, asked = tmp_path / "shared.jsonl", threading.Barrier(count), {}, []
    if done:  # a run that was killed in its third batch, by one process
        batches = iter(range(done))

        def dying(batch):
            if next(batches, None) is None:
                raise KeyboardInterrupt
            return say(batch)

        with pytest.raises(KeyboardInterrupt):
            collect(path, ASKS, dying, 4)

    def work(index):
        def ask(batch):
            asked.append(batch[0].key)
            return say(batch)

        found[index] = collect(path, ASKS, ask, 4, Processes(index, count, barrier.wait))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(asked) == [0, 4, 8, 12, 16, 20][done:]
    assert all(each == alone for each in found.values())
    assert path.read_bytes() == (tmp_path / "alone.jsonl").read_bytes()
    assert not (tmp_path / "shared.parts").exists()


def test_only_the_main_process_scores(tmp_path):
    files, truth = make("pope", tmp_path / "pope")
    barrier, results = threading.Barrier(2), {}

    def work(index):
        among = Processes(index, 2, barrier.wait)
        model = Planted(oracle(truth))
        results[index] = runner.evaluate(model, "pope", files, tmp_path / "run", batch_size=2, among=among)
        results[f"{index} asked"] = len(model.asked)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[1] is None
    assert results[0]["accuracy"] == 1.0
    assert (results["0 asked"], results["1 asked"]) == (4, 2)  # of three batches, twice


def test_one_process_alone_imports_no_accelerate(monkeypatch):
    import sys

    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert collecting.processes(cpu=True) == collecting.ALONE


# ---------------------------------------------------------------- LLaVA-Bench
QUESTIONS = [
    {"question_id": i, "image": f"{i // 2:03d}.jpg", "text": f"What {i}?", "category": category}
    for i, category in enumerate(("conv", "detail", "complex", "conv"))
]


@pytest.fixture
def bench(tmp_path):
    from PIL import Image

    folder = tmp_path / "bench"
    (folder / "images").mkdir(parents=True)
    for name in ("000.jpg", "001.jpg"):
        Image.new("RGB", (8, 8)).save(folder / "images" / name)
    for name, rows in (
        ("questions.jsonl", QUESTIONS),
        ("answers_gpt4.jsonl", [{"question_id": i, "text": f"reference {i}"} for i in range(4)]),
        ("context.jsonl", [{"image": f"{i:03d}.jpg", "caption": f"caption {i}"} for i in range(2)]),
    ):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Files(folder / "questions.jsonl", None, folder / "images")


def test_answers_without_a_judge_are_written_and_the_result_says_how_to_judge_them(bench, tmp_path):
    result = measured(Planted(lambda image, prompt: f"{prompt} {bool(image)}"), "llava_bench", bench, tmp_path / "run")
    assert (result["n"], result["accuracy"]) == (4, None)
    assert "--judge openai" in result["note"]
    rows = [json.loads(line) for line in Path(result["predictions"]).read_text().splitlines()]
    assert rows[1] == {"question_id": 1, "prompt": "What 1?", "text": "What 1? True"}


def graded(example, first, second):
    """Eight for the reference; six for an answer that saw the picture, four for one that did not."""
    points = [8 if text.startswith("reference") else 6 if text == "seen" else 4 for text in (first, second)]
    return f"{points[0]} {points[1]}\nwhy"


@pytest.mark.parametrize("limit", [None, 3])
def test_the_offline_judge_compares_in_both_orders(limit, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "_offline", lambda: graded)
    monkeypatch.setattr(judging, "_shipped", lambda home: True)
    model = Planted(lambda image, prompt: "seen" if image else "blind")
    result = measured(model, "llava_bench", bench, tmp_path / "run", limit=limit)
    assert (result["accuracy"], result["blind"], result["n"]) == (6 / 8, 4 / 8, limit or 4)
    assert (result["chance"], result["constant"]) == (None, None)
    assert result["score"]["swap"]["agreement"] == 1.0
    assert result["low"] <= 6 / 8 <= result["high"]
    questions = llava_bench.read(bench.annotations)[:limit]
    assert llava_bench.score(questions, Path(result["predictions"])) == result["score"]


def test_a_judge_behind_an_endpoint_is_asked_with_context_and_kept_exchanges(bench, tmp_path, monkeypatch):
    from vlmlab.benchmarks import chat

    made = []

    def fake(model, file):
        made.append((model, file))
        return lambda messages: "7.5 5\nbecause" if "caption 0" in messages[1]["content"] else "5 5"

    monkeypatch.setattr(chat, "Chat", fake)
    model = Planted(lambda image, prompt: "a cat")
    result = measured(model, "llava_bench", bench, tmp_path / "run", judge="openai:some-model")
    assert made == [("some-model", tmp_path / "run" / "exchanges.jsonl")]
    assert result["score"]["by_category"]["detail"]["reference"] == 7.5
    runner.evaluate(model, "llava_bench", bench, tmp_path / "run", judge="openai")
    assert made[1][0] == judging.MODEL


def test_what_a_judge_lacks_is_told(bench, tmp_path):
    model, home = Planted(lambda image, prompt: "a cat"), bench.annotations.parent
    with pytest.raises(UnknownName, match="judge 'offlin'"):
        runner.evaluate(model, "llava_bench", bench, tmp_path / "run", judge="offlin")
    (home / "context.jsonl").unlink()
    with pytest.raises(BadInput, match=r"no such file: .*context\.jsonl"):
        runner.evaluate(model, "llava_bench", bench, tmp_path / "run", judge="openai")
    (home / "answers_gpt4.jsonl").write_text('{"question_id": 0, "text": "one"}\n')
    with pytest.raises(BadInput, match="no such file"):
        runner.evaluate(model, "llava_bench", bench, tmp_path / "run", judge="openai")
    (home / "context.jsonl").write_text('{"image": "000.jpg", "caption": "c"}\n')
    with pytest.raises(BadInput, match=r"answers_gpt4\.jsonl: 3 of 4 questions without an answer"):
        runner.evaluate(model, "llava_bench", bench, tmp_path / "run", judge="openai")
    (home / "answers_gpt4.jsonl").unlink()
    with pytest.raises(BadInput, match="no reference answers beside"):
        runner.evaluate(model, "llava_bench", bench, tmp_path / "run", judge="openai")


def test_a_second_process_in_the_folder_is_refused(tmp_path):
    import subprocess
    import sys

    files, _ = make("pope", tmp_path / "pope")
    lock = tmp_path / "run" / ".lock"
    hold = (
        f"import fcntl, sys\nf = open({str(lock)!r}, 'a')\nfcntl.lockf(f, fcntl.LOCK_EX)\nprint(1, flush=True)\ninput()"
    )
    (tmp_path / "run").mkdir()
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "1\n"
        with pytest.raises(BadInput, match="another process evaluates in"):
            runner.evaluate(Planted(lambda image, prompt: "no"), "pope", files, tmp_path / "run")
    finally:
        other.communicate("\n")
    measured(Planted(lambda image, prompt: "no"), "pope", files, tmp_path / "run")


def test_the_shipped_references_score_100_by_the_shipped_judge(tmp_path):
    bench = files("llava_bench")
    rows = [json.loads(line) for line in (bench.annotations.parent / judging.REFERENCES[0]).read_text().splitlines()]
    questions = llava_bench.read(bench.annotations)[:9]
    known = {question.text + question.image: row["text"] for question, row in zip(questions, rows, strict=False)}
    model = Planted(lambda image, prompt: known[prompt + Path(image).name] if image else "There is nothing.")
    result = measured(model, "llava_bench", bench, tmp_path / "run", limit=9)
    assert result["accuracy"] == result["score"]["swap"]["agreement"] == 1.0
    assert result["blind"] < 0.5


@pytest.mark.parametrize("name", [name for name in SETS if name not in ("llava_bench", "whatsup")])
def test_a_constant_model_gets_the_constant_baseline_of_every_shipped_set(name, tmp_path):
    said = {}
    model = Planted(lambda image, prompt: said["answer"])
    said["answer"] = "?"
    result = measured(model, name, files(name), tmp_path / "first")
    said["answer"] = result["constant_answer"]
    result = measured(model, name, files(name), tmp_path / "second")
    assert result["accuracy"] == result["blind"] == result["constant"] < 0.6
    assert result["low"] < result["accuracy"] < result["high"]
    assert 0 < result["chance"] <= 0.6
