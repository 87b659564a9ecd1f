"""The network that a request comes from."""

from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

# Providers give each customer at least a /64 of IPv6 to choose addresses from.
IPV6_NETWORK_BITS = 64


def client_network(request: HttpRequest) -> str:
    """Returns the IPv4 address of a request's client, or the /64 network of its IPv6 address.

    Each of the PROXIES in front appends the address that it saw to X-Forwarded-For. The address
    that the outermost one saw counts. Addresses before it were sent by the client and prove
    nothing.
    """
    forwarded = request.headers.get("X-Forwarded-For", "")
    seen = [address.strip() for address in forwarded.split(",") if address.strip()]
    seen.append(request.META.get("REMOTE_ADDR", ""))
    # The last address is the one that this process sees itself.
    address = seen[-1 - settings.PROXIES] if len(seen) > settings.PROXIES else seen[-1]
    try:
        parsed = ip_address(address)
    except ValueError:  # a Unix socket has no address
        return address[:64]
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return f"{parsed.ipv4_mapped}"
        return f"{ip_network((int(parsed), IPV6_NETWORK_BITS), strict=False)}"
    return f"{parsed}"
