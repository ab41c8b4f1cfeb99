"""The word lists of the English rules: members of a group exclude each other in a picture, and none is near another.

A word of two kinds (`orange`, `light`, `watch`) stands in no list, or only in one where it is read rightly.
"""

from __future__ import annotations

NOUNS: tuple[tuple[str, ...], ...] = (
    ("dog", "cat", "horse", "cow", "sheep", "pig", "goat", "rabbit", "elephant", "lion", "tiger", "giraffe", "zebra",
     "monkey", "wolf", "fox", "deer", "squirrel", "hedgehog", "kangaroo", "camel", "panda", "koala", "polar bear",
     "teddy bear", "hamster", "mouse", "otter", "raccoon"),
    ("owl", "eagle", "parrot", "penguin", "swan", "chicken", "pigeon", "flamingo", "peacock", "ostrich"),
    ("shark", "dolphin", "octopus", "jellyfish", "turtle", "crab", "seahorse", "lobster"),
    ("butterfly", "spider", "ladybug", "dragonfly", "snail", "grasshopper"),
    ("dinosaur", "dragon", "unicorn", "mermaid", "robot", "alien", "zombie", "astronaut"),
    ("man", "woman"), ("boy", "girl"), ("king", "queen"), ("prince", "princess"), ("grandmother", "grandfather"),
    ("mother", "father"), ("bride", "groom"),
    ("firefighter", "policeman", "doctor", "chef", "farmer", "soldier", "pirate", "clown", "knight", "ballerina",
     "wizard", "cowboy", "samurai"),
    ("car", "bicycle", "motorcycle", "truck", "bus", "tractor", "skateboard", "tank"),
    ("airplane", "helicopter", "hot air balloon", "rocket"),
    ("sailboat", "canoe", "submarine", "cruise ship"),
    ("apple", "banana", "strawberry", "pineapple", "watermelon", "lemon", "pear", "cherry", "coconut", "pumpkin"),
    ("carrot", "tomato", "broccoli", "mushroom", "cucumber", "onion", "potato"),
    ("pizza", "hamburger", "hot dog", "sandwich", "sushi", "salad", "taco", "pancake", "spaghetti"),
    ("cake", "donut", "cookie", "ice cream", "croissant", "muffin"),
    ("coffee", "tea", "beer", "wine", "milk", "lemonade"),
    ("guitar", "piano", "violin", "trumpet", "saxophone", "flute", "accordion", "harp"),
    ("chair", "table", "sofa", "bed", "bookshelf", "wardrobe", "bathtub", "lamp"),
    ("laptop", "telephone", "camera", "television", "typewriter", "radio"),
    ("hat", "helmet", "crown", "turban", "sombrero"),
    ("dress", "suit", "kimono", "tuxedo", "swimsuit", "raincoat"),
    ("castle", "lighthouse", "skyscraper", "windmill", "igloo", "pyramid", "church", "barn", "treehouse"),
    ("sunflower", "tulip", "cactus", "palm tree", "bonsai", "orchid"),
    ("basketball", "football", "tennis racket", "surfboard", "snowboard", "frisbee"),
    ("knife", "fork", "spoon", "chopstick"),
    ("umbrella", "suitcase", "backpack", "basket", "balloon", "kite"),
    ("circle", "square", "triangle", "star", "hexagon"),
    ("cube", "sphere", "cone", "cylinder"),
)  # fmt: skip
"""Things, by kind; each singular."""

COLORS = ("red", "blue", "green", "yellow", "purple", "pink", "black", "white", "brown", "orange", "gray")
MATERIALS = ("wooden", "metal", "glass", "plastic", "stone", "leather", "paper", "crystal", "knitted")
PATTERNS = ("striped", "plaid", "floral", "spotted", "checkered")
MOODS = ("happy", "sad", "angry", "frightened", "bored")
HAIR = ("blond", "brunette", "bald")
ALSO_NOUNS = frozenset((
    "orange", "square", "glass", "plastic", "stone", "leather", "paper", "crystal", "metal", "open",
))  # fmt: skip
"""Attributes only where a noun follows: a metal cup, not a cup of metal."""
EXCLUSIVE = (COLORS, MATERIALS, PATTERNS, MOODS, HAIR)
"""Attributes of which a thing has one."""

