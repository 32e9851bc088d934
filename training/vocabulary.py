"""List what the built-in model can draw: names, colours, sizes and words, as plain data.

The icon names on the right of `OBJECTS` must exist in both icon packages (training/sprites.py
checks it). The first name of an object is the one used everywhere; the others are synonyms that
captions use now and then.
"""

# object -> (group, icon name in both packages, synonyms)
OBJECTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "cat": ("animals", "cat-face", ("kitten",)),
    "dog": ("animals", "dog-face", ("puppy",)),
    "fox": ("animals", "fox", ()),
    "lion": ("animals", "lion", ()),
    "tiger": ("animals", "tiger-face", ()),
    "bear": ("animals", "bear", ()),
    "panda": ("animals", "panda", ()),
    "koala": ("animals", "koala", ()),
    "frog": ("animals", "frog", ()),
    "rabbit": ("animals", "rabbit-face", ("bunny",)),
    "mouse": ("animals", "mouse-face", ()),
    "monkey": ("animals", "monkey-face", ()),
    "pig": ("animals", "pig-face", ()),
    "cow": ("animals", "cow-face", ()),
    "unicorn": ("animals", "unicorn", ()),
    "chick": ("animals", "front-facing-baby-chick", ()),
    "penguin": ("animals", "penguin", ()),
    "owl": ("animals", "owl", ()),
    "elephant": ("animals", "elephant", ()),
    "whale": ("animals", "spouting-whale", ()),
    "fish": ("animals", "tropical-fish", ()),
    "octopus": ("animals", "octopus", ()),
    "crab": ("animals", "crab", ()),
    "turtle": ("animals", "turtle", ()),
    "snail": ("animals", "snail", ()),
    "butterfly": ("animals", "butterfly", ()),
    "bee": ("animals", "honeybee", ()),
    "ladybug": ("animals", "lady-beetle", ()),
    "pizza": ("food", "pizza", ()),
    "hamburger": ("food", "hamburger", ("burger",)),
    "hotdog": ("food", "hot-dog", ()),
    "taco": ("food", "taco", ()),
    "apple": ("food", "red-apple", ()),
    "pear": ("food", "pear", ()),
    "peach": ("food", "peach", ()),
    "lemon": ("food", "lemon", ()),
    "banana": ("food", "banana", ()),
    "watermelon": ("food", "watermelon", ()),
    "strawberry": ("food", "strawberry", ()),
    "pineapple": ("food", "pineapple", ()),
    "kiwi": ("food", "kiwi-fruit", ()),
    "avocado": ("food", "avocado", ()),
    "tomato": ("food", "tomato", ()),
    "carrot": ("food", "carrot", ()),
    "broccoli": ("food", "broccoli", ()),
    "mushroom": ("food", "mushroom", ()),
    "cheese": ("food", "cheese-wedge", ()),
    "doughnut": ("food", "doughnut", ("donut",)),
    "cookie": ("food", "cookie", ()),
    "cake": ("food", "shortcake", ()),
    "cupcake": ("food", "cupcake", ()),
    "lollipop": ("food", "lollipop", ()),
    "coffee": ("food", "hot-beverage", ()),
    "pretzel": ("food", "pretzel", ()),
    "croissant": ("food", "croissant", ()),
    "popcorn": ("food", "popcorn", ()),
    "car": ("vehicles", "automobile", ()),
    "bus": ("vehicles", "bus", ()),
    "taxi": ("vehicles", "taxi", ()),
    "truck": ("vehicles", "delivery-truck", ()),
    "tractor": ("vehicles", "tractor", ()),
    "train": ("vehicles", "locomotive", ()),
    "airplane": ("vehicles", "airplane", ("plane",)),
    "rocket": ("vehicles", "rocket", ()),
    "helicopter": ("vehicles", "helicopter", ()),
    "sailboat": ("vehicles", "sailboat", ("boat",)),
    "bicycle": ("vehicles", "bicycle", ("bike",)),
    "scooter": ("vehicles", "motor-scooter", ()),
    "ambulance": ("vehicles", "ambulance", ()),
    "ufo": ("vehicles", "flying-saucer", ()),
    "tree": ("plants", "deciduous-tree", ()),
    "pine": ("plants", "evergreen-tree", ()),
    "palm": ("plants", "palm-tree", ()),
    "cactus": ("plants", "cactus", ()),
    "tulip": ("plants", "tulip", ()),
    "rose": ("plants", "rose", ()),
    "sunflower": ("plants", "sunflower", ()),
    "clover": ("plants", "four-leaf-clover", ()),
    "leaf": ("plants", "maple-leaf", ()),
    "sun": ("weather", "sun", ()),
    "moon": ("weather", "crescent-moon", ()),
    "cloud": ("weather", "cloud", ()),
    "rainbow": ("weather", "rainbow", ()),
    "snowflake": ("weather", "snowflake", ()),
    "snowman": ("weather", "snowman", ()),
    "fire": ("weather", "fire", ("flame",)),
    "umbrella": ("weather", "umbrella", ()),
    "volcano": ("weather", "volcano", ()),
    "house": ("things", "house", ()),
    "balloon": ("things", "balloon", ()),
    "gift": ("things", "wrapped-gift", ("present",)),
    "crown": ("things", "crown", ()),
    "key": ("things", "key", ()),
    "guitar": ("things", "guitar", ()),
    "drum": ("things", "drum", ()),
    "trumpet": ("things", "trumpet", ()),
    "book": ("things", "closed-book", ()),
    "camera": ("things", "camera", ()),
    "lightbulb": ("things", "light-bulb", ()),
    "bell": ("things", "bell", ()),
    "football": ("things", "soccer-ball", ()),
    "basketball": ("things", "basketball", ()),
    "teddy": ("things", "teddy-bear", ()),
    "robot": ("things", "robot", ()),
    "ghost": ("things", "ghost", ()),
    "trophy": ("things", "trophy", ()),
    "hat": ("things", "top-hat", ()),
    "shoe": ("things", "running-shoe", ("sneaker",)),
    "gem": ("things", "gem-stone", ()),
    "magnet": ("things", "magnet", ()),
    "anchor": ("things", "anchor", ()),
    "backpack": ("things", "backpack", ()),
}

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "diamond",
    "hexagon",
    "ring",
    "cross",
    "crescent",
)

