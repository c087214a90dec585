"""Sentences for the corpus: an own small grammar, an own word list, and random dictionary words."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from cosyvoice.tokenizer.tokenizer import pronunciations

NOUNS = """apple airport answer army artist aunt autumn baby bag baker ball bank basket beach bear bell bicycle bird
blanket board boat book bottle box boy branch bread breakfast bridge brother brush bucket building bus butter button
cabin cake camera candle captain car carpet castle cat chair cheese chef child church circle city class clock cloud
coat coffee college color computer corner cotton country cousin cow crowd cup curtain customer daughter day desert
desk diamond dinner doctor dog door dragon drawer dream dress driver drum duck eagle ear earth egg elephant engine
evening eye face factory family farm farmer father feather fence field finger fire fish floor flower fog forest fork
fox friend frog fruit garage garden gate ghost giant gift girl glass glove goat gold grass guest guitar hammer hand
harbor hat heart hill history holiday honey horse hospital hotel hour house idea island jacket joke journey judge
juice jungle kettle key king kitchen kitten knife ladder lake lamp language lawyer leaf lemon lesson letter library
light lion list luggage lunch machine magazine manager map market meadow meal measure medicine meeting message milk
minute mirror moment money monkey month moon morning mother mountain mouse museum music nation needle neighbor nephew
newspaper night noise nurse ocean office onion orange orchard owl oyster package page painting pair palace paper
parent park party path peach pencil people pepper piano picture pillow pilot pipe plane plant plate pleasure pocket
poem poet police pond pony potato prince problem program puppy purse puzzle queen question quilt rabbit radio railway
rain rainbow reason recipe restaurant rice ring river road robot rocket roof room rope rose rule sailor salad salt
sandwich school science scissors season secret shadow sheep shelf shell ship shirt shoe shop shoulder sign silver
singer sister sky smoke snake snow soap sofa soldier song soup spider spoon spring square squirrel stable stage stair
star station stone store storm story stove stranger street student sugar suit summer sun sweater table tailor tale
teacher team telephone temple tent theater thing thought thumb ticket tiger tooth towel tower town toy train treasure
tree truck tunnel turtle umbrella uncle valley vegetable vehicle village violin visitor voice wagon wall wallet watch
water wave weather wedding week whale wheat wheel whistle wife wind window wing winter wolf woman wood word work world
worker yard year youth zebra zoo""".split()
VERBS = """asked answered arrived at borrowed bought broke brought built called carried caught changed chased chose
cleaned climbed closed collected cooked copied counted covered crossed cut described designed discovered drew drove
enjoyed examined explained felt fetched filled finished fixed folded followed forgot found gave up heard held helped
hid imagined improved invited joined judged kept kicked knew learned about left lifted liked listened to looked at
lost loved made measured mended met missed moved needed noticed offered opened ordered packed painted passed picked
planned played with pointed at polished praised prepared promised protected pulled pushed put away raised reached read
received remembered removed repaired returned saved saw searched for sent served shared shook showed sketched smelled
sold solved spoke about stole stopped studied swept taught thanked threw touched traded trusted turned understood used
visited waited for walked past wanted warned washed watched welcomed won wrapped wrote""".split()
ADJECTIVES = """ancient angry beautiful big bitter black blue brave bright broken brown busy calm careful cheap
cheerful clean clever cold common cool crowded curious dark dear deep different dirty dry dusty eager early easy empty
enormous famous fancy fast favorite fine foolish foreign fresh friendly funny gentle glad golden good gray great green
happy heavy huge humble hungry icy important jolly kind large lazy light little lonely long loud lovely lucky modern
narrow nervous new nice noisy odd old orange pale patient plain pleasant polite poor pretty proud pure purple quick
quiet rare red rich rough round royal rude sad safe sharp shiny short shy silent silly simple sleepy slow small smooth
soft solid special square strange strong sudden sweet tall thick thin thirsty tiny tired true ugly unusual useful
usual vast violet warm weak wealthy wet white wide wild wise wonderful wooden yellow young""".split()
ADVERBS = """again almost always away badly barely carefully cheerfully clearly early easily eventually finally gently
gladly happily honestly immediately kindly later loudly lately nearly never often once perhaps politely probably
proudly quickly quietly rarely really safely seldom silently slowly softly sometimes soon suddenly surely together
tomorrow twice usually warmly yesterday""".split()
PLACES = """in the garden|near the river|behind the old church|at the corner of the street|under the bridge
above the clouds|across the field|inside the kitchen|outside the theater|on the top shelf|between two tall trees
next to the station|along the coast|at the end of the hall|over the hills|by the window|beyond the valley
around the table|through the tunnel|upon the roof|below the surface|in the middle of the night|before breakfast
after the long meeting|during the storm|until noon|since last June|on Thursday|in January|at half past seven
every other week|for about three hours""".replace("\n", "|").split("|")
NAMES = """Alice Arthur Beth Charles Chloe David Diana Edward Ella Frank George Grace Hannah Harry Isabel Jack James
Joan Joyce Judy Kate Keith Laura Leo Lucy Martha Matthew Mike Nathan Oliver Olga Paul Peter Rachel Roy Ruth Sarah
Sophie Theo Thomas Ursula Victor Walter William Yvonne Zoe""".split()
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million""".split()
PHRASES = """good morning|good night|thank you very much|how are you today|see you soon|I beg your pardon
what a pity|never mind|yes, of course|no, not at all|just a moment|please come in|have a nice trip|happy birthday
well done|take care|that is enough|excuse me|who is there|where have you been|why not|over here|let me think
I am not sure|what time is it|it does not matter|please try again|you are welcome|the line is busy|hold on
leave a note|press the button|turn the page|enter your name|your balance is low|wait for the beep|goodbye""".replace(
    "\n", "|"
).split("|")
TEMPLATES = """The {a} {n} {v} the {n} {p}.
{N} {v} {d} {a} {n}.
{D}, the {n} and the {n} {v} {d} {n}.
Have you seen the {a} {n} {p}?
I think that {N} {v} my {n}.
She said the {n} was {a}, but the {n} was {a}.
If the {n} is {a}, we should {b} the {n}.
Please {b} the {a} {n} {p}.
There were {k} {a} {n}s and {k} {n}s {p}.
{N} and {N} {d2} {v} {d} {n}.
We {d2} {b} our {n} {p}.
Why did the {n} {b} {d} {n}?
What {N} {v} was only {d} {a} {n}.
It was {d} {a} and {a} {n}, {p}.
He {v} the {n} because the {n} looked {a}.
They will {b} {d} {n} when the {n} is {a}.
Can {N} {b} this {n} for {k} dollars?
My {n}'s {n} is {k} years old.
Nobody {v} that {n}, except {N}.
Do not {b} the {n}; it is {a}.
The word {w} comes before {w}.
Mister {W} {v} {d} {n} called {W}.
{W}, {W} and {w} were {p}.
Doctor {W} {d2} {v} the {w}.
{p2} there is {d} {a} {n}.
Could you please {b} the {n} {p}?
I would like to {b} {d} {n}, if that is all right.
We are going to {b} the {n} {p}.
Do you know where the {a} {n} is?
It takes about {k} minutes to {b} {d} {n}.
My {n} does not {b} {d} {n} anymore.
Thank you for your {n}; it was very {a}.
I have been waiting for the {n} {p}.
When will {N} {b} the {a} {n}?
You should have seen how {d2} the {n} {v} us.
Is this the {a} {n} that {N} {v}?
There is nothing {a} about {d} {n}.
The {n} costs {k} dollars and {k} cents.
Let us {b} the {n} and {b} another {n}.
Every {n} needs {d} {a} {n}.
I will call you {p}, and then we can {b} the {n}.
He told me that he had never {v} such {d} {a} {n}.
Only {k} people {v} the {n} {p}.
Maybe the {n} was too {a} for {N}.
Which {n} would you rather {b}, the {a} one or the {a} one?
This is {N}; I am calling about the {a} {n}.
It is {k} o'clock, and the {n} is still {a}.
{w} {w} {w} {w} {w}.
{w} {w} {w}, {w} {w} {w}.
The {w} of {w} and the {w} of {w}.
No {w} {b} without {w} or {w}.""".split("\n")
BARE_VERBS = """ask answer borrow break bring build buy call carry catch change chase choose clean climb close collect
cook copy count cover cross cut describe draw drive enjoy examine explain feel fetch fill find finish fix fold follow
forget give hear help hide hold imagine improve invite join judge keep kick know leave lift like lose love make
measure mend miss move need notice offer open order pack paint pass pick plan polish praise prepare protect pull push
put raise reach read receive remember remove repair return save see sell send serve share shake show smell solve stop
study sweep take teach thank throw touch trade trust turn use visit want warn wash watch welcome win wrap
write""".split()
DETERMINERS = ["a", "the", "his", "her", "their", "our", "some", "another", "every", "this", "that", "no"]
PARTICLES = {"at", "about", "to", "up", "with", "away", "for", "past"}  # second words of VERBS


