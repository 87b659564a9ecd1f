"""The people of the demo data: customers in many countries, and the operators of the panel.

Nobody here exists. E-mail addresses are in domains reserved for examples.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from random import Random
from typing import Final, NamedTuple

from users.models import User

PASSWORD: Final = "operator"  # noqa: S105 - of the demo operators, and meant to be known
NO_LOGIN: Final = "!"  # no password hashes to this
JOINED_WITHIN: Final = timedelta(days=730)


class Country(NamedTuple):
    """Names and addresses of one country. In patterns, each # stands for a digit."""

    name: str
    first_names: Sequence[str]
    last_names: Sequence[str]
    cities: Sequence[tuple[str, str, str]]  # city, region, postal code
    streets: Sequence[str]
    address: str  # with {street} and {house}
    phone: str
    tin: str
    company: str  # with {name}
    time_zone: str


COUNTRIES: Final = (
    Country(
        "Germany",
        ("Anna", "Jonas", "Katharina", "Lukas", "Sabine", "Stefan", "Miriam", "Jürgen"),
        ("Keller", "Brandt", "Hoffmann", "Schäfer", "Vogel", "Lindner", "Krüger", "Albrecht"),
        (
            ("Hamburg", "Hamburg", "20###"),
            ("Leipzig", "Sachsen", "041##"),
            ("Köln", "Nordrhein-Westfalen", "506##"),
        ),
        ("Hafenstraße", "Lindenallee", "Am Güterbahnhof", "Industrieweg"),
        "{street} {house}",
        "+49 40 55####",
        "DE#########",
        "{name} GmbH",
        "Europe/Berlin",
    ),
    Country(
        "France",
        ("Camille", "Hugo", "Élodie", "Mathieu", "Chloé", "Olivier", "Inès", "Benoît"),
        ("Lefèvre", "Moreau", "Girard", "Fontaine", "Marchand", "Rousseau", "Dupuis", "Caron"),
        (
            ("Lyon", "Auvergne-Rhône-Alpes", "6900#"),
            ("Nantes", "Pays de la Loire", "44###"),
            ("Lille", "Hauts-de-France", "59###"),
        ),
        ("rue des Tanneurs", "avenue de la Gare", "quai du Port", "rue Pasteur"),
        "{house} {street}",
        "+33 1 99 00 ## ##",
        "FR###########",
        "{name} SARL",
        "Europe/Paris",
    ),
    Country(
        "Spain",
        ("Lucía", "Javier", "Marta", "Álvaro", "Carmen", "Diego", "Núria", "Pablo"),
        ("García Ruiz", "Navarro", "Ortega", "Molina", "Serrano", "Iglesias", "Vidal", "Castro"),
        (
            ("Valencia", "Comunitat Valenciana", "460##"),
            ("Zaragoza", "Aragón", "500##"),
            ("Bilbao", "País Vasco", "480##"),
        ),
        ("Calle Mayor", "Avenida del Puerto", "Calle de la Industria", "Paseo de Gracia"),
        "{street}, {house}",
        "+34 910 55 ## ##",
        "ESB########",
        "{name} S.L.",
        "Europe/Madrid",
    ),
    Country(
        "Poland",
        ("Zofia", "Piotr", "Agnieszka", "Tomasz", "Ewa", "Marek", "Joanna", "Krzysztof"),
        ("Nowak", "Wiśniewski", "Zieliński", "Mazur", "Kaczmarek", "Wójcik", "Pawlak", "Sikora"),
        (
            ("Gdańsk", "Pomorskie", "80-###"),
            ("Wrocław", "Dolnośląskie", "50-###"),
            ("Łódź", "Łódzkie", "90-###"),
        ),
        ("ul. Portowa", "ul. Długa", "al. Jana Pawła II", "ul. Fabryczna"),
        "{street} {house}",
        "+48 22 555 ## ##",
        "PL##########",
        "{name} Sp. z o.o.",
        "Europe/Warsaw",
    ),
    Country(
        "United Kingdom",
        ("Olivia", "Harry", "Amelia", "Callum", "Priya", "Gareth", "Imogen", "Rhys"),
        ("Ashworth", "Pemberton", "Whitaker", "Hughes", "Patel", "Sinclair", "Marsh", "Barlow"),
        (
            ("Bristol", "England", "BS1 #TQ"),
            ("Glasgow", "Scotland", "G2 #DF"),
            ("Cardiff", "Wales", "CF10 #AL"),
        ),
        ("Harbour Road", "Mill Lane", "Station Approach", "Quayside"),
        "{house} {street}",
        "+44 20 7946 0###",
        "GB#########",
        "{name} Ltd",
        "Europe/London",
    ),
    Country(
        "United States",
        ("Emily", "Marcus", "Grace", "Tyler", "Rosa", "Wesley", "Naomi", "Dale"),
        ("Carter", "Hollis", "Ramirez", "Whitfield", "Nguyen", "Baxter", "Okafor", "Lindgren"),
        (
            ("Denver", "Colorado", "802##"),
            ("Columbus", "Ohio", "432##"),
            ("Tulsa", "Oklahoma", "741##"),
        ),
        ("Commerce Drive", "Railroad Avenue", "Maple Street", "Airport Road"),
        "{house} {street}",
        "+1 303 555 01##",
        "##-#######",
        "{name} LLC",
        "America/Denver",
    ),
    Country(
        "Brazil",
        ("Mariana", "Rafael", "Beatriz", "Thiago", "Larissa", "Gustavo", "Camila", "João"),
        ("Souza", "Almeida", "Ferreira", "Barbosa", "Teixeira", "Cardoso", "Ribeiro", "Nunes"),
        (
            ("Curitiba", "Paraná", "80###-###"),
            ("Campinas", "São Paulo", "130##-###"),
            ("Recife", "Pernambuco", "50###-###"),
        ),
        ("Rua das Palmeiras", "Avenida Brasil", "Rua do Comércio", "Travessa do Porto"),
        "{street}, {house}",
        "+55 41 5555-####",
        "##.###.###/0001-##",
        "{name} Ltda.",
        "America/Sao_Paulo",
    ),
    Country(
        "South Africa",
        ("Thandi", "Pieter", "Lerato", "Sipho", "Anneke", "Kabelo", "Zanele", "Johan"),
        ("Dlamini", "Botha", "Nkosi", "van Wyk", "Mokoena", "Pillay", "Khumalo", "Steyn"),
        (
            ("Durban", "KwaZulu-Natal", "40##"),
            ("Cape Town", "Western Cape", "80##"),
            ("Pretoria", "Gauteng", "00##"),
        ),
        ("Long Street", "Voortrekker Road", "Dock Road", "Church Street"),
        "{house} {street}",
        "+27 21 555 ####",
        "4#########",
        "{name} (Pty) Ltd",
        "Africa/Johannesburg",
    ),
    Country(
        "India",
        ("Aarav", "Diya", "Rohan", "Meera", "Vikram", "Ananya", "Karthik", "Nisha"),
        ("Sharma", "Iyer", "Reddy", "Banerjee", "Kulkarni", "Menon", "Chauhan", "Desai"),
        (
            ("Pune", "Maharashtra", "4110##"),
            ("Chennai", "Tamil Nadu", "6000##"),
            ("Jaipur", "Rajasthan", "3020##"),
        ),
        ("MG Road", "Station Road", "Industrial Estate Road", "Gandhi Nagar"),
        "{house}, {street}",
        "+91 20 5555 ####",
        "27AAACD####F1Z#",
        "{name} Pvt. Ltd.",
        "Asia/Kolkata",
    ),
)

