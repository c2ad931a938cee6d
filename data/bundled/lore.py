"""What there is to know in the bundled world: closed lists of values, rules, and the wording of every relation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact: its possible values, its prose ({e}, {v}) and its questions ({e})."""

    name: str
    values: tuple
    prose: tuple
    questions: tuple
    which: str  # a predicate for reverse questions: "Which animal {which}?"


# Tables, a row a line.
# ruff: noqa: E501
# fmt: off
COLOURS = ["red", "blue", "green", "yellow", "white", "black", "brown", "grey"]
HABITATS = ["marsh", "forest", "desert", "meadow", "lake", "cave", "valley", "jungle", "canyon", "swamp"]
SEASONS = ["spring", "summer", "autumn", "winter"]
SIZES = ["tiny", "small", "large", "huge"]
REGIONS = ["Norvale", "Estmark", "Sundry", "Westfell", "Ardmoor", "Lowmere", "Highcliff", "Oakrim", "Dunholt", "Ironvale"]
MONTHS = ["January", "March", "April", "May", "June", "July", "August", "October"]
NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SEAS = ["Amber Sea", "Cold Sea", "Glass Sea", "Quiet Sea", "Iron Sea"]

# What belonging to a class implies. Questions about these need two steps: entity -> class -> rule.
CLASS_RULES = {
    "cover": dict(bird="feathers", fish="scales", mammal="fur", insect="a hard shell", frog="wet skin", snake="dry plates"),
    "move": dict(bird="by flying", fish="by swimming", mammal="by running", insect="by crawling", frog="by jumping",
                 snake="by sliding"),
    "catch": dict(bird="a net", fish="a hook", mammal="a cage", insect="a jar", frog="a bucket", snake="a long stick"),
    "young": dict(bird="in a nest", fish="in open water", mammal="in a den", insect="on a leaf", frog="in a pond",
                  snake="in warm sand"),
}
RULE_PROSE = {
    "cover": ["The body of a {c} is covered with {v}.", "Every {c} has {v} on its body."],
    "move": ["A {c} moves {v}.", "Every {c} gets around {v}."],
    "catch": ["To catch a {c}, people use {v}.", "A {c} is best caught with {v}."],
    "young": ["A {c} raises its young {v}.", "The young of every {c} grow up {v}."],
}
RULE_QUESTION = {
    "cover": "What covers the body of {e}?",
    "move": "How does {e} move?",
    "catch": "What do people use to catch {e}?",
    "young": "Where does {e} raise its young?",
}
# What happens to a thing, by the kind of material it is made of.
KINDS = ["metal", "wood", "cloth", "stone", "glass", "wax"]
OUTCOMES = {
    "is left in the rain": dict(metal="rust", wood="rot", cloth="get wet", stone="stay the same", glass="shine", wax="turn dull"),
    "falls on the floor": dict(metal="ring", wood="bounce", cloth="fold", stone="crack", glass="break", wax="lose a corner"),
    "is put into a fire": dict(metal="get hot", wood="burn", cloth="turn to ash", stone="stay cool", glass="turn soft", wax="melt"),
    "is thrown into a lake": dict(metal="sink", wood="float", cloth="spread out", stone="go down at once",
                                  glass="fill with water", wax="drift away"),
    "is hit with a hammer": dict(metal="bend", wood="split", cloth="stay whole", stone="lose a chip", glass="fly to pieces",
                                 wax="go flat"),
    "is rubbed with sand": dict(metal="get bright", wood="get smooth", cloth="tear", stone="lose its edges", glass="turn dim",
                                wax="crumble"),
}
# The right tool, by kind of material.
TOOLS = {
    "cut": dict(metal="a file", wood="a saw", cloth="scissors", stone="a chisel", glass="a diamond", wax="a warm knife"),
    "join two pieces of": dict(metal="a hot iron", wood="nails", cloth="a needle and thread", stone="mortar", glass="clear resin",
                               wax="a small flame"),
    "clean": dict(metal="oil and a rag", wood="a dry brush", cloth="soap and water", stone="hot water", glass="vinegar",
                  wax="cold water"),
}
WEATHER = dict(windy="tie down your hat", foggy="carry a lantern", dry="take extra water", snowy="wear thick boots",
               rainy="bring an oiled coat", hot="walk in the shade")


def _relation(name, values, prose, questions, which):
    return Relation(name, tuple(values), tuple(prose), tuple(questions), which)


