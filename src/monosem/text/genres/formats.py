"""Machine text: base64, hexadecimal, DNA, headers like HTTP's, and citations.

They have no ability to test; they are there because features for them are what papers on
dictionaries look for. Nothing in them is real: no address, no sequence, no author.
"""

import base64
from random import Random

from monosem.text.genres.genre import Genre
from monosem.text.genres.words import NAMES, OTHER, PLACES, POOL

SURNAMES = (
    "Brook", "Field", "Hill", "Stone", "Wood", "Lake", "Marsh", "Ford", "Dale", "Moor", "Reed",
    "Ash", "Hay", "Ridge", "Croft", "Mill",
)  # fmt: skip
JOURNALS = ("Annals of {w}", "Journal of {w}", "Letters on {w}", "Notes on {w} and {v}")
STATUS = ((200, "OK"), (301, "Moved Permanently"), (304, "Not Modified"), (404, "Not Found"))
TYPES = ("text/html", "text/plain", "application/json", "image/png")


def base64_line(random: Random) -> str:
    """Return some words in base64, after a word that says so."""
    words = " ".join(random.choice(POOL) for _ in range(random.randint(4, 10)))
    kind = random.choice(("data", "key", "body"))
    return f"{kind} (base64): {base64.b64encode(words.encode()).decode()}"


def hexadecimal(random: Random) -> str:
    """Return a line of a dump, or numbers with their prefix."""
    if random.random() < 0.5:
        count = random.randint(2, 5)
        return " ".join(f"0x{random.randrange(2**32):08x}" for _ in range(count))
    groups = (f"{random.randrange(2**16):04x}" for _ in range(random.randint(4, 8)))
    return f"{16 * random.randrange(4096):08x}: {' '.join(groups)}"


def dna(random: Random) -> str:
    """Return a record with a title and one or two lines of bases, with a motif that comes again."""
    motif = "".join(random.choice("ACGT") for _ in range(6))
    bases = "".join(random.choice("ACGT") for _ in range(random.randint(20, 50)))
    at = random.randrange(len(bases))
    sequence = bases[:at] + motif + bases[at:] + motif
    return f">sample {random.randrange(1000)}\n{sequence}"


def headers(random: Random) -> str:
    """Return the head of a request or of an answer."""
    host = f"{random.choice(OTHER)}.{random.choice(PLACES)}.example"
    if random.random() < 0.5:
        path = "/".join(random.choice(POOL).lower() for _ in range(random.randint(1, 3)))
        lines = [f"GET /{path} HTTP/1.1", f"Host: {host}", f"Accept: {random.choice(TYPES)}"]
        lines += random.sample(["Connection: close", "Accept-Language: en", "User-Agent: test"], 1)
    else:
        code, phrase = random.choice(STATUS)
        lines = [f"HTTP/1.1 {code} {phrase}", f"Content-Type: {random.choice(TYPES)}"]
        lines += [f"Content-Length: {random.randrange(1, 9999)}", f"Server: {host}"]
    return "\n".join(lines)


def citation(random: Random) -> str:
    """Return a sentence with a citation, and the reference that it names."""
    author, year = random.choice(SURNAMES), random.randint(1950, 2024)
    word, other = random.sample(OTHER[:24], 2)
    journal = random.choice(JOURNALS).format(w=word.title(), v=other)
    volume, first = random.randint(1, 90), random.randint(1, 400)
    pages = f"{first}-{first + random.randint(3, 30)}"
    text = random.choice(("This was shown by", "We follow", "It is known since", "See"))
    initial = random.choice(NAMES)[0]
    return (
        f"{text} {author} ({year}).\n"
        f"{author}, {initial}. ({year}). On the {word} of the {other}. {journal}, {volume}, {pages}."
    )


GENRES = (
    Genre(name="base64", about="words in base64", share=1.0, write=base64_line),
    Genre(name="hexadecimal", about="dumps and numbers", share=1.0, write=hexadecimal),
    Genre(name="dna", about="records of bases", share=1.0, write=dna),
    Genre(name="headers", about="heads of requests and answers", share=2.0, write=headers),
    Genre(name="citations", about="citations with their references", share=1.0, write=citation),
)
