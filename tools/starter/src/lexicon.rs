//! The words of the world: tables that `world` deals out to people, and facts true anywhere.

/// Women's and men's first names; none is an English word.
pub const WOMEN: [&str; 24] = [
    "Mara", "Ada", "Lena", "Nora", "Ida", "Greta", "Elsa", "Rosa", "Tilda", "Hanna", "Clara",
    "Freya", "Marta", "Wilma", "Edith", "Agnes", "Petra", "Sonja", "Vera", "Olga", "Dora", "Linda",
    "Karin", "Bella",
];
/// See [`WOMEN`].
pub const MEN: [&str; 24] = [
    "Tomas", "Anton", "Bruno", "Emil", "Felix", "Gustav", "Hugo", "Ivan", "Jonas", "Karl", "Leo",
    "Milo", "Niko", "Otto", "Pavel", "Rudi", "Simon", "Theo", "Victor", "Walter", "Yuri", "Arno",
    "Boris", "Conrad",
];

/// Trades: the name, and what one does in the third person ("bakes bread").
pub const TRADES: [(&str, &str); 48] = [
    ("baker", "bakes bread"),
    ("miller", "grinds flour"),
    ("smith", "makes horseshoes"),
    ("weaver", "weaves cloth"),
    ("potter", "makes pots"),
    ("carpenter", "builds tables"),
    ("shepherd", "looks after sheep"),
    ("beekeeper", "looks after bees"),
    ("fisher", "catches fish"),
    ("teacher", "teaches children"),
    ("doctor", "helps sick people"),
    ("cook", "cooks dinner"),
    ("tailor", "sews clothes"),
    ("cobbler", "mends shoes"),
    ("gardener", "grows flowers"),
    ("painter", "paints pictures"),
    ("singer", "sings songs"),
    ("fiddler", "plays the fiddle"),
    ("drummer", "plays the drum"),
    ("poet", "writes poems"),
    ("clockmaker", "makes clocks"),
    ("candlemaker", "makes candles"),
    ("toymaker", "makes toys"),
    ("printer", "prints books"),
    ("mapmaker", "draws maps"),
    ("glassblower", "makes glass"),
    ("roofer", "mends roofs"),
    ("mason", "builds walls"),
    ("farmer", "grows wheat"),
    ("goatherd", "looks after goats"),
    ("cheesemaker", "makes cheese"),
    ("brewer", "brews cider"),
    ("innkeeper", "looks after guests"),
    ("grocer", "sells vegetables"),
    ("letter carrier", "brings letters"),
    ("lamplighter", "lights the lamps"),
    ("gatekeeper", "opens the gate"),
    ("bell ringer", "rings the bell"),
    ("librarian", "lends books"),
    ("judge", "settles quarrels"),
    ("barber", "cuts hair"),
    ("hatter", "makes hats"),
    ("dyer", "colours wool"),
    ("boatbuilder", "builds boats"),
    ("woodcutter", "cuts wood"),
    ("ranger", "guards the forest"),
    ("astronomer", "watches the stars"),
    ("storyteller", "tells stories"),
];

/// Where people live; two people share each.
pub const HOMES: [&str; 24] = [
    "at the mill",
    "in the stone tower",
    "by the pond",
    "on Fern Hill",
    "under the big oak",
    "near the bridge",
    "above the bakery",
    "behind the chapel",
    "at the ferry landing",
    "in the red barn",
    "by the lake",
    "at the inn",
    "on Apple Lane",
    "beside the well",
    "in the old school",
    "at the crossroads",
    "by the waterfall",
    "near the quarry",
    "in the boathouse",
    "on the island",
    "at the edge of the forest",
    "next to the market",
    "opposite the library",
    "in the round house",
];

/// Kinds of pets.
pub const PETS: [&str; 16] = [
    "dog", "cat", "goose", "hen", "goat", "pony", "rabbit", "duck", "donkey", "pig", "lamb", "owl",
    "crow", "mouse", "turtle", "otter",
];
/// What colour a pet can be.
pub const PET_COLOURS: [&str; 6] = ["white", "black", "brown", "grey", "spotted", "golden"];
/// Pets' names, one for each person's pet.
pub const PET_NAMES: [&str; 48] = [
    "Pip", "Dot", "Biscuit", "Pepper", "Muffin", "Ginger", "Button", "Clover", "Daisy", "Pebble",
    "Nutmeg", "Thimble", "Bramble", "Acorn", "Whisper", "Shadow", "Sunny", "Ziggy", "Momo",
    "Tuppy", "Fudge", "Olive", "Hazel", "Juniper", "Sprout", "Tinker", "Waffle", "Pickle",
    "Noodle", "Bubble", "Cricket", "Domino", "Feather", "Gizmo", "Jasper", "Kiki", "Lolly",
    "Mango", "Nugget", "Patch", "Quill", "Rascal", "Smoky", "Toffee", "Velvet", "Winnie", "Yoyo",
    "Zorro",
];
/// Favourite foods, all of them mass nouns.
pub const FOODS: [&str; 16] = [
    "pear cake",
    "mushroom soup",
    "apple pie",
    "fresh bread",
    "goat cheese",
    "fried fish",
    "honey cake",
    "onion tart",
    "barley soup",
    "plum jam",
    "roast pumpkin",
    "bean stew",
    "walnut bread",
    "blackberry pudding",
    "egg salad",
    "carrot soup",
];
/// Colours of coats.
pub const COATS: [&str; 8] =
    ["red", "green", "blue", "yellow", "orange", "purple", "black", "white"];
