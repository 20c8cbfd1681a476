"""Reading more than writing: mostly the newest pages of chats, many of them only if they have changed.

locust -f loadtest/scenarios/read_heavy.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.adapter.operations import Operation
from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.run.choices import Scenario
from loadtest.users.chat_user import ChatTasks, sends
from loadtest.users.page_user import PageUser


class ReadHeavyTasks(ChatTasks):
    """Of 20 requests, 16 list the newest messages, 3 send one, and one searches."""

    user: PageUser

    @tag("list", "read")
    @task(16)
    def list_newest(self) -> None:
        """List the newest messages of a chat."""
        self.user.list_newest()

    @tag("send")
    @task(3)
    def send(self) -> None:
        """Send a message."""
        self.user.send()

    @tag("search", "read")
    @task
    @sends(Operation.SEARCH)
    def search(self) -> None:
        """Search a chat."""
        self.user.search()


class ReadHeavyUser(PageUser):
    """64 chats of 1,000 messages each, in 16 applications."""

    tasks = [ReadHeavyTasks]  # noqa: RUF012  # Locust declares it so
    scenario = Scenario.READ_HEAVY
    layout = ScenarioLayout(applications=16, chats=64, messages_per_chat=1_000)
