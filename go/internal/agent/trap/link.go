package trap

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"rekindle/internal/agent/netlink"
)

// interfaceOut is a dummy interface: it holds the addresses and the default routes of the guest, and nothing ever leaves by it.
const interfaceOut = "eth0"

// The guest's addresses. 192.0.0.0/29 is set aside for translation inside a host (RFC 7335), so it meets no network that an application
// makes or talks to; the IPv6 prefix is a unique local one, which resolvers rank below IPv4.
var (
	address4 = netip.MustParsePrefix("192.0.0.2/30")
	gateway4 = netip.MustParseAddr("192.0.0.1")
	address6 = netip.MustParsePrefix("fd72:656b:696e::2/64")
	gateway6 = netip.MustParseAddr("fd72:656b:696e::1")
)

// makeLink makes the interface with its addresses and routes.
func makeLink() error {
	if err := request("interface", newLink()); err != nil {
		return err
	}
	link, err := net.InterfaceByName(interfaceOut)
	if err != nil {
		return err
	}
	for _, address := range []netip.Prefix{address4, address6} {
		if err := request("address "+address.String(), newAddress(link.Index, address)); err != nil {
			return err
		}
	}
	for _, gateway := range []netip.Addr{gateway4, gateway6} {
		if err := request("route by "+gateway.String(), newRoute(link.Index, gateway)); err != nil {
			return err
		}
	}
	return nil
}

func request(what string, message netlink.Message) error {
	message.Flags = netlink.Create | netlink.Excl | netlink.Ack
	if err := netlink.Do(syscall.NETLINK_ROUTE, message); err != nil {
		return fmt.Errorf("make %s: %w", what, err)
	}
	return nil
}

func newLink() netlink.Message {
	const linkInfo, linkKind, mtu = 18, 1, 65535
	body := make([]byte, syscall.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[8:], syscall.IFF_UP)
	binary.NativeEndian.PutUint32(body[12:], syscall.IFF_UP)
	return netlink.Message{Type: syscall.RTM_NEWLINK, Body: netlink.Join(body,
		netlink.String(syscall.IFLA_IFNAME, interfaceOut),
		netlink.Host32(syscall.IFLA_MTU, mtu),
		netlink.Nest(linkInfo, netlink.String(linkKind, "dummy")))}
}

func newAddress(link int, address netip.Prefix) netlink.Message {
	const noDuplicateDetection = 0x02 // IFA_F_NODAD
	body := []byte{family(address.Addr()), byte(address.Bits()), noDuplicateDetection, syscall.RT_SCOPE_UNIVERSE}
	body = binary.NativeEndian.AppendUint32(body, uint32(link))
	value := address.Addr().AsSlice()
	return netlink.Message{Type: syscall.RTM_NEWADDR, Body: netlink.Join(body,
		netlink.Attr(syscall.IFA_LOCAL, value...), netlink.Attr(syscall.IFA_ADDRESS, value...))}
}

func newRoute(link int, gateway netip.Addr) netlink.Message {
	body := make([]byte, syscall.SizeofRtMsg)
	body[0] = family(gateway)
	body[4] = syscall.RT_TABLE_MAIN
	body[5] = syscall.RTPROT_BOOT
	body[6] = syscall.RT_SCOPE_UNIVERSE
	body[7] = syscall.RTN_UNICAST
	return netlink.Message{Type: syscall.RTM_NEWROUTE, Body: netlink.Join(body,
		netlink.Attr(syscall.RTA_GATEWAY, gateway.AsSlice()...), netlink.Host32(syscall.RTA_OIF, uint32(link)))}
}

func family(address netip.Addr) byte {
	if address.Is4() {
		return syscall.AF_INET
	}
	return syscall.AF_INET6
}

// raiseLoopback brings lo up; the kernel gives it its addresses.
func raiseLoopback() error {
	const loopback = 1 // always
	body := make([]byte, syscall.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(body[4:], loopback)
	binary.NativeEndian.PutUint32(body[8:], syscall.IFF_UP)
	binary.NativeEndian.PutUint32(body[12:], syscall.IFF_UP)
	if err := netlink.Do(syscall.NETLINK_ROUTE, netlink.Message{Type: syscall.RTM_NEWLINK, Flags: netlink.Ack, Body: body}); err != nil {
		return fmt.Errorf("raise lo: %w", err)
	}
	return nil
}