OPPOSITES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("large", "big", "huge", "giant", "enormous", "gigantic"), ("small", "tiny", "little", "miniature")),
    (("tall",), ("short",)),
    (("long",), ("short",)),
    (("thick",), ("thin",)),
    (("fat", "chubby"), ("skinny",)),
    (("wide",), ("narrow",)),
    (("young",), ("elderly",)),
    (("modern", "futuristic"), ("ancient", "medieval")),
    (("wet",), ("dry",)),
    (("clean",), ("dirty", "muddy")),
    (("empty",), ("full",)),
    (("open",), ("closed",)),
    (("round",), ("square",)),
    (("fluffy", "furry", "hairy"), ("hairless",)),
    (("smooth",), ("rough",)),
    (("shiny", "glossy"), ("matte",)),
    (("smiling", "laughing"), ("crying", "frowning")),
    (("broken", "ruined"), ("intact",)),
    (("transparent",), ("opaque",)),
    (("curly",), ("straight",)),
)
"""Attributes that exclude each other: every word of one side with every word of the other."""

POSITIONS: tuple[tuple[str, str], ...] = (
    ("to the left of", "to the right of"),
    ("on the left side of", "on the right side of"),
    ("left of", "right of"),
    ("on the left", "on the right"),
    ("above", "below"),
    ("on top of", "underneath"),
    ("on top of", "under"),
    ("on top of", "beneath"),
    ("in front of", "behind"),
    ("inside of", "outside of"),
    ("inside", "outside"),
    ("next to", "far away from"),
    ("beside", "far away from"),
    ("close to", "far away from"),
    ("in the foreground", "in the background"),
    ("at the top of", "at the bottom of"),
    ("facing left", "facing right"),
    ("facing the camera", "facing away from the camera"),
    ("upside down", "upright"),
    ("larger than", "smaller than"),
    ("bigger than", "smaller than"),
    ("taller than", "shorter than"),
    ("leaving", "entering"),
)
"""Positions, movements and comparisons that exclude each other; where several share one, the first is the answer."""

MOVEMENTS = ("sit", "stand", "run", "sleep", "swim", "fly", "crawl", "walk")
"""What one does without an object; nobody does two of them at once."""
ACTIONS: tuple[tuple[str, str], ...] = (
    ("push", "pull"),
    ("throw", "catch"),
    ("climb", "descend"),
    ("chase", "ignore"),
    ("hug", "fight"),
    ("build", "destroy"),
    ("rise", "fall"),
    ("eat", "juggle"),
    ("carry", "kick"),
    ("drink", "pour"),
)
"""What excludes each other, both without a preposition."""
DIRECTED = (
    "chasing", "hugging", "kissing", "feeding", "carrying", "following", "biting", "pulling", "pushing", "riding",
    "holding", "lifting", "watching", "kicking", "catching", "licking", "behind", "above", "below", "under", "beneath",
    "on top of", "in front of", "to the left of", "to the right of", "larger than", "smaller than", "taller than",
)  # fmt: skip
"""Relations that are not the same the other way round: their two sides may change places."""

PLACES: tuple[tuple[str, str], ...] = (
    ("on", "beach"), ("in", "desert"), ("in", "forest"), ("in", "jungle"), ("in", "kitchen"), ("in", "bedroom"),
    ("in", "bathroom"), ("in", "office"), ("in", "classroom"), ("in", "library"), ("in", "garage"), ("in", "cave"),
    ("in", "swamp"), ("in", "museum"), ("in", "church"), ("in", "supermarket"), ("in", "prison"), ("on", "moon"),
    ("in", "meadow"), ("in", "city"), ("in", "restaurant"), ("in", "hospital"), ("on", "playground"),
    ("in", "stadium"), ("in", "snow"), ("on", "farm"),
)  # fmt: skip
"""Places with the preposition they take."""
CONTEXTS: tuple[tuple[str, ...], ...] = (
    ("at night", "at midnight"),
    ("at noon", "in broad daylight", "during the day", "in the daytime"),
    ("at sunset", "at sunrise", "at dawn", "at dusk"),
)
"""Times of day: of one line near-synonyms, of two lines not."""
EXCLUSIVE_CONTEXTS: tuple[tuple[str, ...], ...] = (
    ("in winter", "in summer"),
    ("in the rain", "in the sunshine", "in the fog", "in a snowstorm"),
    ("rainy", "sunny", "foggy", "snowy"),
    ("underwater", "in outer space"),
    ("indoors", "outdoors"),
    ("oil painting", "photograph", "pencil drawing", "watercolor painting", "pixel art", "3D render", "mosaic",
     "woodcut", "cartoon"),
)  # fmt: skip
"""Seasons, weathers, surroundings and media; members of a line exclude each other."""

