"""Where a request comes from."""

from ipaddress import IPv6Address, ip_address, ip_network

from django.conf import settings
from django.http import HttpRequest

# Of IPv6, providers give each customer at least so many bits to choose addresses from.
IPV6_NETWORK_BITS = 64


def client_network(request: HttpRequest) -> str:
    """The address that a request comes from; of IPv6, the network that its client has for itself.

    Behind proxies (PROXIES), each of which has appended the address that it saw to
    X-Forwarded-For, it is what the outermost of them saw. What stands before that is the client's
    own, and proves nothing.
    """
    forwarded = request.headers.get("X-Forwarded-For", "")
    seen = [address.strip() for address in forwarded.split(",") if address.strip()]
    seen.append(request.META.get("REMOTE_ADDR", ""))
    # The last one was seen by this process itself.
    address = seen[-1 - settings.PROXIES] if len(seen) > settings.PROXIES else seen[-1]
    try:
        parsed = ip_address(address)
    except ValueError:  # a socket of this machine has no address
        return address[:64]
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return f"{parsed.ipv4_mapped}"
        return f"{ip_network((int(parsed), IPV6_NETWORK_BITS), strict=False)}"
    return f"{parsed}"