def verbs() -> list[str]:
    """Past forms with their particle: "looked at" is one entry."""
    joined: list[str] = []
    for word in VERBS:
        if word in PARTICLES:
            joined[-1] += f" {word}"
        else:
            joined.append(word)
    return joined


def dictionary_words() -> list[str]:
    """Plain words of the CMU dictionary, 3 to 10 letters."""
    return sorted({word for word in pronunciations() if re.fullmatch(r"[a-z]{3,10}", word)})


def fill(template: str, rng: random.Random, past: list[str], rare: list[str]) -> str:
    """One sentence from one template; every slot is drawn anew."""
    draws = {
        "n": lambda: rng.choice(NOUNS),
        "v": lambda: rng.choice(past),
        "b": lambda: rng.choice(BARE_VERBS),
        "a": lambda: rng.choice(ADJECTIVES),
        "d": lambda: rng.choice(DETERMINERS),
        "D": lambda: rng.choice(ADVERBS).capitalize(),
        "d2": lambda: rng.choice(ADVERBS),
        "p": lambda: rng.choice(PLACES),
        "p2": lambda: rng.choice(PLACES).capitalize(),
        "N": lambda: rng.choice(NAMES),
        "k": lambda: number(rng),
        "w": lambda: rng.choice(rare),
        "W": lambda: rng.choice(rare).capitalize(),
    }
    return re.sub(r"\{(\w+)\}", lambda slot: draws[slot.group(1)](), template)


def number(rng: random.Random) -> str:
    """A number word, sometimes of two parts."""
    first = rng.choice(NUMBERS[2:])
    return f"{first} {rng.choice(NUMBERS[1:10])}" if first.endswith("ty") else first


def short_phrase(rng: random.Random, rare: list[str]) -> str:
    """One to four words: a greeting, digits, or single words."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(PHRASES).capitalize() + rng.choice(".!?")
    if kind < 0.65:
        return " ".join(rng.choices(NUMBERS, k=rng.randint(1, 4))).capitalize() + "."
    pool = [NOUNS, ADJECTIVES, rare]
    return " ".join(rng.choice(rng.choice(pool)) for _ in range(rng.randint(1, 3))).capitalize() + "."


def sentences(seed: int) -> Iterator[str]:
    """Endless stream of sentences, one in seven of them short; only the short ones may come again."""
    rng = random.Random(seed)
    past, rare = verbs(), dictionary_words()
    seen: set[str] = set()
    while True:
        short = rng.random() < 1 / 7
        text = short_phrase(rng, rare) if short else fill(rng.choice(TEMPLATES), rng, past, rare)
        if text in seen and not short:
            continue
        seen.add(text)
        yield text
