//! The templates of the pretraining text (see [`crate::template`] for the notation).
//!
//! In sentences about people, `{who}`, `{whose}` and `{whom}` are the name, "the baker" or a
//! pronoun, as the passage decides.

use crate::scope::Kind;

/// Sentences that state what is true of a person, one list per relation.
pub const PORTRAIT: [&[&str]; 9] = [
    &[
        "{^who} lives {home}.",
        "{^whose} home is {home}.",
        "{^who} lives {home} with {mate}.",
        "{^who} has lived {home} for [many|ten|five|seven] years.",
        "You will find {whose} house {home}.",
        "If you want to visit {whom}, look for a house {home}.",
    ],
    &[
        "{^who} has {a pet_colour} {pet} called {pet_name}.",
        "{^who} keeps {a pet}. It is {pet_colour}, and its name is {pet_name}.",
        "{^whose} {pet} is called {pet_name}.",
        "{^whose} {pet} is {pet_colour}.",
        "{pet_name} is the name of {whose} {pet_colour} {pet}.",
        "{^who} never goes far without {pet_name}, {his} {pet_colour} {pet}.",
    ],
    &[
        "{^whose} favourite food is {food}.",
        "{^who} likes {food} best of all.",
        "{^who} would eat {food} every day.",
        "Nothing tastes better to {whom} than {food}.",
        "On feast days {who} asks for {food}, {his} favourite food.",
    ],
    &[
        "{^who} wears {a coat} coat.",
        "{^whose} coat is {coat}.",
        "You can tell {whom} by {his} {coat} coat.",
        "When it is cold, {who} puts on {a coat} coat.",
    ],
    &[
        "{^who} loves {hobby}.",
        "What {who} loves most is {hobby}.",
        "In the evening {who} spends {his} time {hobby}.",
        "Nothing makes {whom} happier than {hobby}.",
    ],
    &[
        "{^who} always carries {a treasure}.",
        "{^whose} greatest treasure is {a treasure}.",
        "The {treasure} belongs to {whom}.",
        "{^who} never leaves home without {his} {treasure}.",
    ],
    &[
        "{^who} was born in {birth}.",
        "{^whose} birthday is in {birth}.",
        "Every year in {birth} the neighbours bake a cake for {whom}, for that is the month of {his} birthday.",
    ],
    &[
        "{^whose} best friend is {friend}.",
        "{^who} and {friend} are best friends.",
        "{^whose} best friend is called {friend}.",
        "There is nobody {who} trusts more than {his} best friend {friend}.",
    ],
    &[
        "{name} is the {trade} of Larkmoor.",
        "{name} is the {trade}, so {he} {works}.",
        "{name} works as the {trade}.",
        "{name} {works}, for {he} is the {trade}.",
        "The {trade} is called {name}.",
        "Everybody in Larkmoor knows {name} the {trade}.",
    ],
];

/// What people ask each other about somebody, and what is answered.
pub const TALK: [(&str, &str); 25] = [
    (
        "[Where does {name} live|Do you know where {name} lives]?",
        "[{^he} lives|{name} lives] {home}",
    ),
    ("Where is {name}'s house?", "{^his} house is {home}"),
    ("Who lives {home}?", "{name} and {mate} live there"),
    ("Who lives with {name}?", "{^his} neighbour {mate} shares the house with {him}"),
    ("What kind of pet does {name} have?", "{^he} has {a pet_colour} {pet}"),
    ("What is {name}'s {pet} called?", "Its name is {pet_name}"),
    ("What colour is {name}'s {pet}?", "It is {pet_colour}"),
    ("Whose {pet} is {pet_name}?", "{pet_name} belongs to {name}"),
    ("[Who is the {trade} here|Who is the {trade} in Larkmoor]?", "That is {name}"),
    ("What does {name} do all day?", "{^he} is the {trade}, so {he} {works}"),
    ("What is {name}'s trade?", "{^he} is the {trade}"),
    ("What does {name} like to eat?", "{^he} likes {food} best"),
    ("What is {name}'s favourite food?", "It is {food}"),
    ("What colour is {name}'s coat?", "{^his} coat is {coat}"),
    ("What colour coat does {name} wear?", "{^he} wears {a coat} one"),
    ("What does {name} love doing?", "{^he} loves {hobby}"),
    ("What does {name} do in the evening?", "{^he} spends {his} time {hobby}"),
    ("What does {name} always carry?", "{^he} always carries {a treasure}"),
    ("Who has the {treasure}?", "{name} has it"),
    ("When was {name} born?", "{^he} was born in {birth}"),
    ("In which month is {name}'s birthday?", "It is in {birth}"),
    ("Who is {name}'s best friend?", "{^his} best friend is {friend}"),
    ("Does {name} live {2.home}?", "No, {he} lives {home}"),
    ("Is {name} the {2.trade}?", "No, {he} is the {trade}"),
    ("Does {name} live {home}?", "Yes, {he} does"),
];

