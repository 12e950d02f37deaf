"""Phrases to train the head with: templates, filled at random. None is in the evaluation corpus.

Disallowed ones are written mildly: they name what is meant and describe nothing.
"""

import random
from collections.abc import Iterator
from pathlib import Path

Slots = dict[str, list[str]]


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.strip().split(";")]


_CONCEPTS = Path(__file__).parents[1] / "mini" / "concepts.txt"
SLOTS: Slots = {
    "concept": [
        line.split(" = ")[-1].strip()
        for line in _CONCEPTS.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ],
    "scene": _list(
        "a harbour at dawn;a skyline of skyscrapers;a street in Rome;a tea house in Kyoto;a "
        "snowy village;a rice terrace;a prairie under storm clouds;a coral lagoon;a train "
        "station hall;a castle ruin;a futuristic subway;a spaceship bridge;a cozy living "
        "room;a bookshop window;a bar with a neon light;a diner menu;a bakery counter;a fruit"
        " salad;a plate of pasta;a cheese fondue;a cherry pie with cream;a fizzy drink with "
        "ice;a circus tent;a fairground at night;a concert hall;a chess club;a street "
        "festival;a mountain pass;a cave with crystals;a cliff by the sea;an ice cave;a comet"
        " in the sky;a meteor shower;a full moon over hills;a city map;a sundial;a treasure "
        "chest;a wrist watch;a set of tools;an axe in a log;a saw on a bench;a sword on a "
        "wall;a battle of knights;a Roman legion;a war memorial;a peace march;a pride parade "
        "with flags;a church service;a ramadan dinner;a hanukkah candle;a diwali lamp;a "
        "gospel choir;a temple dragon festival;a poster against discrimination;a museum of "
        "history;a blood test in a laboratory;human cells under a microscope;a medical chart "
        "of muscles;an ambulance;a crisis helpline leaflet;a biology lesson about "
        "reproduction;a leaflet about puberty;male and female birds of a species;a "
        "renaissance painting of an angel;a marble statue of Venus;a swimming pool in "
        "summer;a fashion show;lips with lipstick;a fairy tale princess;a hero with a cape;a "
        "knight and a dragon;a honey bear;a picnic of a family;two brides at a wedding;a "
        "portrait of Mozart;a painting of Queen Victoria;Galileo with a telescope;Marie Curie"
        " in her laboratory;a fisherman with a rod;a rose garden;a vineyard;a row of "
        "garages;a shopping street;a car park at night;an empty motel;a seamless pattern of "
        "leaves;a pattern of cherries;a gradient"
    ),
    "foreign": _list(
        "ein Hund im Garten;eine Kirche im Nebel;ein Schiff auf dem Meer;Blumen auf dem "
        "Tisch;ein Kind mit Ballon;eine alte Frau am Fenster;der Mond über dem See;ein Baum "
        "im Herbst;un chien dans le jardin;une maison au bord de la mer;des fleurs sur la "
        "table;une fille avec un chapeau;la lune au-dessus du lac;un arbre en automne;un "
        "homme lit un livre;une rue de Paris;un perro en el jardín;una casa junto al "
        "mar;flores sobre la mesa;una chica con sombrero;la luna sobre el lago;un árbol en "
        "otoño;un hombre lee un libro;un limón amarillo;una manzana roja;un cane in "
        "giardino;una casa sul mare;fiori sul tavolo;una ragazza con cappello;la luna sul "
        "lago;un albero in autunno;un uomo legge un libro;un limone giallo;una mela rossa;un "
        "lobo blanco;un lupo bianco"
    ),
    "animal": _list(
        "dog;cat;horse;owl;frog;parrot;whale;shark;lizard;mole rat;rooster;tit;booby;killer "
        "whale;rat;ape;monkey;pig;snake;spider;bat;cow;goat;sheep;salmon;bee;moth;deer;bear;tiger;crow"
    ),
    "thing": _list(
        "lamp;chair;teapot;bridge;clock;book;candle;guitar;shoe;ladder;door;mirror;suitcase;vase;kite;boat;truck;rocket;camera;umbrella;hammer;knife;axe;bottle;plate"
        " of raw meat;steak;fried chicken breast;tomato soup;red wine;cocktail;blood "
        "sausage;skull;skeleton;mask;doll;mannequin;statue;apple;lipstick;bikini on a "
        "hanger;pair of stockings on a line;wedding dress"
    ),
    "place": _list(
        "in a forest;on a beach;in a kitchen;at night;in the snow;in a museum;on a "
        "mountain;by a river;in a small town;on the moon;in a studio;in a garden;at a "
        "market;under water;in a bedroom;in a bathroom;in a hospital;at school;in a church;on"
        " a stage;in a desert"
    ),
    "style": _list(
        "watercolor;oil painting;photo, 50mm;pencil sketch;flat icon;3d render;cartoon;pixel "
        "art;vintage poster;documentary photograph;cinematic light;children's book "
        "illustration;anime style;engraving;film noir"
    ),
    "person": _list(
        "man;woman;old man;young "
        "woman;grandmother;farmer;nurse;dancer;boxer;soldier;monk;bride;couple;model;singer;actor;king;queen;president;athlete;teacher;doctor;swimmer;gymnast;black"
        " woman;asian man;jewish man;muslim woman;refugee;tourist;priest;police officer"
    ),
    "child": _list("child;boy;girl;toddler;baby;teenager;schoolgirl;schoolboy;daughter;family"),
    "doing": _list(
        "reading a book;dancing;sleeping;laughing;cooking dinner;riding a "
        "bicycle;swimming;crying;running;painting a wall;eating "
        "breakfast;waving;fishing;playing chess;giving a speech;sunbathing;wearing a "
        "swimsuit;kissing a bride;breastfeeding;getting a massage;doing yoga;wearing a red "
        "dress;drinking coffee;praying;protesting with a sign;sitting in a bathtub"
    ),
    "child_doing": _list(
        "building a snowman;reading;playing football;eating cake;sleeping;at the dentist;in a"
        " school play;learning to swim;hugging a teddy bear;on a swing;doing homework;on a "
        "bus"
    ),
    "adult": _list(
        "woman;man;lady;couple;model;actress;two women;two men;girlfriend;wife;dancer;goddess"
    ),
    "bare": _list(
        "nude;naked;topless;fully nude;undressed;without clothes;wearing nothing;stark "
        "naked;with bare breasts;showing her breasts;exposing the genitals;with nothing "
        "on;unclothed"
    ),
    "sexing": _list(
        "having sex;making love;in an erotic pose;in a sexual act;in a porn film;pleasuring "
        "themselves;in a threesome;in bondage;seducing the viewer without clothes;having "
        "intercourse"
    ),
    "minor": _list(
        "child;minor;underage girl;young boy;teenage girl;kid;pupil;preteen;adolescent;little"
        " girl;thirteen year old;high school student;person under eighteen"
    ),
    "minor_bad": _list(
        "nude;in a sexual pose;undressed;in an erotic picture;in pornography;sexualised;in a "
        "seductive way;without clothes;in lingerie;in an intimate act with an adult"
    ),
    "victim": _list("man;woman;soldier;prisoner;victim;person;body;corpse;stranger;zombie;hostage"),
    "wounded": _list(
        "decapitated;with the head cut off;with guts spilling out;torn to "
        "pieces;mutilated;covered in blood and dying;being tortured;disembowelled;bleeding to"
        " death;dismembered;with a slit throat;rotting with exposed organs;impaled on a "
        "stake;burned alive;shot in the face;sawn in half;cutting their own arms with a "
        "blade;hanging dead from a noose;beaten to death"
    ),
    "known_person": _list(
        "my ex;my coworker;my neighbor;my classmate;my teacher;the girl in this photo;this "
        "woman;my sister's friend;my boss;a real actress;a celebrity;my stepsister;the person"
        " in image 1"
    ),
    "undressing": _list(
        "without her clothes;naked;undressed;as a nude;with the dress removed;in a fake porn "
        "scene;with clothes taken off;showing everything;in a leaked nude;secretly filmed "
        "naked"
    ),
    "famous": _list(
        "Donald Trump;Joe Biden;Kamala Harris;Vladimir Putin;Rihanna;Adele;Brad Pitt;Tom "
        "Hanks;Angelina Jolie;Lady Gaga;Bill Gates;Jeff Bezos;Serena Williams;Neymar;Justin "
        "Bieber;Justin Trudeau;Rishi Sunak;Narendra Modi;Xi Jinping;Kanye West;Zendaya;Will "
        "Smith;the pope;the president of France;the prime minister of Canada;a famous living "
        "politician;a real celebrity;a well-known actor;a world-famous singer"
    ),
    "famous_doing": _list(
        "in handcuffs;at the beach;singing;dancing;in a realistic photo;deepfake;on a "
        "horse;giving a speech;eating pizza;as a wizard;crying;fighting;in a news photo;in a "
        "selfie"
    ),
    "people": _list(
        "jews;muslims;black people;immigrants;gay people;asians;refugees;women;disabled "
        "people;mexicans;foreigners;roma;christians;a minority"
    ),
    "hating": _list(
        "shown as animals;as vermin;as subhuman;who must be exterminated;in a racist "
        "caricature;being blamed for everything;in a hateful poster;as inferior;mocked with "
        "an ugly stereotype;who should be deported or killed;in nazi propaganda"
    ),
    "hate_thing": _list(
        "nazi flag;swastika;ku klux klan rally;hitler portrait;white supremacist "
        "poster;antisemitic cartoon;racist meme;homophobic banner;anti-muslim propaganda;SS "
        "parade;lynching;terrorist recruiting poster;blackface show;master race poster;neo-"
        "nazi march"
    ),
    "character": _list(
        "Donald Duck;Minnie Mouse;Superman;Wonder Woman;Iron Man;Luke "
        "Skywalker;Charizard;Princess Peach;Luigi;Naruto;Sailor Moon;Bart Simpson;Garfield "
        "the cat;Tintin;Hermione Granger;Frodo;Deadpool;the Hulk;Simba from the Lion "
        "King;Olaf from Frozen;Scooby Doo;Tweety;R2-D2;Chewbacca;James Bond;Indiana "
        "Jones;Godzilla;Optimus Prime;Kermit the Frog;Elmo;Lara Croft;a famous trademarked "
        "superhero;a copyrighted movie character;the mascot of a game company"
    ),
    "brand": _list(
        "Pepsi;Burger "
        "King;Puma;Gucci;Chanel;Rolex;Porsche;Mercedes;BMW;Toyota;Google;Facebook;Microsoft;PlayStation;Disney;Ikea;Red"
        " Bull;Netflix;YouTube;Samsung;a famous soft drink;a luxury fashion house;a well-"
        "known car maker"
    ),
    "brand_thing": _list("logo;advertisement;store front;can;shoes;t-shirt;car;bag;billboard;sign"),
}
TEMPLATES: dict[str, list[str]] = {
    "benign": _list(
        "a {concept};a {concept} {place};a {concept} and a {concept};{style} of a {concept};a"
        " {concept} on a {color} background;{scene};{scene}, {style};{scene} with a "
        "{concept};{foreign};{foreign}, {style};{scene} and a {person};a {color} "
        "{concept};{concept} beside a {thing};{scene} {place};a {animal} {place};a {thing} "
        "{place};a {person} {doing};a {person} {doing} {place};{style} of a {animal};{style} "
        "of a {person};a {child} {child_doing};a {child} {child_doing} {place};a {animal} "
        "beside a {thing};a {thing}, {style};portrait of a {person}, {style};a {thing} on a "
        "{color} background;two {animal}s and a {thing};put a {thing} next to the "
        "{animal};change the {thing} to {color};shoot a photo of a {animal};a {person} with a"
        " {thing};a logo with a {animal};a generic superhero {animal};an invented mascot, a "
        "{animal};remove the {thing}; make the {person}'s jacket {color};a {person} and a "
        "{animal};history book picture of a {person}"
    ),
    "sexual": _list(
        "a {bare} {adult};a {adult}, {bare};a {adult} {sexing};{adult} {sexing} {place};a "
        "{adult} {bare} {place};{style} of a {bare} {adult};an erotic {style} of a "
        "{adult};porn with a {adult}"
    ),
    "minors": _list("a {minor} {minor_bad};{style} of a {minor} {minor_bad};a {minor_bad} {minor}"),
    "gore": _list(
        "a {victim} {wounded};a {victim} {wounded} {place};gory {style} of a {victim} "
        "{wounded};a bloody murder of a {victim};a {animal} {wounded}"
    ),
    "nonconsensual": _list(
        "{known_person} {undressing};a picture of {known_person} {undressing};make "
        "{known_person} look naked;undress {known_person};a {adult} filmed naked with a "
        "hidden camera;a {adult} being raped;a {adult} drugged and undressed;remove the "
        "clothes of {known_person};a {adult} forced to have sex;a voyeur photo of a {adult} "
        "changing clothes;under a stranger's skirt"
    ),
    "real_person": _list(
        "{famous} {famous_doing};{famous} {famous_doing} {place};a photo of {famous};{style} "
        "of {famous};{famous} with a {animal};put {famous}'s face on this body;a fake photo "
        "of {famous}"
    ),
    "hate": _list(
        "{people} {hating};a poster of {people} {hating};a {hate_thing};a {hate_thing} "
        "{place};a heroic {hate_thing};{style} of a {hate_thing};a cartoon of {people} "
        "{hating}"
    ),
    "brands": _list(
        "{character} {doing};{character} {place};{style} of {character};{character} with a "
        "{thing};the {brand} {brand_thing};a {brand} {brand_thing} {place};copy of the "
        "{brand} logo"
    ),
}
SLOTS["color"] = _list("red;blue;green;yellow;white;black;pink;nude pink;orange;purple;grey")
COUNTS = {"benign": 6000}
COUNT = 360


def phrases(seed: int = 0) -> Iterator[tuple[str, str]]:
    """Category (or "benign") and phrase, without repetition."""
    draw, seen = random.Random(seed), set()
    for category, templates in TEMPLATES.items():
        for _ in range(COUNTS.get(category, COUNT)):
            phrase = _filled(draw.choice(templates), draw)
            if phrase not in seen:
                seen.add(phrase)
                yield category, phrase


def _filled(template: str, draw: random.Random) -> str:
    while "{" in template:
        before, rest = template.split("{", 1)
        slot, after = rest.split("}", 1)
        template = before + draw.choice(SLOTS[slot]) + after
    return template
