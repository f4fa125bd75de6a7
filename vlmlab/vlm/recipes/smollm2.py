"""The recipe of llava-smollm2: LLaVA with a language model that was tuned to converse. Notebook 04.

The encoder and SmolLM2 stay as they are; the projector trains, and LoRAs in the language model's attention and in the
second matrix of its MLPs. The projector begins where it makes of each patch a sum of the embeddings of the words for
what it shows, which costs a minute without the language model.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlmlab import runtime
from vlmlab.files import read_json, read_tensors, write_json, write_tensors
from vlmlab.scenes.dataset import SceneDataset
from vlmlab.vlm import lora, pretraining
from vlmlab.vlm.conversations import SLOTS, WORDS
from vlmlab.vlm.corpus import Corpus, Packed, Packing, pack
from vlmlab.vlm.model import VLM
from vlmlab.vlm.recipes import smollm2_texts as texts
from vlmlab.vlm.recipes.clips import adapters
from vlmlab.vlm.recipes.common import corpus, draw, features, fill_from_runs, finished, scenes, tokenizer, trained
from vlmlab.vlm.recipes.table import Recipe
from vlmlab.vlm.splice import IGNORE
from vlmlab.vlm.trainer import TrainResult
from vlmlab.vlm.training_setup import Loss, main_first

RANK, ALPHA = 4, 8.0  # of higher ranks the file would be too large to ship
COUNT, TOLD, PLAIN = 8192, 512, 256  # scenes with conversations, scenes to word, conversations without a picture
BUDGET = 300  # tokens of questions in a row
TALKS = 3  # conversations in a row without a picture
CHAINED = 1 / 8  # share of the rows in which the questions are one conversation
FIT_STEPS, FIT_BATCH, FIT_RATE = 800, 64, 2e-3
# Words' sums as they are make embeddings of four times the length of a text's; SmolLM2 then takes objects for attention
# sinks, with hidden states of length 680 after three layers where a text's have 80, and learns to look much later.
QUIET = 0.25
_KIND = list(SLOTS).index("kind")


def train_smollm2(recipe: Recipe, resume: bool) -> TrainResult:
    """Train projector and LoRAs, and leave them as adapters.safetensors."""
    from vlmlab.weights.smollm2 import untrained

    folder = runtime.work_dir() / recipe.name
    vlm = untrained()
    vlm.vision.to_empty(device="cpu")
    vlm.projector.to_empty(device="cpu")
    fill_from_runs(vlm, recipe.needs)
    vlm = vlm.to(runtime.device()).eval()
    pictures, held = scenes(recipe.scenes), scenes(recipe.checks, "val")
    seen, held_seen = (features(vlm, each, [finished("clip-tiny")]) for each in (pictures, held))
    source, held_source = corpus(recipe.scenes), corpus(recipe.checks, "val")
    with main_first():
        data, talks = conversations(vlm, folder, recipe, pictures, source)
        begin(vlm, folder / "projector.safetensors", seen, source, recipe.train.seed)
    held_data = texts.retold(held_source, tokenizer(), vlm, min(48, recipe.checks), {})
    lora.attach(vlm, RANK, ALPHA, adapted(vlm), torch.Generator(vlm.device).manual_seed(recipe.train.seed))
    vlm.unfreeze("projector")
    hows = {lesson: packing(vlm, lesson.weights, lesson.per_scene) for lesson in recipe.lessons}

    def batch(index: int, rank: int, processes: int) -> tuple[Packed, Tensor]:
        chosen, rng = draw(recipe, index, len(data))
        how = hows[recipe.lesson(index // recipe.train.accumulate)]
        blind = rng.random(len(chosen)) < recipe.blind
        rows = [
            talk_row(talks, vlm, rng) if no else scene_row(data, vlm, how, int(row), rng)
            for row, no in zip(chosen, blind, strict=True)
        ]
        own = np.arange(len(chosen))[rank::processes]
        shown = torch.from_numpy(seen[chosen[own[~blind[own]]]]).float()
        return stacked(rows, how.pad_id).share(rank, processes), shown

    def loss(given: tuple[Packed, Tensor]) -> Loss:
        packed, shown = given
        found = vlm(None, packed.ids, packed.labels, segments=packed.segment, image_features=shown, loss_only=True)
        return found.loss, {}, found.terms

    everything = packing(vlm, (), 24)

    def evaluate(step: int) -> dict[str, float]:
        found: dict[str, list[Tensor]] = {}
        for row in range(len(held_data)):  # one by one: the logits of a row take 100 MB
            packed = pack(held_data, np.array([row]), everything, np.random.default_rng(row)).to(vlm.device)
            shown = torch.tensor(held_seen[row : row + 1]).float()
            logits = vlm(None, packed.ids, segments=packed.segment, image_features=shown)
            for kind, right in pretraining.answers_right(logits, packed).items():
                found.setdefault(kind, []).append(right.float())
        return {kind: round(float(torch.cat(values).mean()), 4) for kind, values in found.items()}

    result = trained(recipe, vlm, batch, loss, resume, evaluate)
    lora.save(vlm, adapters(recipe.name), "SmolLM2-135M-Instruct", note={"recipe": recipe.name}, parts=("projector",))
    return result


def adapted(vlm: VLM) -> list[str]:
    """Names of the modules whose linear layers take LoRAs."""
    parts = ("self_attn", "mlp.down_proj")
    return [f"language.layers.{i}.{part}" for i in range(vlm.config.language.layers) for part in parts]


# ---------------------------------------------------------------- what is said
def conversations(
    vlm: VLM, folder: Path, recipe: Recipe, pictures: SceneDataset, source: Corpus
) -> tuple[Corpus, list[tuple[list[int], int]]]:
    """The conversations about scenes, and those without a picture as ids and how many carry loss; made once."""
    count, path = min(COUNT, recipe.scenes), folder / "texts.json"
    if not path.exists():
        generator = runtime.generator(recipe.train.seed, vlm.device)
        told = texts.own_words(vlm, pictures.scenes[: min(TOLD, count)], generator)
        write_json(path, {"told": told, "plain": texts.plain(vlm, PLAIN, generator)})
        print(
            f"{recipe.name}: {len(told)} scenes worded, {len(read_json(path)['plain'])} conversations made", flush=True
        )
    said = read_json(path)
    told = {int(scene): text for scene, text in said["told"].items()}
    talks = [texts.encoded(question, answer, vlm, False, whole) for question, answer, whole in said["plain"]]
    if not (folder / "corpus" / "tokens.npy").exists():
        texts.retold(source, tokenizer(), vlm, count, told).save(folder / "corpus")
    return Corpus.load(folder / "corpus"), talks


def packing(vlm: VLM, weights: tuple[tuple[str, float], ...], per_scene: int) -> Packing:
    """How the rows about scenes are packed."""
    start, patches = tuple(texts.opening(vlm)), vlm.config.image_tokens
    return Packing(start, vlm.image_id, 0, patches, per_scene, BUDGET, weights=weights)


Row = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""ids, labels, segment and kinds of one row, as in `Packed`."""


