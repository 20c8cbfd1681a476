"""Ten thousand chats of two hundred applications: nothing is ever warm twice.

locust -f loadtest/scenarios/many_tenants.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import Layout
from loadtest.users.chat_user import ChatTasks, ChatUser


class ManyTenantsTasks(ChatTasks):
    """Of 10 requests 7 messages, 2 pages, one search."""

    @tag("send")
    @task(7)
    def send(self) -> None:
        """Say something."""
        self.user.send()

    @tag("list", "read")
    @task(2)
    def list_newest(self) -> None:
        """Read a page."""
        self.user.list_newest()

    @tag("search", "read")
    @task
    def search(self) -> None:
        """Search a chat."""
        self.user.search()


class ManyTenantsUser(ChatUser):
    """200 applications of 50 chats."""

    tasks = [ManyTenantsTasks]  # noqa: RUF012  # as Locust declares it
    layout = Layout(applications=200, chats=10_000)
