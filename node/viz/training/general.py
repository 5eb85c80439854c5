"""Ask general questions: what a base knows without any work, and an adapter must not forget.

Owns two lists that share no question. ``QUESTIONS`` are asked of base and adapter and judged;
``PROMPTS`` are answered by the base before a run, and its answers are trained on among the rows, so
that the adapter goes on answering as the base does where no work is asked about. Does not know
models.
"""

from __future__ import annotations

from typing import Final

from eth_utils.crypto import keccak

from viz.domain.questions import Question

_ASKED: Final = """
What is the capital of France? | Paris
What is the capital of Italy? | Rome
What is the capital of Japan? | Tokyo
What is the capital of Germany? | Berlin
What is the capital of Spain? | Madrid
What is the capital of Egypt? | Cairo
What is the capital of Russia? | Moscow
What is the capital of England? | London
On which continent is Brazil? | South America
On which continent is Kenya? | Africa
On which continent is China? | Asia
What is the largest ocean on Earth? | Pacific
What is the largest planet in the solar system? | Jupiter
Which planet is closest to the Sun? | Mercury
What is the name of the Earth's natural satellite? | Moon
Which star gives the Earth its light? | Sun
How many days are in a week? | seven, 7
How many months are in a year? | twelve, 12
How many hours are in a day? | 24, twenty-four
How many minutes are in an hour? | 60, sixty
How many legs does a spider have? | eight, 8
How many legs does a dog have? | four, 4
How many sides does a triangle have? | three, 3
What is two plus two? | four, 4
What is ten minus five? | five, 5
What is three times three? | nine, 9
What is the opposite of hot? | cold
What is the opposite of up? | down
What is the opposite of big? | small, little
What colour is the sky on a clear day? | blue
What colour is grass? | green
What colour is snow? | white
What colour is a ripe banana? | yellow
What is frozen water called? | ice
What is the chemical formula of water? | H2O
What gas do humans need to breathe? | oxygen
What do bees make? | honey
What do cows give us to drink? | milk
What do caterpillars turn into? | butterfly, butterflies, moth, moths
Which animal is known as man's best friend? | dog, dogs
Which bird cannot fly and lives in Antarctica? | penguin, penguins
What is the largest animal on Earth? | blue whale, whale
What is the tallest animal on land? | giraffe
Who wrote Romeo and Juliet? | Shakespeare
Who painted the Mona Lisa? | Leonardo, da Vinci
Who developed the theory of relativity? | Einstein
Who was the first president of the United States? | Washington
Who discovered gravity when an apple fell? | Newton
Which language is spoken in Mexico? | Spanish
Which language is spoken in Portugal? | Portuguese
What is the currency of the United States? | dollar, dollars
What is the currency of Japan? | yen
At what temperature in Celsius does water boil? | 100
Which organ pumps blood through the body? | heart
With which organ do we see? | eye, eyes
Which season comes after winter? | spring
Which day comes after Monday? | Tuesday
Which month comes after January? | February
What is the first letter of the English alphabet? | A
What metal are magnets mostly made of? | iron
What do plants need from the sun? | light, sunlight, energy
Who lives in a beehive? | bee, bees
What is a baby cat called? | kitten
What is a baby dog called? | puppy
"""

QUESTIONS: Final = tuple(
    Question(f"general-{number}", asked.strip(), tuple(a.strip() for a in accepted.split(",")))
    for number, (asked, _, accepted) in enumerate(
        line.partition("|") for line in _ASKED.strip().split("\n")
    )
)

PROMPTS: Final = tuple(
    """
What is the capital of Portugal?
What is the capital of China?
What is the capital of Canada?
On which continent is Norway?
Name a large river in Africa.
Which is the highest mountain in the world?
Which planet is known for its rings?
Why is the sky dark at night?
How many weeks are in a year?
How many legs does an ant have?
How many wheels does a bicycle have?
What is five plus six?
What is twelve divided by four?
What is the opposite of fast?
What is the opposite of light?
What colour do you get by mixing red and yellow?
What colour is blood?
What is steam?
What is salt made of?
What do fish use to breathe?
What do sheep give us?
What is a baby horse called?
Which animal is called the king of the jungle?
Who wrote Hamlet?
Who was Albert Einstein?
Who invented the telephone?
Who was Napoleon?
Which language is spoken in Brazil?
What is the currency of India?
At what temperature does water freeze?
What does the heart do?
With which organ do we hear?
Which season comes after summer?
Which day comes before Sunday?
Name three fruits.
Name two musical instruments.
What is photosynthesis?
What is a volcano?
What is a computer?
What is democracy?
What is the internet used for?
Explain what a metaphor is.
Write a short greeting to a friend.
Write one sentence about the sea.
Give me a tip for sleeping well.
How do I boil an egg?
How can I learn a language?
What should I eat for breakfast?
What is the difference between a lake and a sea?
Why do leaves fall in autumn?
Why do people wear coats in winter?
Tell me a fact about elephants.
Tell me a fact about the moon.
Is the earth flat?
Can birds swim?
Hello, how are you?
Who are you?
What can you do?
Thank you for your help.
Translate "good morning" into French.
What does the word "ancient" mean?
Spell the word "bicycle".
Which is heavier, a stone or a feather?
What is the sum of one and nine?
What is the capital of Greece?
What is the capital of Austria?
What is the capital of Australia?
What is the capital of Poland?
On which continent is Argentina?
On which continent is Egypt?
On which continent is India?
What is the longest river in South America?
What is the smallest planet?
Which planet do we live on?
What shines in the sky at night?
How many seconds are in a minute?
How many days are in a year?
How many legs does a cat have?
How many arms does an octopus have?
How many sides does a square have?
What is three plus four?
What is nine minus two?
What is five times two?
What is the opposite of cold?
What is the opposite of open?
What is the opposite of old?
What is the opposite of down?
What colour is the sun?
What colour is coal?
What colour is an orange?
What colour is milk?
What is rain made of?
What gas do plants take in?
What gas is in balloons that fly?
What do hens lay?
What do silkworms make?
What do tadpoles turn into?
Which bird can talk?
Which bird sings at night?
Which animal has a long trunk?
Which animal has black and white stripes?
What is the fastest animal on land?
Who wrote Don Quixote?
Who wrote The Odyssey?
Who painted Sunflowers?
Who was Marie Curie?
Who was Julius Caesar?
Who discovered America?
Who was Isaac Asimov?
Which language is spoken in Germany?
Which language is spoken in China?
What is the currency of the United Kingdom?
What is the currency of Russia?
Which organ do we think with?
Which organ do we breathe with?
With what do we smell?
Which season comes after autumn?
Which day comes after Friday?
Which month comes before December?
What is the last letter of the alphabet?
What metal is a gold ring made of?
What is glass made of?
What do animals need to live?
Who lives in a nest?
Who lives in a kennel?
What is a baby sheep called?
What is a baby duck called?
What is the past tense of "go"?
""".strip().split("\n")
)


def digest_of_general() -> str:
    """Return a digest of both lists, to identify stored answers."""
    return keccak(text=f"{QUESTIONS} {PROMPTS}").hex()
