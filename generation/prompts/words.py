"""The words of the built-in grammar: four elements for each of the 13 UCF-Crime classes.

Events are verb phrases that follow "can be seen", in pairs: the abnormal one and what the same
subject does in the normal twin. The classes are those of UCF-Crime (Sultani et al., CVPR 2018).
"""

import dataclasses

VIEWPOINTS = (
    "a high corner security camera",
    "an overhead ceiling camera looking steeply down",
    "a pole-mounted CCTV camera at the roadside",
    "a wide-angle camera above a doorway",
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
            "a man and a dog",
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
            "two police officers and a suspect",
            "three officers and a man in a hood",
            "a plain-clothes officer and a driver",
            "a patrol and two young men",
        ),
        (
            (
                "wrestling on the ground until handcuffs are on",
                "exchanging a few words and moving on",
            ),
            ("struggling as the suspect is pressed against a car", "giving directions on a map"),
            ("chasing and tackling the one who flees", "strolling past each other"),
            ("forcing a resisting person down", "checking papers without any hurry"),
        ),
    ),
    "Arson": ClassGrammar(
        _BUILDINGS,
        (
            "a person in dark clothes",
            "two hooded figures",
            "a man with a canister",
            "a lone passer-by",
        ),
        (
            ("pouring fuel and setting the place on fire", "watering plants along the wall"),
            ("throwing a burning bottle so that flames climb up", "putting rubbish into a bin"),
            ("lighting a heap of boxes that goes up in flames", "stacking boxes neatly"),
            (
                "setting a parked vehicle alight and flames spreading",
                "washing a parked vehicle",
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
        ("a masked man", "two people with backpacks", "a figure in a cap", "three men in gloves"),
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
            ("fleeing as a gas tank blows up in a growing fireball", "unloading a gas tank"),
            ("running from a blast that fills the view with smoke", "walking past a parked van"),
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
            "a man with a gun and a cashier",
            "two masked robbers and a clerk",
            "a hooded man and a customer",
            "a gang and a shopkeeper",
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
        ("a man with a pistol", "two armed men", "a guard and an intruder", "a man in a car"),
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
            ("tearing at a bicycle lock and racing off", "parking a bicycle"),
            ("yanking open a car and snatching things from it", "opening a car and getting in"),
            (
                "ripping a bag from a bench owner and running away",
                "setting down a bag on a bench",
            ),
            ("wrenching a parcel loose and fleeing with it", "delivering a parcel"),
        ),
    ),
    "Vandalism": ClassGrammar(
        (*_STREETS[:4], *_BUILDINGS[1:3]),
        ("two teenagers", "a man with a bat", "a group of youths", "a person in a hood"),
        (
            ("smashing windows with heavy swings", "looking into shop windows"),
            ("spraying paint with sweeping arms all over a wall", "putting up a poster"),
            ("kicking and wrecking a machine", "buying a drink from a machine"),
            ("hurling stones so that glass bursts", "sweeping up leaves"),
        ),
    ),
}