/// What people like to do, as it stands after "loves".
pub const HOBBIES: [&str; 16] = [
    "fishing",
    "dancing",
    "carving spoons",
    "flying kites",
    "climbing trees",
    "playing chess",
    "baking cookies",
    "picking berries",
    "swimming",
    "telling jokes",
    "watching birds",
    "collecting stones",
    "knitting socks",
    "playing the flute",
    "skating",
    "drawing horses",
];
/// The thing each person always carries.
pub const TREASURES: [&str; 48] = [
    "copper bell",
    "brass key",
    "silver whistle",
    "old map",
    "amber ring",
    "tin drum",
    "glass marble",
    "wooden spoon",
    "iron nail",
    "silk ribbon",
    "paper star",
    "golden coin",
    "blue feather",
    "leather bag",
    "small lantern",
    "ivory comb",
    "broken watch",
    "red button",
    "green bottle",
    "stone egg",
    "clay pipe",
    "bone needle",
    "pearl earring",
    "straw hat",
    "linen scarf",
    "copper spoon",
    "brass compass",
    "silver thimble",
    "old letter",
    "amber bead",
    "tin soldier",
    "glass bird",
    "wooden horse",
    "iron hook",
    "silk purse",
    "paper boat",
    "golden bell",
    "white feather",
    "leather belt",
    "small mirror",
    "oak cane",
    "long rope",
    "yellow candle",
    "round stone",
    "clay cup",
    "empty bottle",
    "pearl button",
    "fur glove",
];

/// What is known of a kind of animal.
pub struct Animal {
    /// Singular and plural.
    pub name: &'static str,
    /// The plural.
    pub plural: &'static str,
    /// The young one's name.
    pub young: &'static str,
    /// Its sound, third person singular.
    pub says: &'static str,
    /// What it eats.
    pub eats: &'static str,
    /// Where it sleeps.
    pub sleeps: &'static str,
    /// How many legs it has, as a word.
    pub legs: usize,
}

