"""Which operations a scenario can't do without."""

from loadtest.adapter.adapter import ServerAdapter
from loadtest.adapter.operations import Operation
from loadtest.run.choices import Scenario

NEEDS: dict[Scenario, Operation] = {
    Scenario.SEARCH: Operation.SEARCH,
    Scenario.BATCH: Operation.SEND_BATCH,
    Scenario.READ_HEAVY: Operation.LIST_NEWEST,
    Scenario.FOLLOWERS: Operation.FOLLOW,
}
"""Other scenarios leave out what a server can't do."""


def lacking(adapter: ServerAdapter, scenario: Scenario) -> str | None:
    """Why a scenario can't run with an adapter, in words; None if it can."""
    needed = NEEDS.get(scenario)
    if needed is None or needed in adapter:
        return None
    return f"{scenario} needs `{needed}`, which the adapter of {adapter.name} does not have"


LEFT_OUT: dict[Operation, str] = {
    Operation.DELETE_APPLICATION: "the run's applications stay on the server",
    Operation.LIST_CHATS: "the audit knows chats only by their answers: a lost chat is not found",
    Operation.SEND_BATCH: "the messages that chats begin with are sent one by one",
    Operation.READ: "the time until a message is stored is not measured",
    Operation.EDIT: "no message is edited",
    Operation.DELETE: "no message is deleted",
    Operation.LIST_NEWEST: "pages of the newest messages are not audited",
    Operation.LIST_BEFORE: "pages before the newest are not read",
    Operation.SEARCH: "nothing is searched: neither the time until a message is found is measured,"
    " nor is searching audited",
    Operation.FOLLOW: "chats are not followed",
}
"""What a run leaves out if the server can't do an operation."""


def left_out(adapter: ServerAdapter) -> list[str]:
    """What any run with an adapter leaves out, in words."""
    said = [f"`{operation}` is missing: {LEFT_OUT[operation]}" for operation in adapter.missing]
    if adapter.max_found:
        said.append(
            f"a search finds at most {adapter.max_found}: the audit asks for no more of each chat"
        )
    return said
