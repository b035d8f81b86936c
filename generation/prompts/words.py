"""The words of the built-in grammar: four elements for each of the 13 UCF-Crime classes.

Events are verb phrases that follow "can be seen", in pairs: the abnormal one and what the same
subject does in the normal twin. Both twins name the subject, so it is innocent in itself; and any
words of a class go with any of its places. The classes are those of UCF-Crime (Sultani et al., CVPR
2018).
"""

import dataclasses

# Cameras that fit any location, a ward as well as a highway. `slots.plan_slot` requires that their
# number and the number of locations share no factor.
VIEWPOINTS = (
    "a high corner security camera",
    "an overhead camera looking steeply down",
    "a CCTV camera mounted low at the side",
    "a wide-angle CCTV camera at medium height",
    "a distant fixed camera overlooking the area",
)


@dataclasses.dataclass(frozen=True)
class ClassGrammar:
    """The words of one class.

    Attributes:
      locations: places where the class happens.
      subjects: who acts, plural or singular.
      events: verb phrases, (abnormal, normal).
    """

    locations: tuple[str, ...]
    subjects: tuple[str, ...]
    events: tuple[tuple[str, str], ...]


_HOMES = (
    "a living room",
    "a nursing home corridor",
    "a kindergarten playroom",
    "a back yard",
    "a hospital ward",
    "an apartment hallway",
)
_STREETS = (
    "a city street",
    "a parking lot",
    "a bus stop",
    "a subway platform",
    "a petrol station",
    "a shopping plaza",
)
_SHOPS = (
    "a convenience store",
    "a jewellery shop",
    "a supermarket aisle",
    "a clothing store",
    "a phone shop",
    "a pharmacy",
)
_BUILDINGS = (
    "a warehouse",
    "an office lobby",
    "a school corridor",
    "a factory yard",
    "a row of houses",
    "a petrol station",
)
_ROADS = (
    "a busy intersection",
    "a highway",
    "a city street",
    "a roundabout",
    "a tunnel road",
    "a parking lot",
)
GRAMMAR = {
    "Abuse": ClassGrammar(
        _HOMES,
        (
            "a caretaker and an elderly person",
            "a man and a boy",
            "two adults in plain clothes",
            "a nurse and a patient",
        ),
        (
            ("shoving and slapping at a helpless victim", "helping each other to a chair"),
            ("dragging the weaker one roughly across the floor", "walking slowly side by side"),
            ("hitting the weaker one again and again", "sitting down and talking calmly"),
            ("kicking at the one on the ground", "tidying the place together"),
        ),
    ),
    "Arrest": ClassGrammar(
        _STREETS,
        (
            "two police officers and a man",
            "three officers and a man in a jacket",
            "a plain-clothes officer and a driver",
            "a patrol and two young men",
        ),
        (
            (
                "wrestling on the ground until handcuffs are on",
                "exchanging a few words and moving on",
            ),
            ("struggling as one is pressed against a wall", "giving directions on a map"),
            ("chasing and tackling the one who flees", "strolling past each other"),
            ("forcing a resisting person down", "checking papers without any hurry"),
        ),
    ),
    "Arson": ClassGrammar(
        _BUILDINGS,
        (
            "a person in dark clothes",
            "two people in raincoats",
            "a man in overalls",
            "a lone passer-by",
        ),
        (
            ("pouring fuel and setting the place on fire", "watering plants along the wall"),
            ("throwing a burning bottle so that flames climb up", "putting rubbish into a bin"),
            ("lighting a heap of boxes that goes up in flames", "stacking boxes neatly"),
            (
                "setting a wooden pallet alight and flames spreading",
                "carrying a wooden pallet",
            ),
        ),
    ),
    "Assault": ClassGrammar(
        _STREETS,
        (
            "a man and a woman",
            "a stranger and a pedestrian",
            "two men in jackets",
            "three teenagers",
        ),
        (
            ("attacking someone with sudden violent blows", "greeting each other and walking on"),
            ("knocking someone to the ground and striking out", "waiting together for a ride"),
            ("grabbing and beating a person from behind", "walking one behind the other"),
            ("swinging a stick wildly at someone", "carrying umbrellas and chatting"),
        ),
    ),
    "Burglary": ClassGrammar(
        _BUILDINGS,
        (
            "a man in a jacket",
            "two people with backpacks",
            "a man in a cap",
            "three men in caps",
        ),
        (
            ("breaking a door open and rushing inside", "unlocking a door and going inside"),
            (
                "forcing a window with a crowbar and hurrying off with bags",
                "cleaning a window",
            ),
            ("ransacking the place and running away", "carrying parcels in"),
            ("climbing in and hastily throwing things about", "making a quiet round of the place"),
        ),
    ),
    "Explosion": ClassGrammar(
        (*_BUILDINGS[:3], *_ROADS[:3]),
        ("several passers-by", "a lorry driver", "a group of workers", "a few customers"),
        (
            ("thrown back by a sudden explosion with fire and smoke", "going about their day"),
            ("fleeing as a gas tank blows up in a growing fireball", "carrying boxes along"),
            (
                "running from a blast that fills the view with smoke",
                "walking past without stopping",
            ),
            ("caught by a bright flash and a rolling cloud of dust", "standing around and talking"),
        ),
    ),
    "Fighting": ClassGrammar(
        _STREETS,
        ("two young men", "a group of four men", "two women", "two football fans"),
        (
            ("throwing punches and kicks at each other", "talking and laughing together"),
            ("brawling with arms flailing", "shaking hands and parting"),
            ("wrestling and swinging fists wildly", "waiting in a queue"),
            ("pushing and punching until bystanders step back", "taking a stroll together"),
        ),
    ),
    "RoadAccidents": ClassGrammar(
        _ROADS,
        ("a sedan and a truck", "two cars", "a motorcycle and a car", "a van and a taxi"),
        (
            ("colliding at speed, spinning and coming to a dead stop", "passing in free lanes"),
            ("crashing head-on with parts flying off", "stopping smoothly at a light"),
            ("skidding into one another and bouncing apart", "turning one after the other"),
            ("ramming together in a violent pile-up", "driving along in steady traffic"),
        ),
    ),
    "Robbery": ClassGrammar(
        _SHOPS,
        (
            "a man in a cap and a cashier",
            "two men and a clerk",
            "a man in a coat and a customer",
            "a group of men and a shopkeeper",
        ),
        (
            (
                "struggling over the till before one runs off with cash",
                "paying at the till and leaving",
            ),
            ("threatening with wild gestures and emptying a counter", "asking about a product"),
            ("snatching a bag by force and sprinting out", "packing a bag at the counter"),
            ("smashing the display and grabbing what lies in it", "looking at the display"),
        ),
    ),
    "Shooting": ClassGrammar(
        _STREETS,
        ("a man in a suit", "two men in jackets", "a guard and a visitor", "a man with a backpack"),
        (
            ("firing shots with bright flashes as people scatter", "pointing out the way"),
            ("shooting at someone who drops to the floor", "leaning against a wall"),
            ("opening fire while bystanders run in all directions", "walking across the scene"),
            (
                "exchanging gunfire from behind cover with muzzle flashes",
                "standing guard quietly",
            ),
        ),
    ),
    "Shoplifting": ClassGrammar(
        _SHOPS,
        ("a woman with a big bag", "a man in a long coat", "two teenagers", "a couple"),
        (
            (
                "stuffing goods under a coat with quick hands and hurrying out",
                "putting goods in a basket",
            ),
            ("sweeping a shelf into a bag and dashing away", "comparing prices at a shelf"),
            ("tearing off tags and hiding items with hasty moves", "trying things on"),
            ("grabbing items by the armful and rushing off", "browsing slowly along the shelves"),
        ),
    ),
    "Stealing": ClassGrammar(
        (*_STREETS[:3], *_HOMES[3:5], _BUILDINGS[1]),
        ("a man in a cap", "two youths on foot", "a cyclist", "a person with a toolbox"),
        (
            ("tearing a trolley from its chain and racing off with it", "pushing a trolley"),
            ("yanking open a suitcase and snatching things from it", "opening a suitcase"),
            (
                "ripping a bag from a bench owner and running away",
                "setting down a bag on a bench",
            ),
            ("wrenching a parcel loose and fleeing with it", "delivering a parcel"),
        ),
    ),
    "Vandalism": ClassGrammar(
        (*_STREETS[:4], *_BUILDINGS[1:3]),
        ("two teenagers", "a man with a bag", "a group of youths", "a person in a jacket"),
        (
            ("smashing windows with heavy swings", "cleaning windows"),
            ("spraying paint with sweeping arms all over a wall", "putting up a poster"),
            ("kicking and wrecking a machine", "buying a drink from a machine"),
            ("hurling stones so that glass bursts", "sweeping the ground"),
        ),
    ),
}
