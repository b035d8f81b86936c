"""Phrases of the prompt banks, written for this project because published ones have no licence.

Each bank has two vocabularies. "motion" describes a class in the words that the rule-based
captioner (motion_captions.py) uses for the same sights; "plain" describes it in everyday words, as
models trained on human captions do. A captioner names its vocabulary. Whoever changes a phrase
raises banks.BANK_VERSION, because stores with different banks are not comparable.
"""

# UCF-Crime: its 13 classes (Sultani et al., 2018).
_UCF_CRIME_MOTION = {
    "Abuse": (
        "hitting a helpless victim, erratic motion to and fro close together in one spot",
        "dragging and kicking someone, violent erratic motion to and fro",
    ),
    "Arrest": (
        "officers wrestling with a suspect, violent erratic motion close together in one spot",
        "a suspect tackled after a chase, erratic motion to and fro in part of the scene",
    ),
    "Arson": (
        "setting a place on fire, bright orange flames flickering",
        "flames flickering and smoke rising, erratic motion to and fro in part of the scene",
    ),
    "Assault": (
        "attacking someone with violent blows, violent erratic motion close together",
        "beating a person, erratic motion to and fro close together in one spot",
    ),
    "Burglary": (
        "breaking in by force, erratic motion to and fro in one spot",
        "ransacking a place and running away, erratic motion to and fro, scattering outwards",
    ),
    "Explosion": (
        "an explosion, a sudden bright flash, bright orange flames flickering",
        "a blast with smoke and debris scattering outwards, violent erratic motion",
    ),
    "Fighting": (
        "people fighting, violent erratic motion to and fro close together in one spot",
        "several people-sized regions brawling, erratic motion to and fro close together",
    ),
    "RoadAccidents": (
        "vehicle-shaped regions moving very fast and colliding, violent erratic motion",
        "a crash, debris scattering outwards, erratic motion to and fro in one spot",
    ),
    "Robbery": (
        "robbers struggling with a clerk, violent erratic motion close together in one spot",
        "snatching a bag by force, erratic motion to and fro, scattering outwards",
    ),
    "Shooting": (
        "gun shots, a sudden bright flash, people scattering outwards",
        "people fleeing from shots, a sudden bright flash, erratic motion to and fro",
    ),
    "Shoplifting": (
        "stuffing goods into a bag with quick hands, erratic motion to and fro in one spot",
        "grabbing goods from a shelf, erratic motion to and fro close together",
    ),
    "Stealing": (
        "tearing something loose, erratic motion to and fro in one spot",
        "snatching something and fleeing, violent erratic motion to and fro",
    ),
    "Vandalism": (
        "smashing things with heavy swings, violent erratic motion to and fro in one spot",
        "wrecking a machine, debris scattering outwards, erratic motion to and fro",
    ),
}
_UCF_CRIME_PLAIN = {
    "Abuse": (
        "a man keeps hitting a helpless person who does not defend himself",
        "someone is kicking a dog and dragging it across the floor",
    ),
    "Arrest": (
        "police officers hold a man down on the ground and handcuff him",
        "a policeman chases a suspect and pushes him against a car",
    ),
    "Arson": (
        "a man pours gasoline on a building and sets it on fire",
        "someone lights a fire next to a parked car and runs away from the flames",
    ),
    "Assault": (
        "a man suddenly attacks a passer-by on the street and knocks her down",
        "a group of men beat a person lying on the ground",
    ),
    "Burglary": (
        "a masked man breaks a door open and climbs into a house at night",
        "burglars force their way into a closed store and search the drawers",
    ),
    "Explosion": (
        "something explodes with a huge ball of fire and black smoke",
        "a blast shatters the windows and throws pieces into the air",
    ),
    "Fighting": (
        "two men are punching each other in the middle of a crowd",
        "people are brawling in a bar, pushing and throwing fists",
    ),
    "RoadAccidents": (
        "two cars crash into each other at an intersection",
        "a car hits a motorcyclist and the rider is thrown onto the road",
    ),
    "Robbery": (
        "a robber with a gun threatens a cashier and takes money from the register",
        "masked men with weapons force customers of a store to lie down",
    ),
    "Shooting": (
        "a man points a gun at someone and fires",
        "people duck and run for cover while a gunman shoots",
    ),
    "Shoplifting": (
        "a woman in a store hides goods under her coat",
        "a customer puts merchandise into his bag without paying and walks out",
    ),
    "Stealing": (
        "a thief takes a bicycle that is not his and rides off",
        "a man opens a parked car with a tool and takes a bag out of it",
    ),
    "Vandalism": (
        "a man smashes a shop window with a bat",
        "someone sprays paint on a wall and breaks a vending machine",
    ),
}
# XD-Violence: its six classes (Wu et al., 2020); it includes films, sports and handheld cameras.
_XD_VIOLENCE_MOTION = {
    "Abuse": (
        "slapping and shaking someone weaker, erratic motion to and fro in one spot",
        "pulling a struggling victim along, violent erratic motion close together",
    ),
    "CarAccident": (
        "a large vehicle-shaped region moving very fast, then a crash scattering outwards",
        "vehicles colliding and turning over, violent erratic motion in part of the scene",
    ),
    "Explosion": (
        "a sudden bright flash and smoke all over the scene, scattering outwards",
        "a fireball, bright orange flames flickering all over the scene",
    ),
    "Fighting": (
        "two large regions trading blows, violent erratic motion close together in one spot",
        "fighters wrestling and falling, erratic motion to and fro in one spot",
    ),
    "Riot": (
        "a crowd of people-sized regions, violent erratic motion all over the scene",
        "a mob surging and throwing things, flames flickering, erratic motion all over the scene",
    ),
    "Shooting": (
        "muzzle flashes, a sudden bright flash, large regions barely moving",
        "shots fired from cover, a sudden bright flash, scattering outwards",
    ),
}
_XD_VIOLENCE_PLAIN = {
    "Abuse": (
        "a man slaps a frightened woman and pulls her by the hair",
        "an adult beats a crying child with a stick",
    ),
    "CarAccident": (
        "a car loses control, flips over and slides along the road",
        "a dashboard camera shows a truck ramming another vehicle",
    ),
    "Explosion": (
        "a building blows up in a cloud of fire and dust",
        "a bomb goes off and debris rains down on the ground",
    ),
    "Fighting": (
        "two fighters are wrestling and punching each other on the floor",
        "a man knocks his opponent out in a fist fight",
    ),
    "Riot": (
        "an angry crowd throws stones and bottles at police with shields",
        "rioters are smashing shops and burning cars in the street",
    ),
    "Shooting": (
        "soldiers are firing rifles from behind a wall",
        "a man in a suit shoots several people with a pistol",
    ),
}
# ShanghaiTech Campus (Luo et al., 2017) has no official list of classes: every behaviour that is
# unusual on a campus is an anomaly. These classes are what its videos are commonly said to show.
_SHANGHAITECH_MOTION = {
    "Biking": (
        "one people-sized region on a bicycle moving very fast to the right or left",
        "a cyclist among walkers, one region moving fast towards the camera, calm and even",
    ),
    "Skateboarding": (
        "one people-sized region gliding on a board, moving fast, calm and even",
        "a skater rolling away from the camera very fast",
    ),
    "Vehicle": (
        "one large vehicle-shaped region moving fast along the path",
        "a car or cart between people, a large vehicle-shaped region moving at a steady pace",
    ),
    "Running": (
        "one people-sized region running, moving very fast, somewhat restless",
        "a runner moving very fast away from the camera, somewhat restless",
    ),
    "Chasing": (
        "two people-sized regions moving very fast, one after the other",
        "one person chased by another, moving very fast in different directions",
    ),
    "Fighting": (
        "two people-sized regions pushing each other, violent erratic motion close together",
        "a scuffle on the path, erratic motion to and fro close together in one spot",
    ),
    "Robbery": (
        "a bag torn away, erratic motion to and fro, then one region moving very fast",
        "a thief running off with a bag, two people-sized regions moving very fast",
    ),
    "Jumping": (
        "one people-sized region jumping up and down, erratic motion to and fro in one spot",
        "leaping over something, one region moving very fast towards the camera",
    ),
    "Falling": (
        "one person falling over, then no region barely moving",
        "a people-sized region dropping to the ground, erratic motion in one spot",
    ),
    "Throwing": (
        "one small region moving very fast through the air",
        "things thrown about, small regions moving very fast in different directions",
    ),
}
_SHANGHAITECH_PLAIN = {
    "Biking": (
        "a person rides a bicycle along the walkway between pedestrians",
        "a student on a motor scooter drives through people on foot",
    ),
    "Skateboarding": (
        "a boy on a skateboard rolls past people who are walking",
        "someone on roller skates glides over the square",
    ),
    "Vehicle": (
        "a car drives slowly over the footpath of a campus",
        "a man pushes a loaded cart along the pedestrian path",
    ),
    "Running": (
        "a person suddenly starts running across the campus",
        "a man sprints past students who are walking",
    ),
    "Chasing": (
        "one student is chasing another across the yard",
        "people run after a man who is trying to get away",
    ),
    "Fighting": (
        "two students push and hit each other on the sidewalk",
        "several boys are kicking and wrestling outside a building",
    ),
    "Robbery": (
        "someone grabs a bag from a pedestrian and runs away with it",
        "a man snatches a phone out of a girl's hand",
    ),
    "Jumping": (
        "a person jumps up and down on the path",
        "a boy climbs over a railing and leaps down",
    ),
    "Falling": (
        "a pedestrian stumbles and falls to the ground",
        "a person is lying on the pavement while others stand around",
    ),
    "Throwing": (
        "a man throws a bag high into the air",
        "someone tosses an object across the walkway",
    ),
}
# TAD (Lv et al., 2021): the seven groups by which its files are named.
_TAD_MOTION = {
    "Accident": (
        "two large vehicle-shaped regions moving very fast and colliding, scattering outwards",
        "a car spinning after a collision, violent erratic motion in one spot",
    ),
    "IllegalTurn": (
        "one vehicle-shaped region moving slowly in different directions, turning round",
        "a vehicle turning across the lanes, moving very slowly to the left",
    ),
    "IllegalOccupation": (
        "one large vehicle-shaped region barely moving while others pass very fast",
        "a vehicle standing in the lane, barely moving, calm and even",
    ),
    "Retrograde": (
        "one vehicle-shaped region moving fast towards the camera, others away from the camera",
        "a vehicle against the traffic, regions moving very fast in different directions",
    ),
    "Else": (
        "a vehicle swerving or skidding, somewhat restless, moving very fast",
        "smoke and bright orange flames flickering at the roadside",
    ),
    "PedestrianOnRoad": (
        "one small region moving slowly between vehicle-shaped regions moving very fast",
        "a walker crossing the lanes, one people-sized region moving at a steady pace",
    ),
    "RoadSpills": (
        "small regions dropping from a vehicle and scattering outwards",
        "cargo rolling over the road, several small regions moving in different directions",
    ),
}
_TAD_PLAIN = {
    "Accident": (
        "a truck crashes into the back of a car on the highway",
        "several vehicles have collided and block the lanes",
    ),
    "IllegalTurn": (
        "a car makes a u-turn over the solid line into oncoming traffic",
        "a vehicle suddenly turns across several lanes at a junction",
    ),
    "IllegalOccupation": (
        "a car has stopped in the middle of a lane and traffic drives around it",
        "a van is driving on the emergency lane of a motorway",
    ),
    "Retrograde": (
        "a car drives the wrong way against the traffic",
        "a truck is reversing on the highway while cars come towards it",
    ),
    "Else": (
        "a vehicle is on fire at the side of the road",
        "a car skids on the wet road and swerves from lane to lane",
    ),
    "PedestrianOnRoad": (
        "a person walks across a busy highway between moving cars",
        "a man is standing on the roadway while traffic passes",
    ),
    "RoadSpills": (
        "boxes fall off a truck and scatter over the road",
        "cargo and broken pieces are lying on the lanes of a highway",
    ),
}
PHRASES = {
    "ucf_crime": {"motion": _UCF_CRIME_MOTION, "plain": _UCF_CRIME_PLAIN},
    "xd_violence": {"motion": _XD_VIOLENCE_MOTION, "plain": _XD_VIOLENCE_PLAIN},
    "shanghaitech": {"motion": _SHANGHAITECH_MOTION, "plain": _SHANGHAITECH_PLAIN},
    "tad": {"motion": _TAD_MOTION, "plain": _TAD_PLAIN},
}
