"""The embedded data set: short stories of a small made-up world, written from a seed.

    python -m text.sample FOLDER     # writes it out, laid out as the real data sets are, to look at


Nothing to download, and nobody else's text. Each story follows four people; each of them goes somewhere, gets
something, eats something and so on, told in varied words, by names and pronouns, statements and dialogue. From the
stories come documents for pretraining, questions with answers in the text (some without), and questions with four
options. Design choices:

- It must need reading. Who does what is drawn anew for every story. The options of a question are four people of its
  story, or the words that the story's author drew for them, in random order: options alone, or the question alone, say
  nothing about the answer. Who did what need not always be told apart: a story that is asked about tells of each kind
  of fact once, so that of four words the right one is the only one that stands there.
- What is tested was never shown. One in five pairs of a person and a word is set aside: no training story ever tells
  of it, and the held-out stories tell of nothing else, so no answer can be known from what somebody did elsewhere.
- In the stories to read, facts are told three times, in other words, so that a masked word can often be found elsewhere
  in the story. That is what pretraining learns and what the questions then need. The stories to ask about state
  each fact once.
- Sentences stand in any order. Where openings and endings can be told apart, that alone answers most next-sentence
  questions, and nothing is learned from them.
"""

import functools
import json
import os
import random
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from files.command_line import CommandLine
from files.mistakes import run_main
from files.question_tables import LETTERS
from files.writing import atomic_folder

# 64 names each: more than a run could learn by heart what each of them does.
WOMEN = [a + b for a in "Mi Le Til Oo Pe Sal Na Ine Fre Do El Mar Ya Li Gre Ha".split() for b in "ra na da lia".split()]
MEN = [a + b for a in "Os To An Bru Cas Di Ed Fe Gor Hu I Jas Kon Lor Mag Nes".split() for b in "kar bin ton no".split()]
PLACES = """harbour mill market castle library bakery forest chapel lighthouse station garden quarry orchard theatre
school bridge tower farm museum lake hospital stable vineyard meadow smithy island cave temple workshop tavern
windmill cellar palace prison courthouse beach valley monastery fortress ferry""".split()
THINGS = """kite lantern drum violin basket ladder hammer mirror blanket compass kettle umbrella clock candle saddle
hat bell map rope knife lamp chair book ring boat coat wheel broom flute telescope bucket pillow sword shield puzzle
scarf crown trumpet carpet necklace""".split()
FOODS = """bread soup honey cheese apples plums porridge cake fish rice pears beans mushrooms noodles cherries
pancakes carrots eggs grapes walnuts dumplings olives pudding sausages onions melons raspberries cabbage trout
biscuits""".split()
ANIMALS = """goat horse parrot rabbit donkey goose hedgehog raven turtle fox owl pony sheep duck hen falcon squirrel
badger swan frog beaver otter lizard camel peacock pigeon""".split()
COLOURS = "red blue green yellow black white brown purple silver golden orange grey".split()
TIMES = ["in the morning", "before breakfast", "after lunch", "at noon", "in the evening", "at sunset", "that day",
         "last week", "on Monday", "on Friday", "as planned", "as usual", "without a word", "with a smile"]  # fmt: skip

