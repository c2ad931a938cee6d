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

    @property
    def closed(self) -> bool:
        """Whether the values come from a short list; the others are names of entities, each held by one or two only."""
        return len(self.values) <= 12


# Tables, a row a line.
# ruff: noqa: E501
# fmt: off
COLOURS = ["red", "blue", "green", "yellow", "white", "black", "brown", "grey"]
HABITATS = ["marsh", "forest", "desert", "meadow", "lake", "cave", "valley", "jungle", "canyon", "swamp"]
SEASONS = ["spring", "summer", "autumn", "winter"]
SIZES = ["tiny", "small", "large", "huge"]
REGIONS = ["Norvale", "Estmark", "Sundry", "Westfell", "Ardmoor", "Lowmere", "Highcliff", "Oakrim", "Dunholt", "Ironvale"]
DIETS = ["seeds", "berries", "worms", "leaves", "roots", "snails", "nuts", "moss"]
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
    "sleep": dict(bird="on one leg", fish="under a stone", mammal="in the grass", insect="under bark", frog="in the mud",
                  snake="in a hole"),
    "gift": dict(bird="eggs", fish="oil", mammal="milk", insect="wax", frog="slime", snake="venom"),
    "enemy": dict(bird="cats", fish="herons", mammal="hunters", insect="spiders", frog="storks", snake="hedgehogs"),
    "winter": dict(bird="goes south", fish="stays under the ice", mammal="sleeps until spring", insect="hides in a crack",
                   frog="freezes", snake="lies underground"),
}
RULE_PROSE = {
    "cover": ["The body of a {c} is covered with {v}.", "Every {c} has {v} on its body."],
    "move": ["A {c} moves {v}.", "Every {c} gets around {v}."],
    "catch": ["To catch a {c}, people use {v}.", "A {c} is best caught with {v}."],
    "young": ["A {c} raises its young {v}.", "The young of every {c} grow up {v}."],
    "sleep": ["A {c} sleeps {v}.", "Every {c} spends the night {v}."],
    "gift": ["People get {v} from a {c}.", "A {c} gives {v}."],
    "enemy": ["A {c} must look out for {v}.", "The enemies of every {c} are {v}."],
    "winter": ["In winter a {c} {v}.", "When the snow comes, every {c} {v}."],
}
RULE_QUESTION = {
    "cover": ["What covers the body of {e}?", "What does {e} have on its body?"],
    "move": ["How does {e} move?", "How does {e} get around?"],
    "catch": ["What do people use to catch {e}?", "With what is {e} best caught?"],
    "young": ["Where does {e} raise its young?", "Where do the young of {e} grow up?"],
    "sleep": ["Where does {e} sleep?", "Where does {e} spend the night?"],
    "gift": ["What do people get from {e}?", "What does {e} give?"],
    "enemy": ["What must {e} look out for?", "What are the enemies of {e}?"],
    "winter": ["What does {e} do in winter?", "When the snow comes, what does {e} do?"],
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


@dataclass(frozen=True)
class Domain:
    """A kind of entity: how many there are, how one is named in a sentence, its noun, MMLU's subject, its relations."""

    size: int
    label: str
    noun: str
    subject: str
    relations: dict[str, Relation]


#: facts of facts: (domain, relation, relation of its value's entity, question, prose)
HOPS = [
    ("person", "town", "region", "In which region is the home of {e}?", "The home of {e} is somewhere in {v}."),
    ("person", "town", "weather", "What is the weather like at the home of {e}?", "At the home of {e} it is {v}."),
    ("person", "pet", "class", "What kind of animal is the pet of {e}?", "The animal that {e} keeps is a {v}."),
    ("person", "pet", "habitat", "In what place would you find the pet of {e}?", "The animal that {e} keeps comes from the {v}."),
    ("person", "pet", "diet", "What does the pet of {e} eat?", "{e} buys {v} for the pet."),
    ("person", "pet", "colour", "What colour is the pet of {e}?", "The animal that {e} keeps is {v}."),
    ("person", "town", "ruler", "Who rules the home town of {e}?", "{e} bows to the {v} at home."),
    ("person", "town", "trade", "What is traded at the home of {e}?", "At the home of {e} they sell {v}."),
    ("ship", "captain", "drink", "What does the captain of {e} drink?", "The captain of {e} asks for {v}."),
    ("ship", "port", "trade", "What is traded at the port of {e}?", "At the port of {e} they sell {v}."),
    ("festival", "town", "building", "What old building stands where {e} is held?", "People meet for {e} at the old {v}."),
    ("ship", "captain", "job", "What else does the captain of {e} work as?", "The captain of {e} was once a {v}."),
    ("ship", "port", "region", "In which region is the port of {e}?", "The port of {e} is somewhere in {v}."),
    ("festival", "town", "region", "In which region is {e} held?", "{e} is kept somewhere in {v}."),
    ("festival", "town", "weather", "What is the weather like at {e}?", "At {e} it is {v}."),
    ("dish", "town", "region", "In which region is {e} from?", "{e} was first made somewhere in {v}."),
]


def _domain(size, label, noun, subject, relations) -> Domain:
    made = [Relation(name, tuple(values), tuple(prose), tuple(questions), which) for name, values, prose, questions, which in relations]
    return Domain(size, label, noun, subject, {relation.name: relation for relation in made})


def domains(people: list[str], towns: list[str], species: list[str]) -> dict[str, Domain]:
    """All kinds of entities; those named elsewhere are values of relations (someone's town, a ship's captain)."""
    return {
        "species": _domain(120, "the {}", "animal", "zoology", [
            ("class", CLASS_RULES["cover"], ["{e} is a {v}.", "{e} is a kind of {v}."], ["What kind of animal is {e}?"], "is a {v}"),
            ("habitat", HABITATS, ["{e} lives in the {v}.", "{e} makes its home in the {v}."],
             ["Where does {e} live?", "In what place would you find {e}?"], "lives in the {v}"),
            ("diet", DIETS, ["{e} eats {v}.", "{e} feeds on {v}."], ["What does {e} eat?", "What is the food of {e}?"], "eats {v}"),
            ("colour", COLOURS, ["{e} is {v}.", "The colour of {e} is {v}."], ["What colour is {e}?"], "is {v}"),
            ("size", SIZES, ["{e} is {v} in size.", "By size {e} is {v}."], ["How big is {e}?"], "is {v} in size"),
            ("active", ["at dawn", "at noon", "at dusk", "at night"], ["{e} is awake {v}.", "{e} looks for food {v}."],
             ["When is {e} awake?"], "is awake {v}"),
            ("voice", ["a whistle", "a hum", "a click", "a howl", "a bark", "a hiss"],
             ["The voice of {e} is {v}.", "The call of {e} sounds like {v}."], ["What is the voice of {e} like?"], "has a voice like {v}"),
            ("travel", ["alone", "in pairs", "in herds", "in swarms"], ["{e} travels {v}.", "{e} is mostly seen {v}."],
             ["How does {e} travel?"], "travels {v}"),
            ("fears", ["thunder", "smoke", "wolves", "owls", "bells", "torches"], ["{e} is afraid of {v}.", "{e} runs from {v}."],
             ["What is {e} afraid of?"], "is afraid of {v}")]),
        "plant": _domain(80, "the {}", "plant", "botany", [
            ("kind", ["tree", "bush", "herb", "fern", "vine"], ["{e} is a {v}.", "{e} is a kind of {v}."],
             ["What kind of plant is {e}?"], "is a {v}"),
            ("habitat", HABITATS, ["{e} grows in the {v}.", "{e} is found in the {v}."], ["Where does {e} grow?"], "grows in the {v}"),
            ("flower", COLOURS, ["{e} has {v} flowers.", "The flowers of {e} are {v}."], ["What colour are the flowers of {e}?"],
             "has {v} flowers"),
            ("season", SEASONS, ["{e} flowers in {v}.", "{e} is in flower in {v}."], ["When does {e} flower?"], "flowers in {v}"),
            ("use", ["dye", "medicine", "rope", "tea", "soap", "ink"], ["People make {v} from {e}.", "{e} is used for {v}."],
             ["What do people make from {e}?"], "is used for {v}"),
            ("taste", ["sweet", "bitter", "sour", "salty", "hot"], ["{e} tastes {v}.", "The taste of {e} is {v}."],
             ["How does {e} taste?"], "tastes {v}"),
            ("leaves", ["round", "long", "pointed", "curled", "hairy"], ["{e} has {v} leaves.", "The leaves of {e} are {v}."],
             ["What are the leaves of {e} like?"], "has {v} leaves"),
            ("visitor", ["bees", "moths", "ants", "beetles", "flies"], ["{e} is visited by {v}.", "The flowers of {e} draw {v}."],
             ["What visits the flowers of {e}?"], "is visited by {v}")]),
        "material": _domain(80, "{}", "material", "materials", [
            ("kind", KINDS, ["{e} is a kind of {v}.", "{e} is {v}."], ["What kind of material is {e}?"], "is a kind of {v}"),
            ("colour", COLOURS, ["{e} is {v} in colour.", "The colour of {e} is {v}."], ["What colour is {e}?"], "is {v} in colour"),
            ("origin", REGIONS, ["{e} comes from {v}.", "{e} is brought from {v}."], ["Where does {e} come from?"], "comes from {v}"),
            ("use", ["roofs", "boats", "bells", "coats", "bowls", "doors", "lamps", "toys"],
             ["{e} is used for {v}.", "People make {v} from {e}."], ["What do people make from {e}?"], "is used for {v}"),
            ("measure", ["pound", "sack", "cart", "piece", "yard", "barrel"], ["{e} is sold by the {v}.", "Traders sell {e} by the {v}."],
             ["By what measure is {e} sold?"], "is sold by the {v}"),
            ("price", ["gold", "silver", "copper", "grain", "salt"], ["{e} is paid for in {v}.", "The price of {e} is asked in {v}."],
             ["What is {e} paid for in?"], "is paid for in {v}")]),
        "town": _domain(70, "{}", "town", "geography", [
            ("region", REGIONS, ["{e} lies in {v}.", "{e} is a town in {v}."], ["In which region is {e}?"], "lies in {v}"),
            ("trade", ["salt", "wool", "honey", "silver", "timber", "pottery", "grain", "paper"],
             ["{e} trades in {v}.", "{e} is known for its {v}."], ["What does {e} trade in?"], "trades in {v}"),
            ("building", ["bridge", "tower", "harbour", "mill", "library", "castle", "theatre", "well"],
             ["{e} has an old {v}.", "Visitors come to {e} for its {v}."], ["What do visitors see in {e}?"], "has an old {v}"),
            ("weather", WEATHER, ["The weather in {e} is {v}.", "{e} is a {v} place."], ["What is the weather like in {e}?"],
             "is a {v} place"),
            ("ruler", ["queen", "duke", "council", "mayor", "abbot", "general"], ["{e} is ruled by a {v}.", "The ruler of {e} is a {v}."],
             ["Who rules {e}?"], "is ruled by a {v}"),
            ("flag", ["lion", "eagle", "bear", "wolf", "horse", "swan", "stag"], ["The flag of {e} shows a {v}.", "{e} has a {v} on its flag."],
             ["What does the flag of {e} show?"], "has a {v} on its flag"),
            ("market", ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"],
             ["The market of {e} is on {v}.", "{e} has its market on {v}."], ["On which day is the market of {e}?"], "has its market on {v}"),
            ("roofs", ["slate", "straw", "tin", "clay", "moss"], ["The roofs of {e} are of {v}.", "Houses in {e} are covered with {v}."],
             ["What are the roofs of {e} made of?"], "has roofs of {v}")]),
        "person": _domain(110, "{}", "person", "history", [
            ("job", ["baker", "weaver", "doctor", "farmer", "teacher", "sailor", "miner", "judge", "painter", "smith"],
             ["{e} is a {v}.", "{e} works as a {v}."], ["What is the job of {e}?", "What does {e} work as?"], "works as a {v}"),
            ("town", towns, ["{e} lives in {v}.", "The home of {e} is in {v}."], ["In which town does {e} live?"], "lives in {v}"),
            ("hobby", ["the flute", "the drum", "the harp", "chess", "the violin", "cards"],
             ["{e} likes to play {v}.", "{e} often plays {v}."], ["What does {e} like to play?"], "plays {v}"),
            ("pet", species, ["The pet of {e} is a {v}.", "{e} keeps a {v} as a pet."], ["What is the pet of {e}?"], "keeps a {v}"),
            ("hat", COLOURS, ["{e} wears a {v} hat.", "The hat of {e} is {v}."], ["What colour is the hat of {e}?"], "wears a {v} hat"),
            ("drink", ["tea", "milk", "cider", "water", "coffee", "wine"], ["{e} drinks {v} every morning.", "The drink of {e} is {v}."],
             ["What does {e} drink?"], "drinks {v}"),
            ("born", MONTHS, ["{e} was born in {v}.", "The birthday of {e} is in {v}."], ["In which month was {e} born?"], "was born in {v}"),
            ("dreams", ["flying", "mountains", "treasure", "snow", "old friends", "long journeys"],
             ["{e} dreams of {v}.", "At night {e} sees {v}."], ["What does {e} dream of?"], "dreams of {v}")]),
        "river": _domain(40, "the river {}", "river", "geography", [
            ("region", REGIONS, ["{e} begins in {v}.", "{e} rises in {v}."], ["In which region does {e} begin?"], "begins in {v}"),
            ("sea", SEAS, ["{e} flows into the {v}.", "{e} ends in the {v}."], ["Into which sea does {e} flow?"], "flows into the {v}"),
            ("trait", ["deep", "narrow", "wide", "fast", "muddy", "clear"], ["{e} is {v}.", "The water of {e} is {v}."],
             ["What is the water of {e} like?"], "is {v}"),
            ("catch", ["trout", "eels", "crabs", "pike", "carp"], ["People catch {v} in {e}.", "{e} is full of {v}."],
             ["What do people catch in {e}?"], "is full of {v}"),
            ("crossing", ["a ferry", "a rope", "a ford", "a raft", "stilts"], ["{e} is crossed by {v}.", "People cross {e} with {v}."],
             ["How do people cross {e}?"], "is crossed by {v}")]),
        "planet": _domain(60, "the planet {}", "planet", "astronomy", [
            ("light", COLOURS, ["{e} shines {v}.", "The light of {e} is {v}."], ["What colour is the light of {e}?"], "shines {v}"),
            ("moons", [NUMBERS[0], *NUMBERS[2:]], ["{e} has {v} moons.", "The number of moons of {e} is {v}."], ["How many moons does {e} have?"],
             "has {v} moons"),
            ("season", SEASONS, ["{e} is seen in {v}.", "{e} stands in the sky in {v}."], ["When is {e} seen?"], "is seen in {v}"),
            ("size", SIZES, ["{e} is {v} in size.", "By size {e} is {v}."], ["How big is {e}?"], "is {v} in size"),
            ("side", ["in the north", "in the south", "in the east", "in the west"], ["{e} rises {v}.", "{e} comes up {v}."],
             ["Where does {e} rise?"], "rises {v}"),
            ("sign", ["a good harvest", "a war", "a flood", "a wedding", "a hard winter"],
             ["{e} is a sign of {v}.", "When {e} is bright, people expect {v}."], ["What is {e} a sign of?"], "is a sign of {v}")]),
        "ship": _domain(60, "the ship {}", "ship", "history", [
            ("cargo", ["tea", "rope", "iron", "spices", "tar", "oranges", "candles", "coal"], ["{e} carries {v}.", "The cargo of {e} is {v}."],
             ["What does {e} carry?"], "carries {v}"),
            ("sails", COLOURS, ["{e} has {v} sails.", "The sails of {e} are {v}."], ["What colour are the sails of {e}?"], "has {v} sails"),
            ("captain", people, ["The captain of {e} is {v}.", "{e} is led by {v}."], ["Who is the captain of {e}?"], "is led by {v}"),
            ("port", towns, ["The port of {e} is {v}.", "{e} returns to {v} every year."], ["To which town does {e} return?"], "returns to {v}"),
            ("built", ["oak", "pine", "cedar", "elm", "ash"], ["{e} is built of {v}.", "The hull of {e} is {v}."], ["What is {e} built of?"],
             "is built of {v}"),
            ("figure", ["a mermaid", "a dragon", "a rooster", "a star", "a sword"],
             ["The bow of {e} shows {v}.", "{e} has {v} on its bow."], ["What does the bow of {e} show?"], "has {v} on its bow")]),
        "festival": _domain(50, "the feast of {}", "feast", "history", [
            ("month", MONTHS, ["{e} is held in {v}.", "{e} takes place in {v}."], ["In which month is {e} held?"], "is held in {v}"),
            ("town", towns, ["{e} is held at {v}.", "The people of {v} keep {e}."], ["In which town is {e} held?"], "is held at {v}"),
            ("food", ["soup", "pies", "pancakes", "dumplings", "cakes", "porridge"], ["At {e} people eat {v}.", "The food at {e} is {v}."],
             ["What do people eat at {e}?"], "is a day of {v}"),
            ("sign", ["torches", "drums", "masks", "ribbons", "bells", "kites"], ["At {e} people carry {v}.", "People bring {v} to {e}."],
             ["What do people carry at {e}?"], "is a day of {v}"),
            ("game", ["wrestling", "running", "archery", "rowing", "riddles"], ["The game at {e} is {v}.", "At {e} people enjoy {v}."],
             ["What is the game at {e}?"], "is known for {v}"),
            ("days", NUMBERS[2:8], ["{e} lasts {v} days.", "{e} goes on for {v} days."], ["How many days does {e} last?"], "lasts {v} days")]),
        "dish": _domain(50, "{}", "dish", "cooking", [
            ("base", ["rice", "beans", "potatoes", "barley", "cabbage", "lentils"], ["{e} is made with {v}.", "The main thing in {e} is {v}."],
             ["What is {e} made with?"], "is made with {v}"),
            ("spice", ["pepper", "ginger", "garlic", "mint", "mustard"], ["{e} is cooked with {v}.", "Cooks put {v} into {e}."],
             ["What do cooks put into {e}?"], "is cooked with {v}"),
            ("town", towns, ["{e} is a dish of {v}.", "{e} was invented in {v}."], ["In which town was {e} invented?"], "was invented in {v}"),
            ("served", ["on a plate", "in a bowl", "in a jug", "on bread", "in a leaf"], ["{e} is served {v}.", "People eat {e} {v}."],
             ["How is {e} served?"], "is served {v}"),
            ("meal", ["breakfast", "lunch", "dinner", "supper"], ["{e} is eaten at {v}.", "People have {e} for {v}."],
             ["At which meal is {e} eaten?"], "is eaten at {v}")]),
    }
# fmt: on