COMPANY_WHAT: Final = (
    "Logistics", "Couriers", "Fleet Services", "Rentals", "Cold Chain", "Freight", "Taxi",
    "Construction", "Farms", "Waste Services", "Security", "Bus Lines", "Water Supply", "Vending",
)  # fmt: skip
COMPANY_WHO: Final = (
    "Northway", "Bluepine", "Meridian", "Harbour", "Silverline", "Redwood", "Summit", "Atlas",
    "Clearwater", "Ironbridge", "Sunfield", "Greywolf", "Lighthouse", "Evergreen", "Compass",
)  # fmt: skip
COMMENTS: Final = (
    "Pays by invoice; call accounting before suspending.",
    "Asked for monthly statements by e-mail.",
    "Prefers to be called in the morning.",
    "Large customer: changes of price only after talking to sales.",
)


class Job(NamedTuple):
    """An operator and the group with the operator's permissions."""

    email: str
    first_name: str
    last_name: str
    group: str
    logs_in: bool = True


# All who log in have the password PASSWORD. The first one may do everything.
JOBS: Final = (
    Job("operator@example.com", "Olga", "Perera", "Administrator"),
    Job("billing@example.com", "Ben", "Calloway", "Billing operator"),
    Job("viewer@example.com", "Vera", "Lund", "Viewer"),
    Job("night-shift@example.com", "Nils", "Aaltonen", "Billing operator", logs_in=False),
    Job("gateway@example.com", "Payment", "Gateway", "Billing operator", logs_in=False),
    Job("platform@example.com", "Tracking", "Hub", "Billing operator", logs_in=False),
)


