from tests.api.rest.programs import program_of_administrator
from tests.conftest import Connections
from users.models import User

SPELLINGS = ("ada@bücher.example", "ada@xn--bcher-kva.example")


def test_of_two_spellings_at_once_one_is_let_in(connections: Connections) -> None:
    programs = [program_of_administrator() for _ in range(4)]

    def create(place: int) -> int:
        answer = programs[place].post("/users", {"email": SPELLINGS[place % 2]})
        return answer.status_code

    outcomes = connections(4, create)
    assert sorted(each.result for each in outcomes) == [201, 409, 409, 409]
    assert User.objects.with_mailbox(SPELLINGS[0]).count() == 1
