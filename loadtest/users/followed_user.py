"""A user that sends messages to chats that are followed."""

from loadtest.users.chat_user import ChatUser
from loadtest.users.followers import followers


class FollowedUser(ChatUser):
    """Tells the followers of its process what was answered, and waits for them before it ends."""

    abstract = True

    def send(self) -> None:
        """Send a message to a random chat."""
        application, chat, number = self._send()
        if number is not None:
            followers().answered(application, chat, number)

    def on_stop(self) -> None:
        """Wait until what was answered is delivered."""
        followers().wait_caught_up()
