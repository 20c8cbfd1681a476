"""Ten thousand chats of two hundred applications: caches rarely help.

locust -f loadtest/scenarios/many_tenants.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.adapter.operations import Operation
from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.run.choices import Scenario
from loadtest.users.chat_user import ChatTasks, ChatUser, sends


class ManyTenantsTasks(ChatTasks):
    """Of 10 requests, 7 send a message, 2 list a page, and one searches."""

    @tag("send")
    @task(7)
    def send(self) -> None:
        """Send a message."""
        self.user.send()

    @tag("list", "read")
    @task(2)
    def list_page(self) -> None:
        """List a page of a chat."""
        self.user.list_page()

    @tag("search", "read")
    @task
    @sends(Operation.SEARCH)
    def search(self) -> None:
        """Search a chat."""
        self.user.search()


class ManyTenantsUser(ChatUser):
    """200 applications of 50 chats."""

    tasks = [ManyTenantsTasks]  # noqa: RUF012  # Locust declares it so
    scenario = Scenario.MANY_TENANTS
    layout = ScenarioLayout(applications=200, chats=10_000)
