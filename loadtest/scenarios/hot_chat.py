"""All users in one chat: every number comes from one counter, and every row has one parent.

locust -f loadtest/scenarios/hot_chat.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.run.choices import Scenario
from loadtest.users.chat_user import ChatTasks, ChatUser


class HotChatTasks(ChatTasks):
    """Of 5 requests, 4 send a message and one lists a page."""

    @tag("send")
    @task(4)
    def send(self) -> None:
        """Send a message."""
        self.user.send()

    @tag("list", "read")
    @task
    def list_page(self) -> None:
        """List a page of a chat."""
        self.user.list_page()


class HotChatUser(ChatUser):
    """One application, one chat."""

    tasks = [HotChatTasks]  # noqa: RUF012  # Locust declares it so
    scenario = Scenario.HOT_CHAT
    layout = ScenarioLayout(applications=1, chats=1)
