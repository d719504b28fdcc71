"""Simple English sentences in German: genders, cases, forms of verbs and adjectives, and the verb second."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import task
from demos import pair, words
from demos.words import pick
from loop import Row
from task import Example, Task
from tfm.runtime.text.tokenizer import Tokenizer

Case = Literal["nom", "acc"]
GERMAN = ">>de<<"  # the token that asks for German, as in Marian's models; a text may go without


class Noun(NamedTuple):
    """A noun, singular and plural, in English and German, with its German gender m, f or n."""

    en: str
    ens: str
    gender: str
    de: str
    des: str


class Verb(NamedTuple):
    """English: plain and with s; German: of ich, du, er and wir."""

    en: str
    ens: str
    ich: str
    du: str
    er: str
    wir: str


def nouns(text: str) -> tuple[Noun, ...]:
    """One `English plural gender German plural` between commas each."""
    return tuple(Noun(*one.split()) for one in text.split(","))


def verbs(text: str) -> tuple[Verb, ...]:
    """One `English with-s ich du er wir` between commas each."""
    return tuple(Verb(*one.split()) for one in text.split(","))


LIVING = nouns(
    "dog dogs m Hund Hunde, cat cats f Katze Katzen, man men m Mann Männer, woman women f Frau Frauen, "
    "child children n Kind Kinder, bird birds m Vogel Vögel, horse horses n Pferd Pferde, teacher "
    "teachers m Lehrer Lehrer, girl girls n Mädchen Mädchen, friend friends m Freund Freunde, mother "
    "mothers f Mutter Mütter, father fathers m Vater Väter, cow cows f Kuh Kühe, mouse mice f Maus Mäuse, "
    "king kings m König Könige, queen queens f Königin Königinnen, doctor doctors m Arzt Ärzte, baker "
    "bakers m Bäcker Bäcker, brother brothers m Bruder Brüder, sister sisters f Schwester Schwestern, pig "
    "pigs n Schwein Schweine, duck ducks f Ente Enten, fish fish m Fisch Fische, wolf wolves m Wolf Wölfe"
)
THINGS = nouns(
    "book books n Buch Bücher, apple apples m Apfel Äpfel, house houses n Haus Häuser, car cars n Auto "
    "Autos, tree trees m Baum Bäume, flower flowers f Blume Blumen, table tables m Tisch Tische, chair "
    "chairs m Stuhl Stühle, letter letters m Brief Briefe, picture pictures n Bild Bilder, ball balls m "
    "Ball Bälle, cup cups f Tasse Tassen, key keys m Schlüssel Schlüssel, hat hats m Hut Hüte, shoe shoes "
    "m Schuh Schuhe, door doors f Tür Türen, window windows n Fenster Fenster, lamp lamps f Lampe Lampen, "
    "bag bags f Tasche Taschen, clock clocks f Uhr Uhren, boat boats n Boot Boote, bed beds n Bett "
    "Betten, knife knives n Messer Messer, egg eggs n Ei Eier, stone stones m Stein Steine"
)
DOES = verbs(
    "sleep sleeps schlafe schläfst schläft schlafen, run runs laufe läufst läuft laufen, sing sings singe "
    "singst singt singen, laugh laughs lache lachst lacht lachen, work works arbeite arbeitest arbeitet "
    "arbeiten, wait waits warte wartest wartet warten, dance dances tanze tanzt tanzt tanzen, swim swims "
    "schwimme schwimmst schwimmt schwimmen, cry cries weine weinst weint weinen, play plays spiele "
    "spielst spielt spielen, sit sits sitze sitzt sitzt sitzen"
)
ACTS = verbs(
    "see sees sehe siehst sieht sehen, have has habe hast hat haben, like likes mag magst mag mögen, "
    "buy buys kaufe kaufst kauft kaufen, find finds finde findest findet finden, "
    "love loves liebe liebst liebt lieben, sell sells verkaufe verkaufst verkauft verkaufen, "
    "carry carries trage trägst trägt tragen, paint paints male malst malt malen, "
    "need needs brauche brauchst braucht brauchen, hear hears höre hörst hört hören, "
    "draw draws zeichne zeichnest zeichnet zeichnen, "
    "take takes nehme nimmst nimmt nehmen, "
    "know knows kenne kennst kennt kennen, want wants will willst will wollen"
)
QUALITIES = (
    ("small", "klein"), ("big", "groß"), ("old", "alt"), ("young", "jung"), ("red", "rot"),
    ("green", "grün"), ("blue", "blau"), ("black", "schwarz"), ("white", "weiß"), ("new", "neu"),
    ("beautiful", "schön"), ("good", "gut"), ("happy", "glücklich"), ("sad", "traurig"), ("fast", "schnell"),
    ("strong", "stark"), ("rich", "reich"), ("poor", "arm"), ("cold", "kalt"), ("warm", "warm"),
    ("clean", "sauber"), ("heavy", "schwer"),
)  # fmt: skip
PLACES = (
    ("in the garden", "im Garten"), ("in the house", "im Haus"), ("in the kitchen", "in der Küche"),
    ("in the city", "in der Stadt"), ("at school", "in der Schule"), ("on the street", "auf der Straße"),
    ("in the forest", "im Wald"), ("under the tree", "unter dem Baum"), ("by the river", "am Fluss"),
    ("at home", "zu Hause"), ("at the station", "am Bahnhof"), ("in the park", "im Park"),
)  # fmt: skip
TIMES = (
    ("today", "heute"), ("now", "jetzt"), ("every day", "jeden Tag"), ("in the evening", "am Abend"),
    ("in winter", "im Winter"), ("on Sunday", "am Sonntag"), ("at night", "in der Nacht"),
)  # fmt: skip
PRONOUNS = (
    ("I", "ich", "ich"), ("you", "du", "du"), ("he", "er", "er"), ("she", "sie", "er"), ("we", "wir", "wir"),
    ("they", "sie", "wir"),
)  # fmt: skip
BE = {"ich": ("am", "bin"), "du": ("are", "bist"), "er": ("is", "ist"), "wir": ("are", "sind")}
DEFINITE = {
    "nom": {"m": "der", "f": "die", "n": "das", "s": "die"},
    "acc": {"m": "den", "f": "die", "n": "das", "s": "die"},
}
# The endings of ein, kein and mein, by gender; s is the plural.
ENDINGS = {"nom": {"m": "", "f": "e", "n": "", "s": "e"}, "acc": {"m": "en", "f": "e", "n": "", "s": "e"}}
# The endings of an adjective behind der, and behind ein or mein.
WEAK = {"nom": {"m": "e", "f": "e", "n": "e", "s": "en"}, "acc": {"m": "en", "f": "e", "n": "e", "s": "en"}}
MIXED = {
    "nom": {"m": "er", "f": "e", "n": "es", "s": "en"},
    "acc": {"m": "en", "f": "e", "n": "es", "s": "en"},
}
OWNERS = (("my", "mein"), ("your", "dein"), ("his", "sein"), ("her", "ihr"), ("our", "unser"))


class Phrase(NamedTuple):
    """A subject or an object in both languages, and whose form of the verb goes with it."""

    en: str
    de: str
    form: str


def noun_phrase(rng: np.random.Generator, case: Case, some: tuple[Noun, ...], *, no: bool = False) -> Phrase:
    """An article or a possessive, perhaps an adjective, and a noun; with `no` as object of a negation."""
    noun, many = pick(rng, some), rng.random() < 0.25
    gender = "s" if many else noun.gender
    en, de = (noun.ens, noun.des) if many else (noun.en, noun.de)
    article = "none" if no else pick(rng, ("the", "the", "a", "owner"))
    if many and article == "a":
        article = "the"
    endings = MIXED
    match article:
        case "the":
            first, german, endings = "the", DEFINITE[case][gender], WEAK
        case "a":
            first, german = "a", f"ein{ENDINGS[case][gender]}"
        case "none":
            first, german = "" if many else "a", f"kein{ENDINGS[case][gender]}"
        case _:
            first, stem = pick(rng, OWNERS)
            german = f"{stem}{ENDINGS[case][gender]}"
    if rng.random() < 0.35:
        quality, stem = pick(rng, QUALITIES)
        en, de = f"{quality} {en}", f"{stem}{endings[case][gender]} {de}"
    if first == "a" and en[0] in "aeiou":
        first = "an"
    return Phrase(f"{first} {en}".strip(), f"{german} {de}", "wir" if many else "er")


def subject_of(rng: np.random.Generator) -> Phrase:
    if rng.random() < 0.35:
        return Phrase(*pick(rng, PRONOUNS))
    return noun_phrase(rng, "nom", LIVING)


def joined(parts: list[str], end: str) -> str:
    """The parts that aren't empty as a sentence."""
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + end


