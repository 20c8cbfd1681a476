"""Each chat is followed live by two clients while users send: how soon and how faithfully it is delivered.

locust -f loadtest/scenarios/followers.py --host http://127.0.0.1:3000
"""

from locust import tag, task

from loadtest.corpus.fixtures import ScenarioLayout
from loadtest.run.choices import Scenario
from loadtest.users.chat_user import ChatTasks
from loadtest.users.followed_user import FollowedUser


class FollowersTasks(ChatTasks):
    """Every request sends one message; the followers are beside the users."""

    @tag("send")
    @task
    def send(self) -> None:
        """Send a message."""
        self.user.send()


class FollowersUser(FollowedUser):
    """16 applications, 64 chats, two followers each."""

    tasks = [FollowersTasks]  # noqa: RUF012  # Locust declares it so
    scenario = Scenario.FOLLOWERS
    layout = ScenarioLayout(applications=16, chats=64, followers_per_chat=2)