SHAPE_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 40, 45),
    "orange": (245, 130, 25),
    "yellow": (250, 208, 20),
    "green": (35, 155, 60),
    "blue": (35, 90, 220),
    "purple": (130, 50, 180),
    "pink": (245, 95, 170),
    "brown": (125, 75, 40),
    "black": (20, 20, 25),
    "white": (250, 250, 250),
}

# Softer than the colours of shapes, so that emoji stay readable on every one of them.
BACKGROUND_COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (255, 255, 255),
    "black": (25, 25, 30),
    "gray": (160, 163, 170),
    "red": (235, 115, 110),
    "orange": (250, 180, 110),
    "yellow": (253, 235, 140),
    "green": (150, 210, 150),
    "blue": (140, 190, 245),
    "purple": (190, 160, 225),
    "pink": (250, 195, 215),
}

SIZES: dict[str, int] = {"small": 112, "medium": 160, "large": 208}  # pixels in a 256 px picture
OBJECT_SIZES = ("small", "large")  # two renderings of a sprite are enough for a small model
SIZE_SYNONYMS: dict[str, tuple[str, ...]] = {"small": ("little",), "medium": (), "large": ("big",)}

STYLES: dict[str, str] = {
    "flat": "fluent-emoji-flat",
    "shaded": "noto",
}  # style word -> icon package

RELATIONS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}

COUNTS: dict[int, str] = {1: "one", 2: "two", 3: "three"}

IRREGULAR_PLURALS: dict[str, str] = {
    "mouse": "mice",
    "fish": "fish",
    "butterfly": "butterflies",
    "puppy": "puppies",
    "bunny": "bunnies",
    "strawberry": "strawberries",
    "leaf": "leaves",
    "trophy": "trophies",
    "ruby": "rubies",
    "teddy": "teddies",
}

OTHER_WORDS = (
    "a",
    "an",
    "the",
    "of",
    "on",
    "in",
    "to",
    "and",
    "with",
    "background",
    "style",
    "picture",
    "drawing",
    "next",
)


def groups() -> dict[str, list[str]]:
    """Object names by group, in the order of the table."""
    result: dict[str, list[str]] = {}
    for name, (group, _, _) in OBJECTS.items():
        result.setdefault(group, []).append(name)
    return result


def plural(word: str) -> str:
    """The plural as captions write it."""
    if word in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[word]
    if word.endswith(("s", "x", "ch", "sh")) or word in ("tomato",):
        return word + "es"
    return word + "s"


def article(word: str) -> str:
    """`a` or `an`, by sound for the words that occur here."""
    return "an" if word[0] in "aeio" or word in ("umbrella",) else "a"


def words() -> list[str]:
    """Every word that a caption can hold, sorted, without plural endings that the tokenizer splits off."""
    found: set[str] = set(OTHER_WORDS) | set(SHAPES) | set(SHAPE_COLOURS) | set(BACKGROUND_COLOURS)
    found |= (
        set(SIZES)
        | {w for ws in SIZE_SYNONYMS.values() for w in ws}
        | set(STYLES)
        | set(COUNTS.values())
    )
    found |= {w for phrases in RELATIONS.values() for phrase in phrases for w in phrase.split()}
    for name, (_, _, synonyms) in OBJECTS.items():
        for word in (name, *synonyms):
            found.add(word)
            if word in IRREGULAR_PLURALS:
                found.add(IRREGULAR_PLURALS[word])
    return sorted(found)