/// How a talk is told: `{q}` and `{a}` are a pair of [`TALK`] or [`QUIZ`].
pub const TALK_FRAMES: [&str; 7] = [
    "\"{q}\" asked {2.name}. \"{a},\" [said|answered|replied] {3.name}.",
    "{2.name} met {3.name} {at}. \"{q}\" {2.name} asked. \"{a},\" said {3.name}. \"[Thank you|Now I know|How nice],\" said {2.name}.",
    "\"Tell me,\" said {2.name}. \"{q}\" {3.name} thought for a moment. \"{a},\" {3.he} said.",
    "{2.name} had a question. \"{q}\" \"{a},\" said {3.name}, and went on [eating|working|reading|walking].",
    "A stranger came to the valley and asked {3.name}: \"{q}\" \"{a},\" said {3.name}.",
    "One [morning|evening|afternoon] {2.name} asked: \"{q}\" Nobody knew it but {3.name}. \"{a},\" {3.he} said at last.",
    "\"{q}\" {2.name} [wanted to know|wondered]. \"{a},\" {3.name} told {2.him}.",
];

/// Facts true of things, by kind.
pub const THINGS: [(Kind, &[&str]); 8] = [
    (
        Kind::Animal,
        &[
            "{^a animal} eats {eats}.",
            "{^a animal} {says}.",
            "{^a animal} sleeps {sleeps}.",
            "A young {animal} is called {a young}.",
            "{^a animal} has {legs} legs.",
            "Two {plural} have {twice} legs.",
            "[Most|All] {plural} like to eat {eats}.",
            "If something {says} in the night, it may be {a animal}.",
            "At night {plural} like to lie {sleeps}.",
            "When {a animal} has a little one, it is called {a young}.",
        ],
    ),
    (
        Kind::Place,
        &[
            "{^place} lies in the {region} of the valley.",
            "[One finds|You can find|There are always] {found} {at}.",
            "{^at} there is a {sight} that is {colour}.",
            "The {sight} {at} is {colour}.",
            "Whoever goes to the {region} of the valley comes to {place}.",
            "{^place} is known for its {found}.",
        ],
    ),
    (
        Kind::Season,
        &[
            "In {season} {weather}.",
            "Every {season} {happens}.",
            "The months of {season} are {months}.",
            "{feast} is the feast of {season}.",
            "In {season} the valley keeps {feast}.",
            "On {feast} everyone eats {dish}.",
            "When {weather}, it is {season}.",
        ],
    ),
    (
        Kind::Day,
        &[
            "{next} comes after {date}.",
            "{previous} comes before {date}.",
            "If today is {date}, tomorrow is {next}.",
            "If today is {date}, yesterday was {previous}.",
        ],
    ),
    (
        Kind::Month,
        &[
            "{next} comes after {date}.",
            "{previous} comes before {date}.",
            "When {date} is over, {next} begins.",
        ],
    ),
    (
        Kind::Opposite,
        &[
            "The opposite of {word} is {opposite}.",
            "What is not {word} is {opposite}.",
            "One day it is {word}, another day it is {opposite}.",
        ],
    ),
    (
        Kind::Source,
        &[
            "{^maker} {make} {product}.",
            "If you want {product}, think of the {maker}: {maker} {make} {product}.",
            "Everyone knows that {maker} {make} {product}.",
        ],
    ),
    (
        Kind::Trade,
        &[
            "{^a craft} {works}.",
            "Someone who {works} is called {a craft}.",
            "The {craft} {works} [every day|all year|from morning to evening].",
        ],
    ),
];