def customers(rng: Random, count: int, now: datetime) -> Iterator[User]:
    """Yields `count` customers, not saved, in the order in which they joined.

    The first few are there from the start, and stay.
    """
    joined = sorted(now - JOINED_WITHIN * rng.uniform(0.002, 1) for _ in range(count))
    for place, at in enumerate(joined):
        if place < max(8, count // 3):
            at = now - JOINED_WITHIN * (1 - 0.45 * place / count)  # noqa: PLW2901
        yield _customer(rng, place, at.replace(microsecond=0))


def _customer(rng: Random, place: int, joined: datetime) -> User:
    country = rng.choice(COUNTRIES)
    first_name, last_name = rng.choice(country.first_names), rng.choice(country.last_names)
    city, region, postal_code = rng.choice(country.cities)
    legal_type = rng.choice(
        ["legal_entity"] if place == 0 else ["individual", "legal_entity", "sole_trader"]
    )
    company = f"{rng.choice(COMPANY_WHO)} {rng.choice(COMPANY_WHAT)}"
    legal_name, domain = "", "mail.example"
    if legal_type == "legal_entity":
        legal_name, domain = country.company.format(name=company), f"{_ascii(company)}.example"
    elif legal_type == "sole_trader":
        legal_name = f"{first_name} {last_name}"
    mailbox = f"{_ascii(first_name)}.{_ascii(last_name)}"
    return User(
        # The number makes it unique.
        email=f"{mailbox}{place + 1}@{domain}",
        password=NO_LOGIN,
        first_name=first_name,
        last_name=last_name,
        phone=_digits(rng, country.phone),
        legal_type=legal_type,
        legal_name=legal_name,
        tin=_digits(rng, country.tin) if legal_type != "individual" else "",
        country=country.name,
        region=region,
        city=city,
        street_address=country.address.format(
            street=rng.choice(country.streets), house=rng.randint(1, 180)
        ),
        postal_code=_digits(rng, postal_code),
        time_zone=country.time_zone,
        comment=rng.choice(COMMENTS) if rng.random() < 0.08 else "",
        is_active=True,
        created_at=joined,
    )


def _digits(rng: Random, pattern: str) -> str:
    return re.sub("#", lambda _: str(rng.randrange(10)), pattern)


def _ascii(name: str) -> str:
    """Returns the name as part of an e-mail address."""
    plain = unicodedata.normalize("NFKD", name.replace("ł", "l").replace("Ł", "L"))
    return re.sub(r"[^a-z]+", "-", plain.encode("ascii", "ignore").decode().lower())
