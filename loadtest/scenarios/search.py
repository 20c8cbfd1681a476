"""Searches in chats that begin with a thousand messages each; keywords follow Zipf's law.

locust -f loadtest/scenarios/search.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.adapter.operations import Operation
from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.run.choices import Scenario
from loadtest.users.chat_user import ChatTasks, ChatUser, sends


class SearchTasks(ChatTasks):
    """Of 20 requests, 18 search, one lists a page, and one sends a message, so that the index changes."""

    @tag("search", "read")
    @task(18)
    @sends(Operation.SEARCH)
    def search(self) -> None:
        """Search a chat."""
        self.user.search()

    @tag("list", "read")
    @task
    def list_page(self) -> None:
        """List a page of a chat."""
        self.user.list_page()

    @tag("send")
    @task
    def send(self) -> None:
        """Send a message."""
        self.user.send()


class SearchUser(ChatUser):
    """32 chats of 1,000 messages each, in 8 applications."""

    tasks = [SearchTasks]  # noqa: RUF012  # Locust declares it so
    scenario = Scenario.SEARCH
    layout = ScenarioLayout(applications=8, chats=32, messages_per_chat=1_000)