const fn animal(
    [name, plural, young, says, eats, sleeps]: [&'static str; 6],
    legs: usize,
) -> Animal {
    Animal { name, plural, young, says, eats, sleeps, legs }
}

/// The animals of the valley.
pub const ANIMALS: [Animal; 18] = [
    animal(["dog", "dogs", "puppy", "barks", "meat", "in a kennel"], 4),
    animal(["cat", "cats", "kitten", "purrs", "mice", "on a cushion"], 4),
    animal(["goose", "geese", "gosling", "honks", "grass", "in the reeds"], 2),
    animal(["hen", "hens", "chick", "clucks", "corn", "in a coop"], 2),
    animal(["goat", "goats", "kid", "bleats", "leaves", "in a shed"], 4),
    animal(["pony", "ponies", "foal", "neighs", "oats", "in a stable"], 4),
    animal(["duck", "ducks", "duckling", "quacks", "snails", "in a nest"], 2),
    animal(["donkey", "donkeys", "foal", "brays", "thistles", "in a stable"], 4),
    animal(["pig", "pigs", "piglet", "grunts", "turnips", "in a sty"], 4),
    animal(["sheep", "sheep", "lamb", "bleats", "grass", "in a fold"], 4),
    animal(["owl", "owls", "owlet", "hoots", "mice", "in a hollow tree"], 2),
    animal(["crow", "crows", "chick", "caws", "seeds", "in a nest"], 2),
    animal(["mouse", "mice", "pup", "squeaks", "cheese", "in a hole"], 4),
    animal(["cow", "cows", "calf", "moos", "hay", "in a barn"], 4),
    animal(["frog", "frogs", "tadpole", "croaks", "flies", "under a leaf"], 4),
    animal(["bear", "bears", "cub", "growls", "berries", "in a cave"], 4),
    animal(["wolf", "wolves", "cub", "howls", "meat", "in a den"], 4),
    animal(["lion", "lions", "cub", "roars", "meat", "in the tall grass"], 4),
];

/// What comes from where: plural subject, base verb, thing.
pub const SOURCES: [(&str, &str, &str); 14] = [
    ("bees", "make", "honey"),
    ("cows", "give", "milk"),
    ("hens", "lay", "eggs"),
    ("sheep", "give", "wool"),
    ("spiders", "spin", "webs"),
    ("silkworms", "spin", "silk"),
    ("apple trees", "bear", "apples"),
    ("oaks", "drop", "acorns"),
    ("clouds", "bring", "rain"),
    ("roses", "grow", "thorns"),
    ("vines", "bear", "grapes"),
    ("moles", "dig", "tunnels"),
    ("birds", "build", "nests"),
    ("beavers", "build", "dams"),
];

/// A place of the valley.
pub struct Place {
    /// With its article: "the pond".
    pub name: &'static str,
    /// Preposition and name: "at the pond".
    pub at: &'static str,
    /// "north": it lies in the north of the valley.
    pub region: &'static str,
    /// Three things one finds there.
    pub found: [&'static str; 3],
    /// Something to see there, and its colour.
    pub sight: (&'static str, &'static str),
}

const fn place(
    [name, at, region]: [&'static str; 3],
    found: [&'static str; 3],
    sight: (&'static str, &'static str),
) -> Place {
    Place { name, at, region, found, sight }
}

/// The places of the valley.
pub const PLACES: [Place; 16] = [
    place(["the mill", "at the mill", "north"], ["sacks", "flour", "mice"], ("wheel", "green")),
    place(["the pond", "at the pond", "south"], ["reeds", "frogs", "ducks"], ("boat", "red")),
    place(
        ["the forest", "in the forest", "west"],
        ["mushrooms", "berries", "deer"],
        ("hut", "brown"),
    ),
    place(["the lake", "at the lake", "east"], ["fish", "shells", "swans"], ("ferry", "blue")),
    place(
        ["the market", "at the market", "middle"],
        ["apples", "pots", "ribbons"],
        ("tent", "yellow"),
    ),
    place(
        ["the library", "in the library", "middle"],
        ["books", "maps", "candles"],
        ("door", "purple"),
    ),
    place(
        ["the quarry", "at the quarry", "north"],
        ["stones", "hammers", "dust"],
        ("crane", "black"),
    ),
    place(
        ["the bakery", "in the bakery", "middle"],
        ["loaves", "cakes", "ovens"],
        ("roof", "orange"),
    ),
    place(
        ["the chapel", "in the chapel", "south"],
        ["benches", "bells", "flowers"],
        ("spire", "white"),
    ),
    place(["the inn", "at the inn", "east"], ["guests", "beds", "soup"], ("sign", "golden")),
    place(["the school", "in the school", "west"], ["desks", "chalk", "songs"], ("fence", "white")),
    place(
        ["the orchard", "in the orchard", "south"],
        ["pears", "plums", "bees"],
        ("ladder", "green"),
    ),
    place(["the bridge", "at the bridge", "east"], ["ropes", "lamps", "swallows"], ("rail", "red")),
    place(["the cave", "in the cave", "north"], ["bats", "crystals", "water"], ("gate", "grey")),
    place(
        ["the meadow", "in the meadow", "west"],
        ["clover", "sheep", "butterflies"],
        ("bench", "blue"),
    ),
    place(
        ["the harbour", "at the harbour", "east"],
        ["boats", "nets", "gulls"],
        ("crane", "yellow"),
    ),
];

/// A season: its months, its weather, what happens, its feast and what is eaten at the feast.
pub struct Season {
    /// "spring".
    pub name: &'static str,
    /// Indexes into [`MONTHS`].
    pub months: [usize; 3],
    /// What the weather does, as a sentence without a full stop.
    pub weather: &'static str,
    /// What happens then, likewise.
    pub happens: &'static str,
    /// The feast's name.
    pub feast: &'static str,
    /// What is eaten at the feast.
    pub dish: &'static str,
}

/// The four seasons.
pub const SEASONS: [Season; 4] = [
    Season {
        name: "spring",
        months: [2, 3, 4],
        weather: "soft rain falls",
        happens: "the storks come back",
        feast: "Blossom Day",
        dish: "egg salad",
    },
    Season {
        name: "summer",
        months: [5, 6, 7],
        weather: "the sun is hot",
        happens: "the children swim in the lake",
        feast: "River Night",
        dish: "fried fish",
    },
    Season {
        name: "autumn",
        months: [8, 9, 10],
        weather: "the wind blows hard",
        happens: "the farmers bring in the wheat",
        feast: "Harvest Day",
        dish: "roast pumpkin",
    },
    Season {
        name: "winter",
        months: [11, 0, 1],
        weather: "snow covers the hills",
        happens: "the lake freezes",
        feast: "Lantern Night",
        dish: "honey cake",
    },
];

/// Months from January.
pub const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// Days from Monday.
pub const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
/// Numbers from zero.
pub const NUMBERS: [&str; 17] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
];
/// Pairs of opposites.
pub const OPPOSITES: [(&str, &str); 18] = [
    ("hot", "cold"),
    ("big", "small"),
    ("wet", "dry"),
    ("old", "young"),
    ("fast", "slow"),
    ("loud", "quiet"),
    ("light", "dark"),
    ("full", "empty"),
    ("happy", "sad"),
    ("hard", "soft"),
    ("high", "low"),
    ("long", "short"),
    ("open", "closed"),
    ("clean", "dirty"),
    ("early", "late"),
    ("rich", "poor"),
    ("sweet", "bitter"),
    ("thick", "thin"),
];
