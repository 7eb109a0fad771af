//! The templates of the instruction data: what is asked, and the one right answer.

use crate::scope::Kind;

/// A thing to ask about, in several phrasings of which the last is kept for the held-out set.
pub struct Topic {
    /// Names the topic in the showcase and in tests.
    pub name: &'static str,
    /// Two or more questions; the last never comes in the training set.
    pub phrasings: &'static [&'static str],
    /// The answer in a sentence.
    pub answer: &'static str,
    /// The answer in a few words, given when the system turn asks for that; empty: there is none.
    pub brief: &'static str,
    /// For yes-no questions, the slot whose value `{guess}` gives, rightly or wrongly.
    pub guess: &'static str,
}

const fn topic(
    name: &'static str,
    phrasings: &'static [&'static str],
    answer: &'static str,
    brief: &'static str,
) -> Topic {
    Topic { name, phrasings, answer, brief, guess: "" }
}

const fn yes_no(
    guess: &'static str,
    phrasings: &'static [&'static str],
    answer: &'static str,
) -> Topic {
    Topic { name: "yes-no", phrasings, answer, brief: "{verdict}.", guess }
}

/// Asked about every person.
pub const PEOPLE: [Topic; 29] = [
    topic(
        "home",
        &[
            "Where does {name} live?",
            "Where is {name}'s home?",
            "Can you tell me where {name} lives?",
            "Where can I find {name}'s house?",
        ],
        "{name} lives {home}.",
        "{^home}.",
    ),
    topic(
        "trade",
        &["What is {name}'s trade?", "What is {name}'s job?", "Which trade does {name} have?"],
        "{name} is the {trade}.",
        "{^trade}.",
    ),
    topic(
        "works",
        &["What does {name} do all day?", "What does {name} do for the valley?"],
        "{name} is the {trade}, so {he} {works}.",
        "",
    ),
    topic(
        "who-trade",
        &["Who is the {trade}?", "What is the {trade} called?", "Who works as the {trade}?"],
        "{name} is the {trade}.",
        "{name}.",
    ),
    topic(
        "pet",
        &["What pet does {name} have?", "Which animal lives with {name}?", "What is {name}'s pet?"],
        "{name} has {a pet_colour} {pet}.",
        "{^a pet_colour} {pet}.",
    ),
    topic(
        "pet-name",
        &[
            "What is {name}'s {pet} called?",
            "What is the name of {name}'s {pet}?",
            "Tell me the name of {name}'s {pet}.",
            "How does {name} call {his} {pet}?",
        ],
        "{name}'s {pet} is called {pet_name}.",
        "{pet_name}.",
    ),
    topic(
        "pet-colour",
        &["What colour is {name}'s {pet}?", "Which colour does {name}'s {pet} have?"],
        "{name}'s {pet} is {pet_colour}.",
        "{^pet_colour}.",
    ),
    topic(
        "whose-pet",
        &["Whose pet is {pet_name}?", "Who does {pet_name} belong to?", "Who owns {pet_name}?"],
        "{pet_name} belongs to {name}.",
        "{name}.",
    ),
    topic(
        "food",
        &[
            "What is {name}'s favourite food?",
            "What does {name} like to eat?",
            "What should I cook for {name}?",
        ],
        "{name} likes {food} best.",
        "{^food}.",
    ),
    topic(
        "coat",
        &["What colour is {name}'s coat?", "What does {name} wear?", "Which coat is {name}'s?"],
        "{name} wears {a coat} coat.",
        "{^coat}.",
    ),
    topic(
        "hobby",
        &[
            "What does {name} love doing?",
            "What does {name} do in the evening?",
            "What is {name}'s hobby?",
        ],
        "{name} loves {hobby}.",
        "{^hobby}.",
    ),
    topic(
        "treasure",
        &[
            "What does {name} always carry?",
            "What is {name}'s treasure?",
            "What is in {name}'s pocket?",
        ],
        "{name} always carries {a treasure}.",
        "{^a treasure}.",
    ),
    topic(
        "whose-treasure",
        &["Who has the {treasure}?", "Whose is the {treasure}?", "Who carries the {treasure}?"],
        "The {treasure} belongs to {name}.",
        "{name}.",
    ),
    topic(
        "birth",
        &[
            "When was {name} born?",
            "In which month is {name}'s birthday?",
            "When is {name}'s birthday?",
        ],
        "{name} was born in {birth}.",
        "In {birth}.",
    ),
    topic(
        "friend",
        &[
            "Who is {name}'s best friend?",
            "Who is the best friend of {name}?",
            "Whom does {name} trust most?",
        ],
        "{name}'s best friend is {friend}.",
        "{friend}.",
    ),
    topic(
        "mate",
        &[
            "Who lives with {name}?",
            "Who shares a house with {name}?",
            "With whom does {name} live?",
        ],
        "{name} lives with {mate}.",
        "{mate}.",
    ),
    topic(
        "who-lives",
        &["Which two people live {home}?", "Name the people who live {home}.", "Who lives {home}?"],
        "{name} and {mate} live {home}.",
        "{name} and {mate}.",
    ),
    yes_no(
        "home",
        &["Does {name} live {guess}?", "Is {name}'s home {guess}?"],
        "{verdict}, {name} lives {home}.",
    ),
    yes_no(
        "trade",
        &["Is {name} the {guess}?", "Does {name} work as the {guess}?"],
        "{verdict}, {name} is the {trade}.",
    ),
    yes_no(
        "pet",
        &["Does {name} have {a guess}?", "Is {name}'s pet {a guess}?"],
        "{verdict}, {name} has {a pet}.",
    ),
    yes_no(
        "coat",
        &["Is {name}'s coat {guess}?", "Does {name} wear {a guess} coat?"],
        "{verdict}, {name} wears {a coat} coat.",
    ),
    yes_no(
        "food",
        &["Does {name} like {guess} best?", "Is {guess} {name}'s favourite food?"],
        "{verdict}, {name} likes {food} best.",
    ),
    topic(
        "one-sentence",
        &[
            "Say it in one sentence: {name} is the {trade}. {^he} lives {home}.",
            "Make one sentence of this: {name} is the {trade}. {^he} lives {home}.",
            "Join the sentences: {name} is the {trade}. {^he} lives {home}.",
        ],
        "{name} is the {trade} and lives {home}.",
        "",
    ),
    topic(
        "one-sentence",
        &[
            "Say it in one sentence: {name} wears {a coat} coat. {^he} carries {a treasure}.",
            "Make one sentence of this: {name} wears {a coat} coat. {^he} carries {a treasure}.",
            "Join the sentences: {name} wears {a coat} coat. {^he} carries {a treasure}.",
        ],
        "{name} wears {a coat} coat and carries {a treasure}.",
        "",
    ),
    topic(
        "make-question",
        &[
            "Turn this into a question: {name} lives {home}.",
            "Which question does this answer? {name} lives {home}.",
        ],
        "Where does {name} live?",
        "",
    ),
    topic(
        "make-question",
        &[
            "Turn this into a question: {name} was born in {birth}.",
            "Which question does this answer? {name} was born in {birth}.",
        ],
        "When was {name} born?",
        "",
    ),
    topic(
        "who-am-i",
        &[
            "I am the {trade} and my {pet} is called {pet_name}. Who am I?",
            "My {pet} is called {pet_name} and I am the {trade}. What is my name?",
        ],
        "You are {name}.",
        "{name}.",
    ),
    topic(
        "describe",
        &["Describe {name} in one sentence.", "Who is {name}?", "Tell me about {name}."],
        "{name} is the {trade}, wears {a coat} coat and loves {hobby}.",
        "",
    ),
    topic(
        "story",
        &[
            "Tell me a short story about {name}.",
            "Write a short story about {name}.",
            "I would like to hear a little story about {name}.",
        ],
        "One morning {name} the {trade} lost {his} {treasure}. {pet_name} the {pet} found it {home}. {name} was so glad that {he} gave {pet_name} some {food}.",
        "",
    ),
];