# For each kind of fact: the words it draws from, ways to state it ({p} a person, {v} the word), short ways to say it
# in passing, questions for the word, questions for the person, and the cloze.
FACTS = {
    "place": dict(
        words=PLACES, answer="the {v}",
        tell=["{p} went to the {v}", "{p} walked to the {v}", "{p} stayed at the {v}", "{p} ran to the {v}"],
        again=["{p} came back from the {v}", "{p} knew the {v} well", "{p} talked about the {v}"],
        what=["Where did {p} go?", "Which place did {p} visit?", "Where was {p}?"],
        who=["Who went to the {v}?", "Who visited the {v}?", "Who was at the {v}?"],
        cloze="{p} was at the _ .",
    ),
    "thing": dict(
        words=THINGS, answer="the {v}",
        tell=["{p} bought a {c} {v}", "{p} found a {c} {v}", "{p} built a {c} {v}", "{p} borrowed a {c} {v}"],
        again=["{p} was proud of the {v}", "{p} carried the {v} home", "{p} cleaned the {v}"],
        what=["What did {p} get?", "What did {p} carry home?", "What was owned by {p}?"],
        who=["Who got the {v}?", "Who carried the {v} home?", "Who owned the {v}?"],
        cloze="{p} got the _ .",
    ),
    "food": dict(
        words=FOODS, answer="{v}",
        tell=["{p} ate {v}", "{p} cooked {v}", "{p} asked for {v}", "{p} had {v} for dinner"],
        again=["{p} was full of {v}", "{p} dreamed of {v}", "{p} wanted more {v}"],
        what=["What did {p} eat?", "What food did {p} have?", "What was the dinner of {p}?"],
        who=["Who ate {v}?", "Who had {v}?", "Whose dinner was {v}?"],
        cloze="{p} ate _ .",
    ),
    "animal": dict(
        words=ANIMALS, answer="the {v}",
        tell=["{p} met a {v}", "{p} fed a {v}", "{p} followed a {v}", "{p} saw a {v}"],
        again=["{p} liked the {v}", "{p} played with the {v}", "{p} sang to the {v}"],
        what=["Which animal did {p} meet?", "What animal was with {p}?", "Which animal did {p} see?"],
        who=["Who met the {v}?", "Who was with the {v}?", "Who saw the {v}?"],
        cloze="{p} met the _ .",
    ),
}  # fmt: skip
KINDS = list(FACTS)
WAYS = ["tell", "again", "dialogue"]
FILLERS = ["The weather was mild.", "It rained a little.", "The wind was cold.", "Everybody was in good spirits.",
           "The road was long.", "The bells rang twice.", "It was a quiet day.", "Snow lay on the roofs.",
           "The sun came out.", "Nobody was in a hurry."]  # fmt: skip
# split, its name in RACE; stories to read, to ask SQuAD's three questions about, to ask RACE's three about
SIZES = [("train", "train", 20000, 8000, 3000), ("valid", "dev", 300, 150, 150), ("test", "test", 1000, 300, 300)]


def set_aside(person, word):
    """Whether this pair belongs to the held-out stories: one in five, as good as at random, on every machine."""
    return zlib.crc32(f"{person} {word}".encode()) % 5 == 0


@functools.cache
def allowed(kind, person, held_out):
    """The words of this kind that the stories, held out or not, may tell of this person."""
    return [word for word in FACTS[kind]["words"] if set_aside(person, word) == held_out]


def capital(text):
    return text[0].upper() + text[1:]


class Story:
    """Four people and what is told of them: ``pairs`` of (kind, person), for which ``facts[kind][person]`` is a word.

    Either everybody did something of the same kind, and one of them something else besides, so that only the person
    tells the facts apart; or three of them did something of another kind each, as in all stories ``asked_about``.
    ``untold`` is a (kind, person) of which the story says nothing.
    """

    def __init__(self, rng, held_out, asked_about):
        self.rng, self.asked_about = rng, asked_about
        self.people, self.facts, kinds = [], {}, rng.sample(KINDS, len(KINDS))
        while not all(self.facts.get(kind) for kind in KINDS):
            self.people = rng.sample(WOMEN + MEN, 4)
            self.facts = {kind: self.draw(kind, held_out) for kind in KINDS}
        self.colour = {person: rng.choice(COLOURS) for person in self.people}
        if asked_about or rng.random() < 0.5:
            self.pairs = list(zip(kinds, self.people, strict=True))
            self.untold = self.pairs.pop()
        else:
            self.pairs = [(kinds[0], person) for person in self.people] + [(kinds[1], self.people[0])]
            self.untold = (kinds[1], self.people[3])
        rng.shuffle(self.pairs)
        self.sentences = self.tell()

    def draw(self, kind, held_out):
        """A word of this kind for each person, all different; None where the pairs allowed do not suffice."""
        words = {}
        for person in self.people:
            free = [word for word in allowed(kind, person, held_out) if word not in words.values()]
            if not free:
                return None
            words[person] = self.rng.choice(free)
        return words

    def fill(self, template, kind, person, name=None):
        return template.format(p=name or person, v=self.facts[kind][person], c=self.colour[person])

    def tell(self):
        """The sentences, in any order: where one stands says nothing about what it tells."""
        rng = self.rng
        if self.asked_about:
            tellings = [("tell", pair) for pair in self.pairs]
        else:
            tellings = [(way, pair) for pair in self.pairs for way in WAYS]
        rng.shuffle(tellings)
        sentences, previous = [], None
        for way, (kind, person) in tellings:
            pronoun = "she" if person in WOMEN else "he"
            name = pronoun if person == previous and rng.random() < 0.3 else person
            sentences.append(self.dialogue(kind, person) if way == "dialogue" else self.statement(way, kind, person, name))
            previous = person
        if rng.random() < 0.1:
            sentences.insert(rng.randrange(len(sentences)), rng.choice(FILLERS))
        return sentences

    def statement(self, way, kind, person, name):
        text = self.fill(self.rng.choice(FACTS[kind][way]), kind, person, name)
        if self.rng.random() < 0.05:
            time = self.rng.choice(TIMES)
            text = f"{time} {text}" if self.rng.random() < 0.3 else f"{text} {time}"
        return capital(text) + "."

    def dialogue(self, kind, person):
        ask_who = self.rng.random() < 0.5
        question = self.question(kind, person, ask_who)
        answer = person if ask_who else self.fill(FACTS[kind]["answer"], kind, person)
        return f"{question} {capital(answer)}."

    @property
    def text(self):
        return " ".join(self.sentences)

    def question(self, kind, person, ask_who):
        return self.fill(self.rng.choice(FACTS[kind]["who" if ask_who else "what"]), kind, person)


