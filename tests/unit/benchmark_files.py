"""Small files in the official formats of all benchmarks, with the true answers, and models with planted answers."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from PIL import Image

from vlmlab.benchmarks import runner
from vlmlab.benchmarks.export.shipped import Files

NAMES = ("vqav2", "textvqa", "vizwiz", "gqa", "pope", "vsr", "scienceqa", "whatsup")
PEOPLE = ("yes", "no", "yes", "2", "red", "blue")
Truth = Callable[[str | None, str], str]


def _json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def _lines(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    return path


def _ten(answer: str) -> list[dict]:
    """Ten people's answers: eight say the same."""
    texts = [answer] * 8 + ["maybe", "dog"]
    return [{"answer_id": i + 1, "answer": text, "answer_confidence": "yes"} for i, text in enumerate(texts)]


def vqav2(at: Path) -> tuple[Path, Path | None, list[str]]:
    kinds = ["yes/no", "yes/no", "yes/no", "number", "other", "other"]
    questions = [{"question_id": 10 + i, "image_id": i // 2, "question": f"What {i}?"} for i in range(6)]
    annotations = [
        {"question_id": 10 + i, "image_id": i // 2, "question_type": "what", "answer_type": kinds[i],
         "multiple_choice_answer": answer, "answers": _ten(answer)} for i, answer in enumerate(PEOPLE)
    ]  # fmt: skip
    asked = _json(at / "questions.json", {"questions": questions})
    return _json(at / "annotations.json", {"annotations": annotations}), asked, list(PEOPLE)


def textvqa(at: Path) -> tuple[Path, Path | None, list[str]]:
    rows = [
        {"question_id": i, "image_id": f"0a{i // 2}", "question": f"What {i}?",
         "answers": [one["answer"] for one in _ten(answer)]} for i, answer in enumerate(PEOPLE)
    ]  # fmt: skip
    return _json(at / "TextVQA_0.5.1_val.json", {"data": rows}), None, list(PEOPLE)


def vizwiz(at: Path) -> tuple[Path, Path | None, list[str]]:
    truths = [*PEOPLE[2:], "unanswerable", "unanswerable"]
    rows = [
        {"image": f"VizWiz_val_{i:08d}.jpg", "question": f"What {i}?", "answers": _ten(answer),
         "answer_type": "unanswerable" if answer == "unanswerable" else "other",
         "answerable": int(answer != "unanswerable")} for i, answer in enumerate(truths)
    ]  # fmt: skip
    return _json(at / "val.json", rows), None, truths


def gqa(at: Path) -> tuple[Path, Path | None, list[str]]:
    rows = {
        f"0{i}": {
            "question": f"What {i}?", "imageId": f"n{i // 2}", "answer": answer, "fullAnswer": f"It is {answer}.",
            "isBalanced": i != 3, "groups": {"global": None if i < 3 else "colour", "local": "l"},
            "entailed": ["03"] if i == 0 else [], "equivalent": [f"0{i}"],
            "types": {"structural": "verify" if i < 3 else "query", "semantic": "attr", "detailed": "d"},
            "annotations": {}, "semantic": [],
        } for i, answer in enumerate(PEOPLE)
    }  # fmt: skip
    return _json(at / "val_balanced_questions.json", rows), None, list(PEOPLE)


def pope(at: Path) -> tuple[Path, Path | None, list[str]]:
    truths = ["yes", "no", "yes", "no", "yes", "yes"]
    rows = [
        {
            "question_id": i + 1,
            "image": f"COCO_{i // 3}.jpg",
            "text": f"Is there a thing{i} in the image?",
            "label": label,
        }
        for i, label in enumerate(truths)
    ]
    return _lines(at / "coco_pope_random.json", rows), None, truths


def vsr(at: Path) -> tuple[Path, Path | None, list[str]]:
    labels = [1, 0, 1, 0, 0]
    rows = [
        {"image": f"{i}.jpg", "image_link": "", "caption": f"The cat is under the box{i}.", "label": label,
         "relation": "under", "annotator_id": "1", "vote_true_validator_id": "[]", "vote_false_validator_id": "[]"}
        for i, label in enumerate(labels)
    ]  # fmt: skip
    return _lines(at / "test.jsonl", rows), None, ["True" if label else "False" for label in labels]


def scienceqa(at: Path) -> tuple[Path, Path | None, list[str]]:
    truths = ["A", "C", "B", "A"]
    rows = {
        str(i): {"question": f"Which {i}?", "choices": ["ball", "box", "cat"][: 2 + (truth == "C")],
                 "answer": "ABC".index(truth), "hint": "It is dark." if i == 1 else "", "grade": f"grade{3 + 3 * i}",
                 "image": "image.png" if i < 3 else None, "subject": "natural science", "topic": "physics",
                 "split": "test"} for i, truth in enumerate(truths)
    }  # fmt: skip
    splits = _json(at / "pid_splits.json", {"test": ["2", "0", "1", "3"], "train": []})
    return _json(at / "problems.json", rows), splits, [truths[i] for i in (2, 0, 1, 3)]


def whatsup(at: Path) -> tuple[Path, Path | None, list[str]]:
    places = {"left_of": "to the left of", "right_of": "to the right of", "on": "on", "under": "under"}
    rows = [
        {"image_path": f"mug_{name}_plate.jpeg",
         "caption_options": [f"A mug {words} a plate",
                             *(f"A mug {other} a plate" for other in places.values() if other != words)]}
        for name, words in places.items()
    ]  # fmt: skip
    return _json(at / "controlled_images_dataset.json", rows), None, [row["caption_options"][0] for row in rows]


def make(name: str, folder: Path) -> tuple[Files, Truth]:
    """The files of a benchmark in a new folder, pictures included, and the truth about a (picture's name, prompt)."""
    (folder / "images").mkdir(parents=True)
    annotations, questions, truths = globals()[name](folder)
    files = Files(annotations, questions, folder / "images")
    module = runner.official(name)
    asks = list(module.asks(module.read(annotations, questions)))
    assert len(asks) == len(truths)
    for ask in asks:
        if ask.image:
            (files.images / ask.image).parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8), (90, 60, 30)).save(files.images / ask.image)
    known = {(ask.image, ask.prompt): truth for ask, truth in zip(asks, truths, strict=True)}

    def truth(image: str | None, prompt: str) -> str:
        return known[(None if image is None else str(Path(image).relative_to(files.images)), prompt)]

    return files, truth


class Planted:
    """A model that says `say(picture's path or None, prompt)`; of options it finds the one it says likeliest."""

    def __init__(self, say: Truth, dies_after: int | None = None):
        self.config = SimpleNamespace(name="planted")
        self.say, self.left, self.asked = say, dies_after, []

    def answer_many(self, images, prompts, max_new_tokens=64, batch_size=32):
        """Answers, until the model has been called as often as it may."""
        if self.left is not None:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
        self.asked.append([(image, prompt) for image, prompt in zip(images, prompts, strict=True)])
        return [self.say(image, prompt) for image, prompt in self.asked[-1]]

    def score_options(self, image, prompt, options):
        """Log-probabilities that are not short in decimals."""
        said = self.say(image, prompt)
        self.asked.append([(image, prompt)])
        return {option: -1 / 3 if option == said else -10 / 3 - len(option) / 7 for option in options}


def oracle(truth: Truth) -> Truth:
    """Knows the truth where it sees the picture, or where there is none; says nothing when blind."""

    def say(image: str | None, prompt: str) -> str:
        try:
            return truth(image, prompt)
        except KeyError:
            return ""

    return say