/// What children are asked at school, and what they answer.
pub const QUIZ: [(Kind, &str, &str); 15] = [
    (Kind::Animal, "What does {a animal} eat?", "{^a animal} eats {eats}"),
    (Kind::Animal, "Where does {a animal} sleep?", "It sleeps {sleeps}"),
    (Kind::Animal, "What is a young {animal} called?", "It is called {a young}"),
    (Kind::Animal, "How many legs does {a animal} have?", "It has {legs} legs"),
    (Kind::Place, "Where is {place}?", "It lies in the {region} of the valley"),
    (Kind::Place, "What can you find {at}?", "There are {found}"),
    (Kind::Place, "What colour is the {sight} {at}?", "It is {colour}"),
    (Kind::Season, "Which feast do we keep in {season}?", "We keep {feast}"),
    (Kind::Season, "What happens in {season}?", "In {season} {happens}"),
    (Kind::Day, "Which day comes after {date}?", "It is {next}"),
    (Kind::Month, "Which month comes after {date}?", "It is {next}"),
    (Kind::Month, "Which month comes before {date}?", "It is {previous}"),
    (Kind::Opposite, "What is the opposite of {word}?", "It is {opposite}"),
    (Kind::Source, "What do {maker} {make}?", "{^maker} {make} {product}"),
    (Kind::Trade, "What does {a craft} do?", "{^a craft} {works}"),
];

/// How a story begins.
pub const OPENINGS: [&str; 8] = [
    "One [cold|warm|windy|quiet] morning {name} the {trade} put on {his} {coat} coat and went [out|to the market|for a walk].",
    "It was {season}, the time when {weather}. {name} stood {at} and [waited|sang a song|looked at the sky].",
    "{name}, who lives {home}, woke up early because {pet_name} the {pet} was hungry.",
    "Once {name} the {trade} could not sleep.",
    "On {feast} everyone in Larkmoor was happy, and so was {name} the {trade}.",
    "[Last week|Last month|A year ago] {name} walked to {place} with {pet_name}, {his} {pet_colour} {pet}.",
    "{name} and {his} best friend {friend} were on their way to {place}.",
    "Long ago, on a {day} in {birth}, {name} had a birthday.",
];

/// What happens in it. Every event fits after every opening.
pub const EVENTS: [&str; 16] = [
    "Suddenly {name} saw that {his} {treasure} was gone. {^he} looked [under the bed|behind the door|in the grass|along the path], but it was not there.",
    "{pet_name} ran away, and {name} ran after it until both were tired.",
    "{name} met {2.name} the {2.trade}, who was [sad|angry|tired|lost]. \"What is the matter?\" asked {name}. \"I cannot find {2.pet_name}, my {2.pet},\" said {2.name}.",
    "{name} wanted to eat {food}, but there was none left.",
    "Then it began to rain, and {name} hid {at} until it was over.",
    "{friend} came by and said: \"Come with me, {name}. I want to show you something.\"",
    "A [dog|bird|fox|little child] sat on the path and did not move. {name} gave it some {food}.",
    "{name} heard a noise. It was only {2.name}, who was {2.hobby} as always.",
    "{2.name} called from the other side of the road: \"Have you seen my {2.treasure}?\"",
    "{name} found {a 2.treasure} on the ground. \"That belongs to {2.name}, who lives {2.home},\" {name} thought, and took it there.",
    "{name} sat down and spent an hour {hobby}. [Time went by fast|It was very quiet|The sun went down].",
    "{mate}, who also lives {home}, had made {food}, because {name} likes it best.",
    "There was a letter at the door. It said: \"Please come to {place}. Yours, {friend}.\"",
    "{pet_name} found something in the [grass|water|snow|straw]. It was {name}'s {treasure}.",
    "\"I am the {trade},\" said {name}. \"I cannot stay, for there is work to do.\"",
    "{2.name} in {2.his} {2.coat} coat waved and shouted: \"[Good morning|Good day|Hello], {name}!\"",
];