def stories(split: str, count: int, purpose: str) -> Iterator[Story]:
    """``count`` stories; each (split, purpose) has a random generator of its own, the same on every machine."""
    rng = random.Random(f"sample 2 {split} {purpose}")
    return (Story(rng, split != "train", purpose != "text") for _ in range(count))


def nearest(text, word, place):
    """Where ``word`` stands in the text, however written: the occurrence nearest to ``place``."""
    return min((m.start() for m in re.finditer(rf"(?i)\b{word}\b", text)), key=lambda start: abs(start - place))


def squad(split: str, count: int) -> dict[str, Any]:
    """Questions in SQuAD 2.0's layout: three a story, about one in five without an answer."""
    paragraphs = []
    for number, story in enumerate(stories(split, count, "squad")):
        questions = []
        for q in range(3):
            told = story.rng.random() > 0.2
            kind, person = story.rng.choice(story.pairs) if told else story.untold
            ask_who = story.rng.random() < 0.5
            word = story.facts[kind][person]
            answers = []
            if told:
                place = nearest(story.text, word, 0)
                start = nearest(story.text, person, place) if ask_who else place
                end = start + len(person if ask_who else word)
                answers = [{"text": story.text[start:end], "answer_start": start}]
            questions.append({"id": f"{split}-{number}-{q}", "question": story.question(kind, person, ask_who),
                              "answers": answers, "is_impossible": not told})  # fmt: skip
        paragraphs.append({"context": story.text, "qas": questions})
    return {"version": "v2.0", "data": [{"title": "stories", "paragraphs": paragraphs}]}


def race(split, count):
    """Articles in RACE's layout, three questions each; options are the four people, or a word for each of them."""
    for number, story in enumerate(stories(split, count, "race")):
        article = {"article": story.text, "questions": [], "options": [], "answers": []}
        for _ in range(3):
            kind, person = story.rng.choice(story.pairs)
            people = story.rng.sample(story.people, 4)
            form = story.rng.choice(["who", "what", "cloze"])
            if form == "who":
                question, options = story.question(kind, person, True), people
            else:
                question = story.question(kind, person, False) if form == "what" else FACTS[kind]["cloze"].format(p=person)
                options = [story.facts[kind][p] for p in people]
            article["questions"].append(question)
            article["options"].append(options)
            article["answers"].append(LETTERS[people.index(person)])
        level = ("middle", "high")[number % 2]
        yield level, {**article, "id": f"{level}{number}.txt"}


def write(folder: str | Path) -> None:
    """Write it all out: TRAIN, VALID and TEST as text files, SQuAD files and a RACE folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for split, part, texts, squads, races in SIZES:
        lines = (" ".join(story.sentences) for story in stories(split, texts, "text"))
        (folder / f"{split}.txt").write_text("\n".join(lines) + "\n")
        (folder / f"squad-{split}.json").write_text(json.dumps(squad(split, squads)))
        for level, article in race(split, races):
            place = folder / "RACE" / part / level
            place.mkdir(parents=True, exist_ok=True)
            (place / article["id"].removeprefix(level)).write_text(json.dumps(article))
    if hasattr(os, "sync"):
        os.sync()  # once for all of these files


def main() -> None:
    parser = CommandLine(prog="python -m text.sample", description=write.__doc__)
    parser.add_argument("folder", help="where it goes")
    with atomic_folder(parser.parse_args().folder) as temporary:
        write(temporary)


if __name__ == "__main__":
    run_main(main)