def scene_row(data: Corpus, vlm: VLM, how: Packing, row: int, rng: np.random.Generator) -> Row:
    """A picture and its questions, each by itself or, in a share CHAINED of rows, as one conversation."""
    found = [value[0].numpy() for value in pack(data, np.array([row]), how, rng)[:4]]
    if rng.random() < CHAINED:
        found = list(chained((found[0], found[1], found[2], found[3]), between(vlm)))
    return found[0], found[1], found[2], found[3]


def between(vlm: VLM) -> list[int]:
    """Ids between an answer's end and a later question's beginning."""
    words = vlm.tokenizer
    assert words is not None
    return [*words.encode("\n"), words.id("<|im_start|>"), *words.encode("user")]


def chained(row: Row, joint: Sequence[int]) -> Row:
    """A row whose questions follow one another: each sees those before it."""
    ids, labels, segment, kinds = row
    later = np.flatnonzero((segment[1:] != segment[:-1]) & (segment[:-1] > 0)) + 1  # where the second, third, ... begin
    at, many = np.repeat(later, len(joint)), len(later)
    filled = [np.insert(values, at, fill) for values, fill in ((labels, IGNORE), (kinds, -1))]
    return np.insert(ids, at, list(joint) * many), filled[0], np.minimum(np.insert(segment, at, 1), 1), filled[1]


def talk_row(talks: Sequence[tuple[list[int], int]], vlm: VLM, rng: np.random.Generator) -> Row:
    """Conversations without a picture, each by itself."""
    chosen = [talks[i] for i in rng.choice(len(talks), min(TALKS, len(talks)), replace=False)]
    start = texts.opening(vlm)
    ids = np.concatenate([start, *(said for said, _ in chosen)]).astype(np.int64)
    segment = np.repeat(np.arange(len(chosen) + 1), [len(start), *(len(said) for said, _ in chosen)])
    loss = [np.arange(len(said)) >= len(said) - count for said, count in chosen]
    learnt = np.concatenate([np.zeros(len(start), bool), *loss])
    return ids, np.where(learnt, ids, IGNORE), segment, np.full(len(ids), -1)


