"""Everyday use: mostly sending, some listing and searching, few edits and deletions.

locust -f loadtest/scenarios/mixed.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.adapter.operations import Operation
from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.run.choices import Scenario
from loadtest.users.chat_user import ChatTasks, ChatUser, sends


class MixedTasks(ChatTasks):
    """Of 100 requests: 60 messages, 15 pages, 10 searches, 8 edits, 5 deletions, 2 new chats."""

    @tag("send")
    @task(60)
    def send(self) -> None:
        """Send a message."""
        self.user.send()

    @tag("list", "read")
    @task(15)
    def list_page(self) -> None:
        """List a page of a chat."""
        self.user.list_page()

    @tag("search", "read")
    @task(10)
    @sends(Operation.SEARCH)
    def search(self) -> None:
        """Search a chat."""
        self.user.search()

    @tag("edit")
    @task(8)
    @sends(Operation.EDIT)
    def edit(self) -> None:
        """Edit a message."""
        self.user.edit()

    @tag("delete")
    @task(5)
    @sends(Operation.DELETE)
    def delete(self) -> None:
        """Delete a message."""
        self.user.delete()

    @tag("create")
    @task(2)
    def new_chat(self) -> None:
        """Create a chat."""
        self.user.new_chat()


class MixedUser(ChatUser):
    """16 applications, 64 chats."""

    tasks = [MixedTasks]  # noqa: RUF012  # Locust declares it so
    scenario = Scenario.MIXED
    layout = ScenarioLayout(applications=16, chats=64)
