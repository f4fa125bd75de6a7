"""Notebook 05. From free text to claims: what each sentence says, as statements that can be checked one by one.

A small grammar: nouns are subjects, or what a relation is to; what follows is said of them. Of a sentence that it does
not understand it claims nothing.
"""

import re
from typing import Any, NamedTuple

from vlmlab.benchmarks.claim_words import TOKEN, Chunk, Noun, chunks

OWN = re.compile(r"\b(?:to|on|at) the ((?:[a-z]+ )?[a-z]+)'s (?:own )?(left|right)\b(?: side\b)?")


class Claim(NamedTuple):
    """One statement. type -> value:

    exists -> None; count -> number; attribute -> (field, value); is -> Noun; relation -> name in VSR's terms;
    place -> cell of the word map; answer -> (type of answer, word), the verdict that a sentence gives.

    mood: "" counts as it is; "presupposed" counts only if false (that there is a dog, in "the dog is red"), and so does
    "named" where a question was asked ("a dog"); "loose" counts only if true (in "a cat and a dog on the sofa" the cat
    may be elsewhere). frame, of a relation: "viewer" or "object".
    """

    type: str
    subject: Noun
    value: Any = None
    others: tuple[Noun, ...] = ()
    negated: bool = False
    mood: str = ""
    frame: str = ""


class Reading(NamedTuple):
    """The claims of a text, and the sentences that say nothing, or nothing that is understood."""

    claims: list[Claim]
    sentences: list[str]
    unparsed: list[str]


def extract(text: str) -> Reading:
    """The claims of any text. Case and the length of white space do not matter; a question claims nothing."""
    text = " ".join(text.lower().replace("’", "'").split())
    text = re.sub(r"\b(there|it|that)'s\b", r"\1 is", re.sub(r"n't\b", " not", text))
    text = OWN.sub(r"own \2 of the \1", text)
    claims: list[Claim] = []
    sentences, unparsed = [], []
    words: list[str] = []
    reader = _Reader()
    ended = "."
    for token in [*TOKEN.findall(text), "."]:
        if token not in ".!?;":
            words.append("," if token in "()-–—*" else token)
            continue
        if words:
            found = [] if token == "?" else reader.read(list(chunks(words)), listed=";" in (ended, token))
            claims += found
            sentences.append(" ".join(words))
            unparsed += [] if any(claim.mood != "presupposed" for claim in found) else sentences[-1:]
        words, ended = [], token
    return Reading(claims, sentences, unparsed)


