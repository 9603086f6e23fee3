"""Which network addresses a URL from outside may lead to: those of the public internet, and no others."""

import ipaddress

# Reachable only from within a cloud, although their numbers are public: Azure's agent (https://learn.microsoft.com/azure/virtual-network/
# what-is-ip-address-168-63-129-16). Other metadata services have link-local or private numbers.
_CLOUD = {ipaddress.ip_address("168.63.129.16")}
# Not global, but some Python 3.11 releases call them global; Oracle's metadata service is in the first.
_MORE = [ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "3fff::/20")]
_UNICAST6 = ipaddress.ip_network("2000::/3")  # all addresses that are assigned; fec0::/10 is "global" to Python
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(text: str, *, loopback: bool = False) -> bool:
    """Whether the address is a public one: not private, loopback, link-local (metadata services), multicast or reserved.

    IPv6 addresses that carry an IPv4 one (mapped, NAT64) are judged by that; 6to4 and Teredo are refused.
    With `loopback`, for tests, this machine itself counts as public.
    """
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    if address.version == 6:
        carried = _carried(address)
        if carried is not None:
            return is_public(str(carried), loopback=loopback)
        inside = address not in _UNICAST6 or address.sixtofour is not None or address.teredo is not None
    else:
        inside = address.is_multicast or address.is_reserved
    if loopback and address.is_loopback:
        return True
    return address.is_global and not inside and address not in _CLOUD and not any(address in network for network in _MORE)


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address.ipv4_mapped