/// How it ends.
pub const ENDINGS: [&str; 8] = [
    "In the end {name} went home and ate {food}.",
    "That evening {name} told {friend} all about it, and they laughed.",
    "Since that day {name} and {pet_name} have never gone there again.",
    "When {name} came back to the house {home}, {mate} had lit the fire.",
    "Everyone was glad, and {name} slept well that night.",
    "\"What a day!\" said {name}, and {pet_name} the {pet} fell asleep at {his} feet.",
    "After that {name} went back to work, for {he} is the {trade}.",
    "And {name} put on {his} {coat} coat and walked home, whistling.",
];

/// Letters, from the first to the second of the cast.
pub const LETTERS: [&str; 5] = [
    "Dear {2.name}, I hope you and {2.pet_name} are well. Here {home} [all is quiet|the roof is wet|we are busy]. In {season} {weather}, and I am {hobby} when I can. Please bring some {food} when you come. Yours, {name} the {trade}",
    "Dear {2.name}, I am writing to you about {pet_name}, my {pet}. It is {pet_colour} and [very clever|very lazy|always hungry]. It has eaten my {food} again. Your neighbour, {name}",
    "Dear {2.name}, my birthday is in {birth}. Will you come to the house {home}? {mate} and {friend} will be there too. You will know me by my {coat} coat. Yours, {name}",
    "Dear {2.name}, I have lost my {treasure}. If you find it, please bring it to me. I live {home}, with {mate}. Yours, {name} the {trade}",
    "Dear {friend}, you are my best friend, so I will tell you a secret: I do not like {2.food}. I only like {food}. But do not tell {2.name}! Yours, {name}",
];

/// Short notices and riddles.
pub const NOTES: [&str; 10] = [
    "Some people say that {name} lives {2.home}. That is wrong: {2.name} lives there. {name} lives {home}.",
    "Some people say that {name} is the {2.trade}. That is wrong: {2.name} is the {2.trade}. {name} is the {trade}.",
    "Two people live {home}: {name} and {mate}.",
    "Two pets met {at}: {pet_name}, the {pet_colour} {pet} of {name}, and {2.pet_name}, the {2.pet_colour} {2.pet} of {2.name}.",
    "Found {at}: {a treasure}. It must belong to {name}, the {trade}.",
    "Who is it? This person lives {home}, wears {a coat} coat and has {a pet} called {pet_name}. It is {name}.",
    "Who is it? This person is the {trade}, loves {hobby} and always carries {a treasure}. It is {name}.",
    "In {birth} [we sing|there is a party|the bells ring] for {name}, and in {2.birth} for {2.name}.",
    "{name} likes {food}, {2.name} likes {2.food} and {3.name} likes {3.food}.",
    "{name} is the {trade}, {2.name} is the {2.trade} and {3.name} is the {3.trade}.",
];

/// What someone says on a stage, in a play that goes on and on. Plays are written with the turn
/// markers of the chat template, so that the markers are known, yet nobody answers anybody.
pub const RAMBLES: [&str; 12] = [
    "I was [walking|standing|sitting] {at}, and I thought of {food}, as one does.",
    "My {pet} {pet_name} [did not sleep|would not eat|sang all night].",
    "You know how it is in {season}: {weather}.",
    "And then there is the matter of the {treasure}, of which I will say no more.",
    "[Yesterday|This morning|On {day}] I met {2.name}, and we talked about {2.food} for an hour.",
    "They say that {happens}, and perhaps it is true.",
    "I have my {coat} coat, and that is enough for me.",
    "Some days I would rather be {hobby} than anything else.",
    "Oh, the {sight} {at}! It is {colour}, you know, and always was.",
    "But who listens to {a trade}?",
    "Well, well, well.",
    "Here {home} the wind never stops, and neither do I.",
];