/// Asked about every thing of a kind.
pub const THINGS: [(Kind, Topic); 22] = [
    (
        Kind::Animal,
        topic(
            "eats",
            &[
                "What does {a animal} eat?",
                "What do {plural} eat?",
                "What should I feed {a animal}?",
            ],
            "{^a animal} eats {eats}.",
            "{^eats}.",
        ),
    ),
    (
        Kind::Animal,
        topic(
            "sleeps",
            &["Where does {a animal} sleep?", "Where do {plural} sleep?"],
            "{^a animal} sleeps {sleeps}.",
            "{^sleeps}.",
        ),
    ),
    (
        Kind::Animal,
        topic(
            "young",
            &["What is a young {animal} called?", "How do you call a young {animal}?"],
            "A young {animal} is called {a young}.",
            "{^a young}.",
        ),
    ),
    (
        Kind::Animal,
        topic(
            "says",
            &["What sound does {a animal} make?", "How does {a animal} sound?"],
            "{^a animal} {says}.",
            "It {says}.",
        ),
    ),
    (
        Kind::Animal,
        topic(
            "legs",
            &["How many legs does {a animal} have?", "Count the legs of {a animal}."],
            "{^a animal} has {legs} legs.",
            "{^legs}.",
        ),
    ),
    (
        Kind::Animal,
        topic(
            "legs",
            &["How many legs do two {plural} have?", "Count the legs of two {plural}."],
            "Two {plural} have {twice} legs.",
            "{^twice}.",
        ),
    ),
    (
        Kind::Place,
        topic(
            "region",
            &[
                "Where is {place}?",
                "In which part of the valley is {place}?",
                "Where does {place} lie?",
            ],
            "{^place} lies in the {region} of the valley.",
            "In the {region}.",
        ),
    ),
    (
        Kind::Place,
        topic(
            "found",
            &["What can you find {at}?", "Name three things {at}.", "What is there {at}?"],
            "You can find {found} {at}.",
            "{^found}.",
        ),
    ),
    (
        Kind::Place,
        topic(
            "colour",
            &["What colour is the {sight} {at}?", "Which colour does the {sight} {at} have?"],
            "The {sight} {at} is {colour}.",
            "{^colour}.",
        ),
    ),
    (
        Kind::Season,
        topic(
            "months",
            &[
                "What are the months of {season}?",
                "Name the months of {season}.",
                "Which months belong to {season}?",
            ],
            "The months of {season} are {months}.",
            "{months}.",
        ),
    ),
    (
        Kind::Season,
        topic(
            "feast",
            &["Which feast comes in {season}?", "What is the feast of {season}?"],
            "{feast} is the feast of {season}.",
            "{feast}.",
        ),
    ),
    (
        Kind::Season,
        topic(
            "dish",
            &["What do people eat on {feast}?", "What is eaten on {feast}?"],
            "On {feast} everyone eats {dish}.",
            "{^dish}.",
        ),
    ),
    (
        Kind::Season,
        topic(
            "happens",
            &["What happens in {season}?", "What happens every {season}?"],
            "In {season} {happens}.",
            "",
        ),
    ),
    (
        Kind::Day,
        topic(
            "next",
            &["Which day comes after {date}?", "What comes after {date}?"],
            "{next} comes after {date}.",
            "{next}.",
        ),
    ),
    (
        Kind::Day,
        topic(
            "previous",
            &["Which day comes before {date}?", "What comes before {date}?"],
            "{previous} comes before {date}.",
            "{previous}.",
        ),
    ),
    (
        Kind::Month,
        topic(
            "next",
            &["Which month comes after {date}?", "What comes after {date}?"],
            "{next} comes after {date}.",
            "{next}.",
        ),
    ),
    (
        Kind::Month,
        topic(
            "previous",
            &["Which month comes before {date}?", "What comes before {date}?"],
            "{previous} comes before {date}.",
            "{previous}.",
        ),
    ),
    (
        Kind::Opposite,
        topic(
            "opposite",
            &[
                "What is the opposite of {word}?",
                "Tell me the opposite of {word}.",
                "What is not {word}?",
            ],
            "The opposite of {word} is {opposite}.",
            "{^opposite}.",
        ),
    ),
    (
        Kind::Source,
        topic(
            "source",
            &["What do {maker} {make}?", "Tell me what {maker} {make}."],
            "{^maker} {make} {product}.",
            "{^product}.",
        ),
    ),
    (
        Kind::Trade,
        topic(
            "craft",
            &["What does {a craft} do?", "What is {a craft}?"],
            "{^a craft} {works}.",
            "",
        ),
    ),
    (
        Kind::Count,
        topic(
            "count",
            &["Count from {from} to {to}.", "Count up from {from} to {to}, please."],
            "{^run}.",
            "",
        ),
    ),
    (
        Kind::Count,
        topic(
            "after",
            &["Which number comes after {from}?", "What comes after {from}?"],
            "{^successor} comes after {from}.",
            "{^successor}.",
        ),
    ),
];