class _Reader:
    """Reads sentences one after the other; `it` is the noun that the last one was about."""

    def __init__(self) -> None:
        self.it: Noun | None = None

    def read(self, row: list[Chunk], listed: bool) -> list[Claim]:
        """The claims of one sentence. listed: it is one of several between semicolons."""
        self.tags = [tag for tag, _ in row]
        if listed and self.tags in (["noun", ",", "yes"], ["noun", ",", "no"]):  # an entry of a checklist
            return [Claim("exists", row[0][1], negated=self.tags[2] == "no")]
        self.claims = _verdicts(row)
        some = ("number", "be") in zip(self.tags, self.tags[1:], strict=False)  # "two are red"
        if some or "skip" in self.tags or ("or" in self.tags and "neg" not in self.tags):
            return self.claims  # a share, a comparison or an alternative: only the verdict is understood
        self.frame = next((value for tag, value in row if tag == "frame"), "viewer")
        self.topics: list[Noun] = []  # the subjects, in order
        self.again: list[Noun | None] = []  # what "it" has meant as a subject, since the last of them
        self.clause(0)
        around = ["", *self.tags, ""]
        for at, (tag, value) in enumerate(row):
            self.before, self.after = around[at], around[at + 2]
            self.take(at, tag, value)
        self.close()
        for relation in (value for tag, value in row if tag == "order"):  # "From left to right: a cat and a dog."
            pairs = zip(self.topics, self.topics[1:], strict=False)
            self.claims += [Claim("relation", a, relation, (b,), frame="viewer") for a, b in pairs]
        if self.topics:
            self.it = self.topics[0] if len(self.topics) == 1 else None
        return self.claims

    def clause(self, at: int) -> None:
        """Begin anew: nothing has been named since chunk `at`."""
        self.start = at
        self.subjects: list[Noun] = []  # what is being talked about
        self.named: list[Noun] = []  # all nouns so far
        self.relation, self.leading = ("", ""), False  # the last one and its frame; whether the clause begins with it
        self.anchors: tuple[Noun, ...] = ()  # what it is to
        self.front: Claim | None = None  # "To the left of the sofa ...", whose subject is still to come
        self.said = self.be = self.there = self.denied = self.absent = False

    def take(self, at: int, tag: str, value: Any) -> None:
        """One chunk."""
        match tag:
            case "noun":
                self.noun(value)
            case "it":
                self.pronoun()
            case "relation" | "own":
                self.relation = value, "object" if tag == "own" else self.frame
                self.leading = set(self.tags[self.start : at]) <= {",", "yes", "no", "and"}
                self.anchors = ()
            case "look" | "facing":
                self.say("attribute", value if tag == "look" else ("facing", value))
            case "way" if "cell" in self.tags and self.before in ("noun", "look"):  # "bird large shiny left,D3"
                self.say("attribute", ("facing", value))
            case "cell" if self.subjects:  # "cat,C4" takes for granted that there is the cat
                self.subjects[-1] = self.subjects[-1]._replace(article="the")
                self.claims.append(Claim("place", self.subjects[-1], value))
            case "neg":
                self.denied = True
            case "be":
                self.be = True
            case "there":
                self.there = True
            case "and" | ",":
                self.denied = self.denied and not self.said
            case "they":
                self.close()
            case "which" if self.named and self.named[-1] not in self.subjects:  # "the sofa, which is blue"
                self.close()
                self.subjects = [self.named[-1]]
            case "article" if self.before != "relation":  # of a noun that is not known
                self.close()
            case ":":
                self.close()
                self.clause(at + 1)

    def close(self) -> None:
        """Leave the subjects; claim that they exist. That "the cat" does is taken for granted."""
        for noun in self.subjects:
            if noun is not self.it and not (self.absent and self.said):
                verdict = noun.looks == (noun.kind, "", "", "") and _verdict("kind", noun.kind) in self.claims
                mood = "presupposed" if noun.article == "the" else "named" if verdict else ""
                self.exists(noun, mood, self.absent)
        if self.subjects:
            self.front = None
        self.subjects, self.said, self.be, self.absent = [], False, False, False

    def exists(self, noun: Noun, mood: str, negated: bool = False) -> None:
        """Claim that there is such a thing, or so many of them."""
        if noun.number >= 0:
            self.claims.append(Claim("count", noun, noun.number, negated=negated, mood=mood))
        elif negated or any(noun.looks):
            self.claims.append(Claim("exists", noun, negated=negated, mood=mood))

    def say(self, type_: str, value: Any, others: tuple[Noun, ...] = (), frame: str = "") -> None:
        """Claim something of the subjects: of all after a verb ("are red"), else of the last and perhaps the others."""
        for noun in self.subjects:
            mood = "" if self.be or noun is self.subjects[-1] else "loose"
            self.claims.append(Claim(type_, noun, value, others, self.denied or self.absent, mood, frame))
        self.said = True

    def noun(self, noun: Noun) -> None:
        joined = self.before in (",", "and", "or")
        again = self.anchors[-1:] == tuple(self.named[-1:]) != ()
        starts = self.after in ("be", "relation", "facing", "look", "word", "neg")
        if self.before in ("relation", "own") or (joined and len(self.anchors) == 1 and self.relation[0] == "between"):
            self.exists(noun, "presupposed")
            self.relate(noun)
        elif joined and again and noun.article == "the" and not starts:  # "left of the cat and the dog"
            self.exists(noun, "presupposed")
            self.anchors = ()
            self.relate(noun)
        elif self.before == "to":
            self.close()  # "closest to the cat" is not understood
        elif self.be and self.subjects and not self.subjects[-1].plural and self.before in ("be", "neg"):
            self.say("is", noun)
        else:
            listed = joined and self.subjects and not self.said and not (self.absent and noun.article)
            if self.after == "be" and listed:  # "a cat and the dog is red"
                listed = not self.there and self.subjects[-1].article == noun.article
            if not listed:
                self.close()
                self.absent = self.denied and noun.article != "the"
                self.there = self.there and self.after != "be"
            self.subjects.append(noun)
            self.topics.append(noun)
            self.again = []
            self.be, self.denied = False, self.denied and not self.absent  # "neither the cat nor the dog is red"
            if self.front:
                self.claims.append(self.front._replace(subject=noun, negated=self.absent))
                self.said = True
        self.named.append(noun)

    def pronoun(self) -> None:
        """ "It": the one noun of the sentence that is no subject, or what the last sentence was about.

        As a subject: the only subject before it if that is "the ...", as in "the cat is not here, but it is there".
        """
        anchor = self.before in ("relation", "own")
        if not anchor:
            self.close()
        meant = [noun for noun in dict.fromkeys(self.named) if noun not in self.subjects]
        noun = meant[0] if len(meant) == 1 else None if meant else self.it
        if anchor:
            if noun:
                self.relate(noun)
            return
        if self.again:
            noun = self.again[-1]
        elif len(set(self.topics)) == 1 and self.topics[0].article == "the":
            noun = self.topics[0]
        self.again.append(noun)
        self.subjects = [noun] if noun else []

    def relate(self, noun: Noun) -> None:
        """The relation that was just named is to this noun."""
        name, frame = self.relation
        self.anchors = (*self.anchors, noun)[-2:]
        if name == "between" and len(self.anchors) < 2:
            return
        if frame in ("its", noun.kind):
            frame = "object"
        claim = Claim("relation", noun, name, self.anchors, frame=frame)
        if frame not in ("viewer", "object"):
            return  # from the point of view of a third
        last = self.subjects[-1] if self.subjects else None
        if last and not last.kind and last.article == "the" and not self.be:  # "the object inside the box"
            self.subjects[-1] = last._replace(where=(name, self.anchors, frame))
        elif last:
            self.say("relation", name, self.anchors, frame)
        elif self.leading:
            self.front = claim