def stacked(rows: Sequence[Row], pad_id: int) -> Packed:
    """Rows as a batch, padded on the right."""
    length = max(len(row[0]) for row in rows)
    columns = [
        torch.from_numpy(np.stack([np.pad(row[i], (0, length - len(row[i])), constant_values=fill) for row in rows]))
        for i, fill in enumerate((pad_id, IGNORE, -1, -1))
    ]
    return Packed(columns[0], columns[1], columns[2], columns[3], torch.arange(len(rows)))


# ---------------------------------------------------------------- where the projector begins
def begin(vlm: VLM, path: Path, seen: np.ndarray, data: Corpus, seed: int) -> None:
    """Give the projector the weights from which it trains; computed once."""
    assert data.maps is not None
    if not path.exists():
        mean = vlm.language.embed_tokens.weight.detach().mean(0).cpu()
        right = fit(vlm.projector.cpu(), word_table(vlm), mean, seen, data.maps, seed)
        print(f"projector: names the object of {100 * right:.1f} % of the patches that show one", flush=True)
        write_tensors(path, vlm.projector.state_dict())
    vlm.projector.load_state_dict(read_tensors(path)[0])
    vlm.projector.to(vlm.device)


def word_table(vlm: VLM) -> Tensor:
    """For each of conversations.WORDS the sum of its tokens' embeddings beyond the mean one (W, D)."""
    assert vlm.tokenizer is not None
    weight = vlm.language.embed_tokens.weight.detach().cpu()
    pieces = [vlm.tokenizer.encode(word if len(word) == 1 else " " + word) for word in WORDS]
    return torch.stack([(weight[ids] - weight.mean(0)).sum(0) for ids in pieces])


def fit(projector: nn.Sequential, table: Tensor, mean: Tensor, seen: np.ndarray, maps: np.ndarray, seed: int) -> float:
    """Train an mlp2x_gelu to make of each patch the mean embedding plus QUIET times the sum of its words'.

    table (W, D) as of `word_table`; seen H_v (N, P, D_v); maps (N, P, S) as of `conversations.word_map`. Returns the
    share of held-back patches with an object whose noun is the likeliest one when the words are read back by least
    squares.
    """

    def pair(rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        words = torch.from_numpy(maps[rows].astype(np.int64)).flatten(0, 1)  # (rows * P, S)
        wanted = mean + QUIET * (table[words.clamp(min=0)] * (words >= 0)[..., None]).sum(1)
        return torch.from_numpy(seen[rows]).float().flatten(0, 1), wanted, words

    held = max(1, min(256, len(maps) // 8))
    generator, first, last = torch.Generator().manual_seed(seed), projector[0], projector[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    known = pair(np.arange(held))[0]
    with torch.no_grad():  # features on one scale, of mean 0: from raw ones this takes ten times as long
        first.weight.normal_(0.0, first.in_features**-0.5, generator=generator).div_(known.std(0) + 1e-6)
        first.bias.copy_(-first.weight @ known.mean(0))
        last.weight.zero_()
        last.bias.copy_(mean)
    optimizer = torch.optim.AdamW(projector.parameters(), FIT_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, FIT_STEPS)
    for step in range(FIT_STEPS):
        rng = np.random.default_rng([seed, 16, step])
        given, wanted, words = pair(np.sort(held + rng.integers(len(maps) - held, size=FIT_BATCH)))
        bare = words[:, _KIND] == WORDS.index("floor")
        kept = ~bare | torch.from_numpy(rng.random(len(bare)) < pretraining.FLOOR)
        F.mse_loss(projector(given[kept]), wanted[kept]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    kinds = [WORDS.index(word) for word in SLOTS["kind"]]
    with torch.no_grad():
        given, _, words = pair(np.arange(held))
        read = (projector(given) - mean) @ torch.linalg.pinv(table)  # (held * P, W)
        shown = words[:, _KIND] != WORDS.index("floor")
        return float((torch.tensor(kinds)[read[:, kinds].argmax(-1)] == words[:, _KIND])[shown].float().mean())