NEAR_SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("red", "crimson", "scarlet", "ruby"),
    ("purple", "violet", "lavender"),
    ("gray", "grey"),
    ("blue", "azure", "cobalt", "navy"),
    ("green", "emerald"),
    ("pink", "rose", "magenta"),
    ("golden", "gold"),
    ("yellow", "lemon-colored"),
    ("beige", "cream", "ivory"),
    ("large", "big", "huge", "giant", "enormous", "gigantic", "massive", "oversized"),
    ("small", "tiny", "little", "miniature", "petite"),
    ("old", "elderly", "aged", "ancient", "antique"),
    ("modern", "contemporary", "futuristic"),
    ("happy", "joyful", "cheerful", "smiling", "laughing", "grinning"),
    ("sad", "unhappy", "crying", "frowning"),
    ("angry", "furious"),
    ("frightened", "scared", "afraid"),
    ("sofa", "couch", "settee"),
    ("car", "automobile", "sedan"),
    ("airplane", "plane", "aeroplane", "jet", "aircraft"),
    ("bicycle", "bike"),
    ("motorcycle", "motorbike"),
    ("truck", "lorry"),
    ("telephone", "phone"),
    ("television", "tv"),
    ("laptop", "computer", "notebook"),
    ("photograph", "photo", "picture", "image"),
    ("drawing", "sketch", "illustration"),
    ("woman", "lady", "female"),
    ("man", "guy", "gentleman", "male"),
    ("boy", "lad"),
    ("child", "kid"),
    ("dog", "puppy", "hound"),
    ("cat", "kitten", "kitty"),
    ("rabbit", "bunny", "hare"),
    ("pig", "hog"),
    ("horse", "pony"),
    ("rock", "stone", "boulder"),
    ("road", "street"),
    ("forest", "woods", "woodland"),
    ("ocean", "sea"),
    ("hat", "cap"),
    ("donut", "doughnut"),
    ("hamburger", "burger"),
    ("wooden", "wood"),
    ("metal", "metallic", "steel"),
    ("running", "sprinting", "jogging", "racing"),
    ("walking", "strolling", "wandering"),
    ("jumping", "leaping", "hopping"),
    ("sleeping", "napping", "dozing"),
    ("sitting", "seated"),
    ("under", "beneath", "underneath", "below"),
    ("above", "over"),
    ("beside", "near", "alongside"),
    ("sunset", "dusk"),
    ("sunrise", "dawn"),
    ("night", "nighttime", "midnight"),
    ("rainy", "wet"),
    ("foggy", "misty"),
)
"""Words whose exchange changes nothing, or not enough, in a picture."""

FILLERS = frozenset((
    "a", "an", "the", "very", "really", "quite", "so", "beautiful", "nice", "lovely", "pretty", "gorgeous",
    "stunning", "cute", "adorable", "amazing", "high", "quality", "highly", "detailed", "intricate",
    "masterpiece", "is", "are", "that", "which", "some",
))  # fmt: skip
"""Words that may come or go without another picture."""

FIXED = (
    "hot dog", "teddy bear", "polar bear", "sea lion", "guinea pig", "palm tree", "christmas tree", "orange juice",
    "black hole", "blue whale", "red panda", "white house", "black and white", "red carpet", "blue jay", "black bear",
    "brown bear", "mountain lion", "fire truck", "police car", "police dog", "school bus", "swimming pool",
    "sleeping bag", "running shoes", "running shoe", "walking stick", "flying saucer", "dining table", "pool table",
    "table lamp", "sea turtle", "green tea", "black tea", "milk tea", "apple tree", "cherry blossom", "cherry tree",
    "white wine", "red wine", "traffic light", "pixel art", "stained glass", "magnifying glass", "wine glass",
    "glass of", "sheet of", "full moon", "full of", "full body", "short hair", "little prince", "little mermaid",
    "open air", "wide angle", "long exposure", "star wars", "times square", "snow white", "spider web", "cat ears",
)  # fmt: skip
"""Where a word does not mean what it means alone; their words are left as they are, unless the whole is replaced."""

FUNCTION_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "behind", "beside", "between", "by", "for", "from", "in", "inside",
    "is", "made", "near", "of", "on", "or", "over", "the", "to", "under", "with",
))  # fmt: skip
"""What no noun begins with."""

NEGATIONS = frozenset((
    "no", "not", "without", "never", "nothing", "neither", "nor", "isn't", "aren't", "doesn't", "don't",
))  # fmt: skip
"""What follows one of them is absent, and another absence may be just as true."""