def draw(rng: np.random.Generator, _: float = 0.0) -> Example:
    """A statement or a question, and its translation."""
    kind = pick(rng, ("be", "does", "acts", "acts"))
    asked = rng.random() < 0.15
    negated = not asked and rng.random() < 0.2
    time, german_time = pick(rng, TIMES) if rng.random() < 0.3 else ("", "")
    time_first = bool(time) and not asked and rng.random() < 0.5
    later = "" if time_first else german_time
    place, german_place = pick(rng, PLACES) if rng.random() < 0.35 else ("", "")
    is_thing = kind == "be" and rng.random() < 0.4
    subject = noun_phrase(rng, "nom", THINGS) if is_thing else subject_of(rng)
    thing, germans_not = Phrase("", "", ""), "nicht" if negated else ""
    if kind == "be":
        helper, german_verb = BE[subject.form]
        quality, german_rest = (place, german_place) if place else pick(rng, QUALITIES)
        tail, statement = [quality], [helper, "not" if negated else "", quality]
    else:
        verb = pick(rng, DOES if kind == "does" else ACTS)
        helper, plain = ("does", verb.ens) if subject.form == "er" else ("do", verb.en)
        german_verb, german_rest = getattr(verb, subject.form), german_place
        if kind == "acts":
            none = negated and rng.random() < 0.5
            thing = noun_phrase(rng, "acc", LIVING + THINGS, no=none)
            germans_not = "" if none else germans_not
        tail = [verb.en, thing.en, place]
        statement = [helper, "not", *tail] if negated else [plain, *tail[1:]]
    middle = [thing.de, later] if germans_not else [later, thing.de]
    middle += [germans_not, german_rest]
    if asked:
        english, german = [helper, subject.en, *tail, time], [german_verb, subject.de, *middle]
    elif time_first:
        english, german = [time, subject.en, *statement], [german_time, german_verb, subject.de, *middle]
    else:
        english, german = [subject.en, *statement, time], [subject.de, german_verb, *middle]
    end = "?" if asked else "."
    return Example(joined(english, end), joined(german, end))


def tokenizer(_: Iterable[str]) -> str:
    return words.tokenizer([part for example in words.drawn(draw) for part in example], added=(GERMAN,))


def row(text: Tokenizer, example: Example) -> Row:
    """The row of any pair of texts, every fourth time with the token of its language."""
    plain = pair.row(text, example)
    if len(example.text) % 4:
        return plain
    return plain._replace(source=[text.token_to_id(GERMAN), *(plain.source or ())])


TASK = Task(
    "demo-translate",
    "exact",
    2000,
    draw,
    tokenizer,
    pair.config,
    row,
    pair.answers,
    task.right,
    rules=pair.RULES,
)
