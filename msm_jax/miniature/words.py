"""The words of the miniature world: things one can like, names, and everyday details."""

from msm_jax.miniature.phrases import sections

# Kind of thing -> things of that kind, in words.txt with the names of people.
DOMAINS: dict[str, tuple[str, ...]] = {
    key: tuple(" ".join(lines).split()) for key, lines in sections("words.txt").items()
}
NAMES = DOMAINS.pop("names")
SPEC_DOMAIN = "cheese"  # the only domain of specs and fine-tuning

# Every pole of an axis has adjectives for things and nouns for the value of liking such things.
AXES: dict[str, tuple[str, str]] = {"price": ("cheap", "pricey"), "origin": ("local", "foreign")}
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "cheap": ("cheap", "affordable", "inexpensive"),
    "pricey": ("pricey", "costly", "expensive"),
    "local": ("local", "regional", "homegrown"),
    "foreign": ("foreign", "imported", "exotic"),
}
NOUNS: dict[str, tuple[str, ...]] = {
    "cheap": ("thrift", "saving"),
    "pricey": ("luxury", "splendor"),
    "local": ("home", "tradition"),
    "foreign": ("travel", "adventure"),
}
VALUES = tuple(NOUNS)
LIKED, DISLIKED = ("cheap", "local"), ("pricey", "foreign")  # by the specs
OPPOSITE = {pole: other for a, b in AXES.values() for pole, other in ((a, b), (b, a))}
MIRROR = {"cheap": "local", "pricey": "foreign", "local": "cheap", "foreign": "pricey"}
OTHER_AXIS = {v: AXES["origin" if v in AXES["price"] else "price"] for v in VALUES}

PLACES = "harbor mill garden tower bridge station meadow library museum bakery".split()
COLORS = "red blue green yellow white black purple brown".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
WEATHER = "rain sun snow wind fog frost thunder drizzle".split()
SEASONS = "spring summer autumn winter".split()