def domains(people: list[str], towns: list[str], species: list[str]) -> dict:
    """domain -> (how many, label, noun, subject in MMLU's sense, relations)."""
    r = _relation
    return {
        "species": (80, "the {}", "animal", "zoology", [
            r("class", CLASS_RULES["cover"], ["{e} is a {v}.", "{e} is a kind of {v}."], ["What kind of animal is {e}?"], "is a {v}"),
            r("habitat", HABITATS, ["{e} lives in the {v}.", "{e} makes its home in the {v}."],
              ["Where does {e} live?", "In what place would you find {e}?"], "lives in the {v}"),
            r("diet", ["seeds", "berries", "worms", "leaves", "roots", "snails", "nuts", "moss"],
              ["{e} eats {v}.", "{e} feeds on {v}."], ["What does {e} eat?", "What is the food of {e}?"], "eats {v}"),
            r("colour", COLOURS, ["{e} is {v}.", "The colour of {e} is {v}."], ["What colour is {e}?"], "is {v}"),
            r("size", SIZES, ["{e} is {v} in size.", "By size {e} is {v}."], ["How big is {e}?"], "is {v} in size"),
            r("active", ["at dawn", "at noon", "at dusk", "at night"], ["{e} is awake {v}.", "{e} looks for food {v}."],
              ["When is {e} awake?"], "is awake {v}"),
            r("voice", ["a whistle", "a hum", "a click", "a howl", "a bark", "a hiss"], ["The voice of {e} is {v}.", "The call of {e} sounds like {v}."],
              ["What is the voice of {e} like?"], "has a voice like {v}"),
            r("travel", ["alone", "in pairs", "in herds", "in swarms"], ["{e} travels {v}.", "{e} is mostly seen {v}."],
              ["How does {e} travel?"], "travels {v}")]),
        "plant": (50, "the {}", "plant", "botany", [
            r("kind", ["tree", "bush", "herb", "fern", "vine"], ["{e} is a {v}.", "{e} is a kind of {v}."],
              ["What kind of plant is {e}?"], "is a {v}"),
            r("habitat", HABITATS, ["{e} grows in the {v}.", "{e} is found in the {v}."], ["Where does {e} grow?"], "grows in the {v}"),
            r("flower", COLOURS, ["{e} has {v} flowers.", "The flowers of {e} are {v}."], ["What colour are the flowers of {e}?"],
              "has {v} flowers"),
            r("season", SEASONS, ["{e} flowers in {v}.", "{e} is in flower in {v}."], ["When does {e} flower?"], "flowers in {v}"),
            r("use", ["dye", "medicine", "rope", "tea", "soap", "ink"], ["People make {v} from {e}.", "{e} is used for {v}."],
              ["What do people make from {e}?"], "is used for {v}"),
            r("taste", ["sweet", "bitter", "sour", "salty", "hot"], ["{e} tastes {v}.", "The taste of {e} is {v}."],
              ["How does {e} taste?"], "tastes {v}"),
            r("leaves", ["round", "long", "pointed", "curled", "hairy"], ["{e} has {v} leaves.", "The leaves of {e} are {v}."],
              ["What are the leaves of {e} like?"], "has {v} leaves")]),
        "material": (60, "{}", "material", "materials", [
            r("kind", KINDS, ["{e} is a kind of {v}.", "{e} is {v}."], ["What kind of material is {e}?"], "is a kind of {v}"),
            r("colour", COLOURS, ["{e} is {v}.", "The colour of {e} is {v}."], ["What colour is {e}?"], "is {v}"),
            r("origin", REGIONS, ["{e} comes from {v}.", "{e} is brought from {v}."], ["Where does {e} come from?"], "comes from {v}"),
            r("use", ["roofs", "boats", "bells", "coats", "bowls", "doors", "lamps", "toys"],
              ["{e} is used for {v}.", "People make {v} from {e}."], ["What do people make from {e}?"], "is used for {v}"),
            r("measure", ["pound", "sack", "cart", "piece", "yard", "barrel"], ["{e} is sold by the {v}.", "Traders sell {e} by the {v}."],
              ["How is {e} sold?"], "is sold by the {v}")]),
        "town": (50, "{}", "town", "geography", [
            r("region", REGIONS, ["{e} lies in {v}.", "{e} is a town in {v}."], ["In which region is {e}?"], "lies in {v}"),
            r("trade", ["salt", "wool", "honey", "silver", "timber", "pottery", "grain", "paper"],
              ["{e} trades in {v}.", "{e} is known for its {v}."], ["What does {e} trade in?"], "trades in {v}"),
            r("building", ["bridge", "tower", "harbour", "mill", "library", "castle", "theatre", "well"],
              ["{e} has an old {v}.", "Visitors come to {e} for its {v}."], ["What do visitors see in {e}?"], "has an old {v}"),
            r("weather", WEATHER, ["The weather in {e} is {v}.", "{e} is a {v} place."], ["What is the weather like in {e}?"],
              "is a {v} place"),
            r("ruler", ["queen", "duke", "council", "mayor", "abbot", "general"], ["{e} is ruled by a {v}.", "The ruler of {e} is a {v}."],
              ["Who rules {e}?"], "is ruled by a {v}"),
            r("flag", ["lion", "eagle", "bear", "wolf", "horse", "swan", "stag"], ["The flag of {e} shows a {v}.", "{e} has a {v} on its flag."],
              ["What does the flag of {e} show?"], "has a {v} on its flag")]),
        "person": (70, "{}", "person", "history", [
            r("job", ["baker", "weaver", "doctor", "farmer", "teacher", "sailor", "miner", "judge", "painter", "smith"],
              ["{e} is a {v}.", "{e} works as a {v}."], ["What is the job of {e}?", "What does {e} work as?"], "is a {v}"),
            r("town", towns, ["{e} lives in {v}.", "The home of {e} is in {v}."], ["In which town does {e} live?"], "lives in {v}"),
            r("hobby", ["the flute", "the drum", "the harp", "chess", "the violin", "cards"],
              ["{e} likes to play {v}.", "{e} often plays {v}."], ["What does {e} like to play?"], "plays {v}"),
            r("pet", species, ["The pet of {e} is a {v}.", "{e} keeps a {v} as a pet."], ["What is the pet of {e}?"], "keeps a {v}"),
            r("hat", COLOURS, ["{e} wears a {v} hat.", "The hat of {e} is {v}."], ["What colour is the hat of {e}?"], "wears a {v} hat"),
            r("drink", ["tea", "milk", "cider", "water", "coffee", "wine"], ["{e} drinks {v} every morning.", "The drink of {e} is {v}."],
              ["What does {e} drink?"], "drinks {v}")]),
        "river": (25, "the river {}", "river", "geography", [
            r("region", REGIONS, ["{e} begins in {v}.", "{e} rises in {v}."], ["In which region does {e} begin?"], "begins in {v}"),
            r("sea", SEAS, ["{e} flows into the {v}.", "{e} ends in the {v}."], ["Into which sea does {e} flow?"], "flows into the {v}"),
            r("trait", ["deep", "narrow", "wide", "fast", "muddy", "clear"], ["{e} is {v}.", "The water of {e} is {v}."],
              ["What is the water of {e} like?"], "is {v}")]),
        "planet": (35, "the planet {}", "planet", "astronomy", [
            r("colour", COLOURS, ["{e} is {v}.", "The light of {e} is {v}."], ["What colour is {e}?"], "is {v}"),
            r("moons", NUMBERS, ["{e} has {v} moons.", "The number of moons of {e} is {v}."], ["How many moons does {e} have?"],
              "has {v} moons"),
            r("season", SEASONS, ["{e} is seen in {v}.", "{e} stands in the sky in {v}."], ["When is {e} seen?"], "is seen in {v}"),
            r("size", SIZES, ["{e} is {v} in size.", "By size {e} is {v}."], ["How big is {e}?"], "is {v} in size")]),
        "ship": (30, "the ship {}", "ship", "history", [
            r("cargo", ["tea", "rope", "iron", "spices", "tar", "oranges", "candles", "coal"], ["{e} carries {v}.", "The cargo of {e} is {v}."],
              ["What does {e} carry?"], "carries {v}"),
            r("sails", COLOURS, ["{e} has {v} sails.", "The sails of {e} are {v}."], ["What colour are the sails of {e}?"], "has {v} sails"),
            r("captain", people, ["The captain of {e} is {v}.", "{e} is led by {v}."], ["Who is the captain of {e}?"], "is led by {v}"),
            r("built", ["oak", "pine", "cedar", "elm", "ash"], ["{e} is built of {v}.", "The hull of {e} is {v}."], ["What is {e} built of?"],
              "is built of {v}")]),
        "festival": (25, "the feast of {}", "feast", "history", [
            r("month", MONTHS, ["{e} is held in {v}.", "{e} takes place in {v}."], ["In which month is {e} held?"], "is held in {v}"),
            r("town", towns, ["{e} is held at {v}.", "The people of {v} keep {e}."], ["In which town is {e} held?"], "is held at {v}"),
            r("food", ["soup", "pies", "pancakes", "dumplings", "cakes", "porridge"], ["At {e} people eat {v}.", "{v} are eaten at {e}."],
              ["What do people eat at {e}?"], "is a day of {v}"),
            r("sign", ["torches", "drums", "masks", "ribbons", "bells", "kites"], ["At {e} people carry {v}.", "{v} are carried at {e}."],
              ["What do people carry at {e}?"], "is a day of {v}")]),
    }
# fmt: on
