"""Saving webhook endpoints, their secrets, and sending again."""

from billing import events, webhooks
from billing.models import Channel, Event, Subject, WebhookDelivery, WebhookEndpoint
from billing.operations import configuration
from billing.operations._common import one_transaction
from users.models import User


def save(endpoint: WebhookEndpoint, *, actor: User | None, channel: Channel) -> Event | None:
    """Saves an endpoint; a new one gets a secret. Returns the event; None if nothing changed.

    An endpoint with a new address, or one that was switched, starts over with what waits.
    """
    with one_transaction(dry_run=False):
        before = WebhookEndpoint.objects.filter(pk=endpoint.pk).first()
        if before is None:
            endpoint.secret = webhooks.new_secret()
        event = configuration.save(endpoint, actor=actor, channel=channel)
        if before is not None:
            if (before.url, before.is_active) != (endpoint.url, endpoint.is_active):
                webhooks.forget_failures(endpoint)
            webhooks.wake(endpoint.pk)
        return event


def renew_secret(endpoint_id: int, *, actor: User | None, channel: Channel) -> WebhookEndpoint:
    """Gives an endpoint a new secret, which signs what waits."""
    with one_transaction(dry_run=False):
        endpoint = WebhookEndpoint.objects.select_for_update().get(pk=endpoint_id)
        endpoint.secret = webhooks.new_secret()
        endpoint.save(update_fields=["secret"])
        webhooks.forget_failures(endpoint)
        _record(endpoint_id, "secret_renewed", actor, channel)
    return endpoint


def show_secret(endpoint_id: int, *, actor: User | None, channel: Channel) -> str:
    """Returns the secret, and records who saw it."""
    with one_transaction(dry_run=False):
        secret = WebhookEndpoint.objects.values_list("secret", flat=True).get(pk=endpoint_id)
        _record(endpoint_id, "secret_shown", actor, channel)
    return secret


def send_again(delivery: WebhookDelivery, *, actor: User | None, channel: Channel) -> Event:
    """Sends one delivery again."""
    with one_transaction(dry_run=False):
        webhooks.send_again(delivery)
        return events.record(
            Subject.WEBHOOK_ENDPOINT,
            delivery.endpoint_id,
            "delivery_sent_again",
            actor=actor,
            channel=channel,
            delivery=delivery.pk,
            type=delivery.event.type,
            user_id=delivery.user_id,
        )


def send_given_up_again(endpoint: WebhookEndpoint, *, actor: User | None, channel: Channel) -> int:
    """Sends again what was given up for an endpoint. Returns the number of deliveries."""
    with one_transaction(dry_run=False):
        count = webhooks.send_given_up_again(endpoint)
        if count:
            events.record(
                Subject.WEBHOOK_ENDPOINT,
                endpoint.pk,
                "given_up_sent_again",
                actor=actor,
                channel=channel,
                count=count,
            )
    return count


def _record(endpoint_id: int, action: str, actor: User | None, channel: Channel) -> Event:
    return events.record(
        Subject.WEBHOOK_ENDPOINT, endpoint_id, action, actor=actor, channel=channel
    )