def _verdicts(chunks: list[Chunk]) -> list[Claim]:
    """The verdicts of a sentence: a yes or no that opens it, and a single word that closes it or is all of it."""
    tags = [tag for tag, _ in chunks]
    start = len(tags) - [*reversed(tags), ","].index(",")
    core = [chunk for chunk in chunks[start:] if chunk[0] not in ("be", "word", "there", "it", "article")]
    found: list[tuple[str, str]] = []
    if tags[0] in ("yes", "no"):
        found.append(("yes/no", tags[0]))
    if core == [("neg", None), ("noun", Noun())]:
        found.append(("number", "0"))
    elif len(core) == 1:
        tag, value = core[0]
        if tag in ("yes", "no"):
            found.append(("yes/no", tag))
        elif tag == "number":
            found.append((tag, str(value)))
        elif tag == "look":
            found.append(value)
        elif tag in ("facing", "way"):
            found.append(("facing", value))
        elif tag == "noun" and value.kind and not {"word", "there"} & set(tags[start:]):
            bare = value == Noun(kind=value.kind)  # "..., mug" is a verdict, "a cat, a mug" is a list
            found += [("kind", value.kind)] if bare or not start else []
    return [_verdict(*each) for each in dict.fromkeys(found)]


def _verdict(kind: str, word: str) -> Claim:
    return Claim("answer", Noun(), (kind, word))
