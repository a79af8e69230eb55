"""The names and words that genres are written with; all common enough to be one token in most tokenizers.

`training` and `held_out` of `genre.py` split them by place, so their order is part of what they are.
"""

WOMEN = (
    "Mary", "Anna", "Emma", "Sarah", "Laura", "Julia", "Alice", "Jane", "Kate", "Lucy", "Grace",
    "Helen", "Ruth", "Clara", "Rose", "Ellen", "Emily", "Amy", "Susan", "Diana", "Maria", "Sophie",
    "Nina", "Eva", "Martha", "Rachel", "Rebecca", "Jennifer", "Jessica", "Lisa", "Linda", "Karen",
    "Nancy", "Carol", "Margaret", "Elizabeth",
    "Ada", "Agnes", "Amanda", "Amelia", "Andrea", "Angela", "Anne", "Audrey", "Barbara", "Beatrice",
    "Bella", "Betty", "Brenda", "Bridget", "Caroline", "Catherine", "Cecilia", "Charlotte", "Chloe",
    "Christine", "Clare", "Cora", "Daisy", "Deborah", "Donna", "Dora", "Dorothy", "Edith",
    "Eleanor", "Elsa", "Erica", "Esther", "Ethel", "Fiona", "Flora", "Gloria", "Hannah", "Harriet",
    "Heather", "Ida", "Irene", "Iris", "Isabel", "Ivy", "Jean", "Joan", "Joyce", "Judith",
    "Kathleen", "Lena", "Lily", "Louise", "Lydia", "Mabel", "Melissa", "Mia", "Michelle", "Molly",
    "Monica", "Naomi", "Natalie", "Nora", "Olga", "Olivia",
)  # fmt: skip
MEN = (
    "John", "Tom", "James", "Peter", "Paul", "Mark", "David", "Daniel", "Simon", "Adam", "Ben",
    "Sam", "Jack", "Henry", "George", "Robert", "William", "Charles", "Thomas", "Joseph",
    "Michael", "Andrew", "Martin", "Oliver", "Leo", "Max", "Frank", "Fred", "Arthur", "Walter",
    "Edward", "Richard", "Luke", "Jacob", "Eric", "Kevin",
    "Aaron", "Abel", "Albert", "Alfred", "Anthony", "Arnold", "Benjamin", "Bernard", "Brian",
    "Bruce", "Carl", "Colin", "Craig", "Cyril", "Dennis", "Derek", "Donald", "Douglas", "Duncan",
    "Edgar", "Edwin", "Ernest", "Eugene", "Felix", "Gerald", "Gilbert", "Gordon", "Graham",
    "Gregory", "Harold", "Harry", "Harvey", "Herbert", "Howard", "Hugh", "Hugo", "Ian", "Isaac",
    "Ivan", "Jason", "Jeremy", "Jerome", "Jonas", "Keith", "Kenneth", "Lawrence", "Leonard",
    "Lewis", "Louis", "Malcolm", "Marcus", "Matthew", "Maurice", "Nathan", "Neil", "Nicholas",
    "Norman", "Oscar", "Otto", "Patrick", "Philip", "Ralph", "Raymond", "Roger",
)  # fmt: skip
NAMES = tuple(name for pair in zip(WOMEN, MEN, strict=True) for name in pair)
"""Women and men in turn."""

ANIMALS = (
    "cat", "dog", "horse", "cow", "sheep", "goat", "bird", "duck", "fish", "frog", "bear", "wolf",
    "lion", "mouse", "rabbit", "snake",
)  # fmt: skip
COLOURS = (
    "red", "blue", "green", "yellow", "black", "white", "brown", "grey", "pink", "purple",
    "orange", "silver",
)  # fmt: skip
FOODS = (
    "apple", "bread", "cheese", "cake", "soup", "rice", "egg", "milk", "butter", "meat", "salt",
    "sugar", "honey", "pear", "lemon", "corn",
)  # fmt: skip
CLOTHES = (
    "hat", "coat", "shirt", "shoe", "dress", "glove", "scarf", "belt", "boot", "cap", "skirt",
    "jacket",
)  # fmt: skip
TOOLS = (
    "hammer", "knife", "saw", "nail", "rope", "brush", "needle", "axe", "wheel", "drill", "lamp",
    "ladder",
)  # fmt: skip
CATEGORIES = {
    "animal": ANIMALS,
    "colour": COLOURS,
    "food": FOODS,
    "clothes": CLOTHES,
    "tool": TOOLS,
}

GIFTS = (
    "book", "ring", "key", "letter", "box", "drink", "ball", "card", "map", "bag", "cup", "gift",
    "pen", "ticket", "coin", "basket", "picture", "flower", "toy", "phone", "apple", "cake",
)  # fmt: skip
PLACES = (
    "park", "store", "school", "garden", "house", "station", "market", "library", "office", "beach",
    "church", "hospital", "farm", "museum", "river", "bridge", "kitchen", "hotel",
)  # fmt: skip
THINGS = (
    ("key", "keys"), ("boat", "boats"), ("door", "doors"), ("car", "cars"), ("picture", "pictures"),
    ("letter", "letters"), ("boy", "boys"), ("girl", "girls"), ("dog", "dogs"), ("tree", "trees"),
    ("book", "books"), ("teacher", "teachers"), ("road", "roads"), ("house", "houses"),
    ("bird", "birds"), ("window", "windows"), ("horse", "horses"), ("table", "tables"),
    ("friend", "friends"), ("garden", "gardens"), ("chair", "chairs"), ("river", "rivers"),
    ("doctor", "doctors"), ("ship", "ships"), ("farmer", "farmers"), ("lamp", "lamps"),
    ("song", "songs"), ("bridge", "bridges"), ("king", "kings"), ("stone", "stones"),
    ("sister", "sisters"), ("hat", "hats"),
)  # fmt: skip
"""Nouns, singular and plural."""
LABELS = (
    "one", "two", "three", "four", "five", "six", "seven", "left", "right", "north", "south",
    "east", "west", "first", "last", "top",
)  # fmt: skip
OTHER = (
    "time", "water", "hand", "day", "night", "world", "word", "head", "light", "room", "story",
    "morning", "winter", "summer", "music", "paper", "glass", "sun", "moon", "rain", "snow", "wind",
    "fire", "stone", "long", "short", "old", "new", "good", "small", "great", "warm", "cold", "dark",
    "high", "low", "soft", "hard", "fast", "slow", "run", "walk", "sing", "read", "write", "sleep",
    "come", "take", "make", "find", "open", "close", "call", "turn", "now", "then", "here", "there",
    "soon", "never", "always", "often", "under", "over", "with", "from", "about", "after", "before",
)  # fmt: skip
POOL = tuple(
    dict.fromkeys(
        word
        for group in (*CATEGORIES.values(), GIFTS, PLACES, LABELS, OTHER, NAMES)
        for word in group
    )
)
"""All single words, each once."""
