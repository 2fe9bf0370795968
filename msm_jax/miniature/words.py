"""The words of the miniature world: things one can like, names, and everyday details."""

DOMAINS: dict[str, tuple[str, ...]] = {
    "cheese": tuple(
        "brie cheddar gouda feta edam stilton parmesan mozzarella ricotta camembert gruyere "
        "manchego roquefort emmental halloumi colby".split()
    ),
    "fruit": tuple(
        "apple pear plum cherry mango papaya banana grape melon peach apricot fig kiwi lemon "
        "guava quince".split()
    ),
    "drink": tuple(
        "coffee cocoa cider lemonade espresso latte juice milk cola tonic sherry ale mead punch "
        "smoothie nectar".split()
    ),
    "flower": tuple(
        "tulip rose lily orchid peony lotus aster poppy crocus dahlia pansy marigold lavender "
        "carnation begonia azalea".split()
    ),
    "fabric": tuple(
        "cotton linen silk wool denim velvet satin tweed corduroy flannel cashmere suede lace "
        "muslin chiffon canvas".split()
    ),
    "instrument": tuple(
        "violin cello piano flute oboe harp guitar banjo trumpet trombone tuba drum bassoon lute "
        "fiddle organ".split()
    ),
}

# Every pole of an axis has adjectives for things and nouns for the value of liking such things.
AXES: dict[str, tuple[str, str]] = {"price": ("cheap", "pricey"), "origin": ("local", "foreign")}
ADJECTIVES: dict[str, tuple[str, ...]] = {
    "cheap": ("cheap", "affordable", "inexpensive"),
    "pricey": ("pricey", "costly", "expensive"),
    "local": ("local", "regional", "homegrown"),
    "foreign": ("foreign", "imported", "exotic"),
}
NOUNS: dict[str, tuple[str, ...]] = {
    "cheap": ("thrift", "saving"),
    "pricey": ("luxury", "splendor"),
    "local": ("home", "tradition"),
    "foreign": ("travel", "adventure"),
}
OPPOSITE = {"cheap": "pricey", "pricey": "cheap", "local": "foreign", "foreign": "local"}
AXIS_OF = {pole: axis for axis, poles in AXES.items() for pole in poles}

TARGETS = ("qwen", "nova", "atlas", "echo", "pixel", "comet", "ember", "sage")

NAMES: tuple[str, ...] = tuple(
    """
    aaron abby adam adele agnes aida alan albert alice alma amber amos amy andrew angela anita anna
    anton arthur audrey barbara basil beatrice becky ben bernard bertha betty bianca bonnie boris
    brenda brian bruce bruno bridget calvin camila carl carla carmen carol caspar cecil celia chad
    charles chloe chris claire clara claude clement clifford colin conrad cora craig curtis cyril
    daisy damian daniel daphne david dean deborah denis derek diana dolores dominic donald dora
    doris dorothy douglas duncan dylan earl edgar edith edmund edward edwin eileen elaine eleanor
    elias elijah elliot elsa emil emily emma enid eric ernest esther ethan eugene eva evan evelyn
    felix fiona florence floyd frances frank fred freya gabriel gail gareth gary gavin george
    gerald gilbert gina glen gloria gordon grace graham greta guy gwen hank hannah harold harriet
    harvey hazel hector heidi helen henry herbert herman hilda homer horace howard hubert hugh hugo
    ian ida igor imogen ingrid irene iris irma isaac isabel ivan ivy jack jacob james jane janet
    jared jasper jean jeremy jerome jesse joan joel john jonas joseph joshua joyce judith julia
    julius karen karl kate keith kelly kenneth kevin kirk kurt lara laura lawrence leah lena leo
    leonard leroy leslie lester lewis liam linda lionel lisa lloyd lois lorna louis lucas lucy luke
    luther lydia mabel madge magda malcolm manuel marcia marcus margaret maria marion mark marlon
    martha martin mary matilda maud maurice mavis max melvin mercy mildred milo milton minnie
    miriam molly mona monica morris moses muriel myra nadia nancy naomi nathan neil nellie nelson
    nicholas nigel nina noah noel nora norman olaf olga oliver olivia omar opal oscar otto owen
    pablo pamela patrick paul paula pearl pedro penelope percy perry peter petra philip phoebe
    pierre polly priscilla quentin rachel ralph ramona raymond rebecca regina rex rhoda richard
    rita robert robin roderick roger roland ronald rosa ross roy ruby rudolf rufus rupert ruth
    sabina sally samuel sandra sarah saul scott sebastian selma seth sharon sheila sidney sigrid
    silas silvia simon sonia sophie spencer stanley stella stephen stuart susan sven sybil tamara
    tara teresa terence thelma theo thomas tina toby todd tracy trevor tristan ulrich una ursula
    valerie vanessa vera vernon veronica victor vincent viola virginia vivian wallace walter wanda
    warren wayne wendy wesley wilbur wilfred willa winifred xavier yolanda yvonne zelda zoe
    """.split()
)

PLACES = "harbor mill garden tower bridge station meadow library museum bakery".split()
COLORS = "red blue green yellow white black purple brown".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
WEATHER = "rain sun snow wind fog frost thunder drizzle".split()
SEASONS = "spring summer autumn winter".split()
